"""Figures and HTML from rows and their summary; imports neither jax nor anything that computes."""

from expreg.report.drawing import figures
from expreg.report.page import write
from expreg.report.words import verdict_table

__all__ = ["figures", "verdict_table", "write"]
