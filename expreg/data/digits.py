"""The handwritten digits bundled with scikit-learn, 8 x 8 images: real data without a download."""

from collections.abc import Sequence
from functools import lru_cache

import jax
import numpy as np

from expreg.errors import InputError, Problem

FEATURES = 64


def digits(
    key: jax.Array, n: int, *, classes: Sequence[int] = (3, 8), centre: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Choose n different images of two classes; return unit rows X, (n, 64), and labels y, (n,).

    y is +1 for the first class and -1 for the second. Half of each class (the first has one more when n is
    odd), every subset equally likely, in random order. `centre` subtracts the mean image of all images of
    the two classes before the rows are normalised: raw images are non-negative and so strongly correlated
    that lambda_max grows with n. Runs on the host. Raises InputError when a class has too few images.
    """
    images, owners = _images()
    # one shape whatever n is, so that one program draws all subsets
    ranks, order = np.asarray(jax.random.uniform(key, (2, len(images))))
    chosen = []
    for label, wanted in zip(classes, ((n + 1) // 2, n // 2), strict=True):
        members = np.flatnonzero(owners == label)
        if wanted > len(members):
            rule = f"expected at most {2 * len(members)}: class {label} has {len(members)} images"
            raise InputError(Problem("E-RANGE", f"got {n}, {rule}", key="data.n"))
        chosen.append(members[np.argsort(ranks[members], kind="stable")[:wanted]])
    rows = np.concatenate(chosen)[np.argsort(order[:n], kind="stable")]
    X = images[rows]
    if centre:
        X = X - images[np.isin(owners, classes)].mean(axis=0)
    return X / np.linalg.norm(X, axis=1, keepdims=True), np.where(owners[rows] == classes[0], 1.0, -1.0)


@lru_cache(maxsize=1)
def _images() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits  # slow to import: only when digits are asked for

    bunch = load_digits()
    return bunch.data, bunch.target
