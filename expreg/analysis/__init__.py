"""Rows to thresholds, exponents and verdicts. Needs numpy, scipy and pandas, never jax."""

from expreg.analysis.summary import summarise

__all__ = ["summarise"]
