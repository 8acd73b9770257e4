"""Comparing ways to run a job: a sweep of short runs, and what their figures mean."""
