"""Figures and HTML from rows and their summary; imports neither jax nor anything that computes."""

from expreg.report.chain import verdict_table
from expreg.report.drawing import figures
from expreg.report.page import write

__all__ = ["figures", "verdict_table", "write"]
