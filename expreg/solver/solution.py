"""What `expreg.solve` returns."""

import sys
from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from expreg.output import counted, table
from expreg.types import Array, Status


class Solution(NamedTuple):
    """What `solve` found, whatever it minimised.

    - `x` (d,): the last point. `status`: converged (at a minimum), max_steps, diverged, nonfinite, collapsed,
      trivial, flat or unbounded; `message`: what that means here and what to try.
    - `steps`; `loss`: the minimised loss with its regulariser; `gradient_norm`: the 2-norm of its gradient;
      `decrement`: the gain that the quadratic model expected of the last step (F.14).
    - `alpha`, `softmax_residual`, `projective_loss`, `max_logit`: as `residual.summary` defines them.
    - `history`: one dict per step: step, loss, gradient_norm, relative (what tol bounds), passes, seconds.

    Of several problems every field but `history`, which is empty, has a first axis of problems. Under jit and vmap
    `status` is a number of `expreg.types.Status` and `message` is None.
    """

    x: Array
    status: str
    message: str
    steps: int
    loss: float
    gradient_norm: float
    decrement: float
    alpha: float
    softmax_residual: float
    projective_loss: float
    max_logit: float
    history: list[dict[str, float]]

    def __repr__(self) -> str:
        """Return one line: how it ended, the loss, the shape of x."""
        return f"Solution({self._ended()}, loss {_range(self.loss)}, x of shape {np.shape(self.x)})"

    def _repr_html_(self) -> str:
        """Return a table of the numbers, for notebooks."""
        names = ("loss", "gradient_norm", "alpha", "softmax_residual", "projective_loss", "max_logit")
        shown = {"status": self._ended(), **{name: _range(getattr(self, name)) for name in names}}
        shown["x"] = np.array2string(np.asarray(self.x), precision=6, threshold=12) if not traced(self.x) else "traced"
        return table({**shown, "message": self.message})

    def _ended(self) -> str:
        if traced(self.status):
            return "traced"
        names = [each if isinstance(each, str) else Status(int(each)).name for each in np.atleast_1d(self.status)]
        if np.ndim(self.status):
            return ", ".join(f"{count} {name}" for name, count in Counter(names).items())
        return f"{names[0]} after {counted(self.steps, 'step')}"


def traced(*values: Any) -> bool:
    """Return whether any array in these trees is a tracer of JAX, which this does not import."""
    jax = sys.modules.get("jax")
    return jax is not None and any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values))


def _range(value: Array) -> str:
    if traced(value):
        return "traced"
    low, high = (f"{float(bound):.6g}" for bound in (np.min(value), np.max(value)))
    return low if low == high else f"{low} to {high}"
