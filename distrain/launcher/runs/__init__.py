"""Runs as they lie on the disk: their directories, checkpoints and locks, and those that read them afterwards."""
