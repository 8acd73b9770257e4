"""The Keras model of a job, and the mathematics of one step of it."""
