"""Random networks and data to start from, of known shape and size."""

import numpy as np
from oracles import sphere


def start(seed, n=3, d=3, m=64, *, init="coupled", size=1.0):
    """Return (X, y, W, a) with unit points and targets of about `size`, around f(0) where that is not 0."""
    rng = np.random.default_rng(seed)
    X, W, a = sphere(rng, n, d), rng.normal(size=(d, m)), rng.choice([-1.0, 1.0], m)
    if init == "coupled":
        W, a = np.tile(W[:, : m // 2], 2), np.concatenate([a[: m // 2], -a[: m // 2]])
    return X, size * rng.choice([-1.0, 1.0], n), W, a
