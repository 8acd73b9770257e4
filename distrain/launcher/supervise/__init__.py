"""Decides what becomes of a run: pure functions on frozen values. `decide` is where to begin."""
