"""How a run ended, in words: what its status means, and what to try."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from expreg.residual import LOSSES

STALLED = 1.0  # a run that stops with more damping than this found no step that lowers the loss

_SENTENCES: dict[str, tuple[str, tuple[str, ...]]] = {
    "max_steps": ("the gradient is above the tolerance after the whole budget", ("rows", "steps", "faster", "nearer")),
    "stalled": (
        "no step lowers the loss any further, by rounding or because the curvature is singular",
        ("rows", "f64", "tolerance", "weight"),
    ),
    "diverged": ("the loss grew without bound", ("newton", "smaller")),
    "nonfinite": ("a number left the range of the precision", ("f64", "smaller", "softmax")),
    "collapsed": ("alpha went to 0: the rescaled loss vanishes without a fit (E.37)", ("fits", "centred", "weight")),
    "trivial": ("x went to 0, where sinh vanishes (E.38)", ("losses", "start")),
    "flat": (
        "the loss is flat here, and lower elsewhere: activations are saturated, or columns nearly dependent",
        ("smaller", "weight"),
    ),
    "unbounded": (
        "the loss has no minimum here: it falls as long as logits grow, so that x depends on the tolerance only",
        ("weight", "positive"),
    ),
}
IN_A_CALL = {
    "rows": "sketch leverage",
    "steps": "more steps",
    "f64": "float64",
    "tolerance": "a larger tol",
    "weight": "weights > 0",
    "newton": "solver newton",
    "faster": "solver newton",
    "nearer": "a start nearer by",
}
IN_A_CONFIG = {
    "rows": "solver.sketch leverage",
    "steps": "solver.max_steps",
    "f64": "precision f64",
    "tolerance": "a larger solver.tolerance",
    "weight": "problem.weight > 0",
    "newton": "solver.name newton",
}
_ADVICE = {
    "smaller": "a start with smaller logits",
    "start": "another start",
    "softmax": "the softmax loss, which never overflows (E.35)",
    "fits": "the softmax or the projective loss",
    "centred": "centred rows of A",
    "positive": "targets without zeros",
}


def sentence(
    status: str,
    damping: float,
    words: Mapping[str, str],
    *,
    solver: str,
    loss: str,
    dtype: Any,
    weighted: bool,
    sketch: str | None = None,
) -> str:
    """Return what a status means and what to try, none of it done already; empty where all is well."""
    what, advice = _SENTENCES.get("stalled" if status == "max_steps" and damping > STALLED else status, ("", ()))
    if not what:
        return ""
    others = [name for name in LOSSES if name not in (loss, "rescaled")]
    texts = {**_ADVICE, **words, "losses": f"the {', '.join(others[:-1])} or {others[-1]} loss"}
    done = {
        "rows": sketch != "uniform",
        "f64": np.dtype(dtype) == np.float64,
        "newton": solver == "newton",
        "faster": solver == "newton",
        "softmax": LOSSES[loss].bounded,
        "weight": weighted,
    }
    left = [texts[name] for name in advice if name in texts and not done.get(name)]
    if not left:
        return what
    return f"{what}; try {', '.join(left[:-1])}{' or ' if left[1:] else ''}{left[-1]}"
