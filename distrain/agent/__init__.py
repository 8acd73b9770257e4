"""One process per host: starts tasks, passes on what they say, and leaves none behind. Standard library only."""
