"""A training from its parts to its end, and the task that evaluates beside it."""
