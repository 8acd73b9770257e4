"""The hosts of a run: how an agent gets there, what is said to it and heard from it, and the files that travel."""
