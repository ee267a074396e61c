"""Solvers of the regression family: one driver, each method an (init, step) pair (F.1-F.16)."""

from expreg.solver.degenerate import Collapse, collapse
from expreg.solver.edge import Solution, continuation, solve
from expreg.solver.method import make
from expreg.solver.state import Method, Point, Problem, State

__all__ = ["Collapse", "Method", "Point", "Problem", "Solution", "State", "collapse", "continuation", "make", "solve"]
