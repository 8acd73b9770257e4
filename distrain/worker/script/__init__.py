"""A user's script as a task, and what it may call."""
