"""Can the rescaled loss of exp collapse on this A? A linear programme decides (E.37)."""

from typing import Any, NamedTuple

import numpy as np

from expreg.types import Array

MARGIN = 1e-9


class Collapse(NamedTuple):
    """`possible`: whether some p has A p > 0, along which L_resc(-t p) -> 0; such a `direction` (d,), and min A p."""

    possible: bool
    direction: Array
    margin: float


def collapse(A: Any) -> Collapse:
    """Maximise t subject to A p >= t, |p_j| <= 1 (E.37), for a dense or scipy sparse A (n, d).

    Collapse is possible where the maximum is positive: centre the rows of A, or use another loss. It is certain for
    n <= d, and for generic symmetric random rows has probability 1/2 at n = 2 d (E.40).
    """
    from scipy import optimize, sparse

    n, d = A.shape
    margins = np.ones((n, 1))
    plain = not sparse.issparse(A)
    rows: Any = np.hstack([A, -margins]) if plain else sparse.hstack([A, -sparse.csr_array(margins)])
    bounds = [(-1.0, 1.0)] * d + [(None, None)]
    found = optimize.linprog(np.append(np.zeros(d), -1.0), A_ub=-rows, b_ub=np.zeros(n), bounds=bounds, method="highs")
    if found.x is None:  # p = 0, t = 0 is feasible and t is bounded, so this is the solver's own failure
        raise ArithmeticError(f"the linear programme was not solved: {found.message}")
    margin = float(found.x[-1])
    return Collapse(margin > MARGIN, found.x[:-1], margin)
