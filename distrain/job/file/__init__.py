"""The job file as text: what `load` reads it with, from bytes to values, and every complaint on the way."""
