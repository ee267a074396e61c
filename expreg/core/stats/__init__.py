"""Success curves, thresholds, exponents and their intervals: NumPy, SciPy and pandas, never JAX."""
