"""Solvers of the regression family: one driver, each method an (init, step) pair (F.1-F.16)."""

from expreg.solver.method import make
from expreg.solver.state import Method, Point, Problem, State

__all__ = ["Method", "Point", "Problem", "State", "make"]
