"""Inside every task: the only code that imports TensorFlow and Keras."""
