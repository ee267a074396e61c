"""How a run ended, one sentence per status, for `expreg.solve` and for the rows of a sweep."""

from collections.abc import Mapping

STALLED = 1.0
"""A run that stops with more damping than this found no step that lowers the loss."""

_SENTENCES = {
    "max_steps": "the gradient is above the tolerance after the whole budget; try {max_steps}",
    "stalled": "no step lowers the loss any further, by rounding or because the curvature is singular; "
    "try {f64}, a larger {tolerance}, or {weight} > 0",
    "diverged": "the loss grew without bound; try {solver} newton or a start nearer to 0",
    "nonfinite": "a number left the range of the precision; try {f64}, a start with smaller logits, or the softmax "
    "loss, which never overflows (E.35)",
    "collapsed": "alpha went to 0: the rescaled loss vanishes without a fit (E.37); try the softmax or the projective "
    "loss, centred rows of A, or {weight} > 0",
    "trivial": "x went to 0, where sinh vanishes (E.38); try the softmax, projective or exponential loss, or another "
    "start",
}
IN_A_CALL = {
    "max_steps": "more steps, solver newton, or a start nearer by",
    "f64": "float64",
    "tolerance": "tol",
    "weight": "weights",
    "solver": "solver",
}
IN_A_CONFIG = {
    "max_steps": "solver.max_steps",
    "f64": "precision f64",
    "tolerance": "solver.tolerance",
    "weight": "problem.weight",
    "solver": "solver.name",
}


def sentence(status: str, damping: float, settings: Mapping[str, str]) -> str:
    """Return what a status means and what to try, in the words of a call or of a config; empty where all is well."""
    key = "stalled" if status == "max_steps" and damping > STALLED else status
    return _SENTENCES.get(key, "").format_map(settings)
