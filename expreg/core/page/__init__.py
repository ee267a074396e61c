"""Figures and the HTML page: imports neither JAX nor anything that computes."""
