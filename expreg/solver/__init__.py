"""Solvers of the regression family: records, one step, one loop, on the host and compiled (F.1-F.16)."""

from importlib import import_module
from typing import Any

_HOMES = {
    **dict.fromkeys(("Collapse", "collapse", "continuation", "solve"), "edge"),
    **dict.fromkeys(("SKETCHES", "SOLVERS", "Sketch", "Solver", "chosen"), "records"),
    **dict.fromkeys(("Method", "Point", "Problem", "State"), "state"),
    "make": "method",
    "Solution": "solution",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import what is asked for: a config asks for the names of the solvers, and that must not import JAX."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
