"""What outputs and vectors are measured by: pure functions of them, no model."""
