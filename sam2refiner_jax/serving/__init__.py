"""Programs that leave Python: compiled functions of named arrays, in files that need only JAX and NumPy to run."""
