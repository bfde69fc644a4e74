"""Evaluation: predictions by one of two readouts, metrics from predictions alone."""
