"""Metrics of output texts and of projector vectors: pure functions, no model."""
