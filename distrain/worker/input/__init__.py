"""From examples to the batches that a task is fed."""
