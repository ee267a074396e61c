"""All kinds of data and labels by name, and the one function that makes a data set from its settings."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from expreg.data import generators, labels
from expreg.data.digits import digits
from expreg.data.files import read_file
from expreg.data.validate import check_settings
from expreg.errors import InputError, Problem

Options = Mapping[str, Any]
Points = tuple[Any, Any]  # X (n, d) and the labels that come with it (n,) or None

# Compiled once per (n, d): a sweep draws thousands of data sets of the same shape.
_sphere = jax.jit(generators.sphere, static_argnums=(1, 2))
_orthonormal = jax.jit(generators.orthonormal, static_argnums=(1, 2))
_equiangular = jax.jit(generators.equiangular, static_argnums=1)
_near_duplicate = jax.jit(generators.near_duplicate, static_argnums=(1, 2))
_sign = jax.jit(labels.sign, static_argnums=1)
_teacher = jax.jit(labels.teacher, static_argnums=2)


def _digits(options: Options, key: jax.Array) -> Points:
    return digits(key, options["n"], classes=options.get("classes", (3, 8)), centre=options.get("centre", False))


def _given(_: Options, __: jax.Array, ___: Any, y: Any) -> Any:
    if y is None:
        message = "the data has no labels; expected kind sign or teacher, or a file with y"
        raise InputError(Problem("E-DATA", message, key="data.labels"))
    return y


# Each takes the `data` settings and a key.
DATA: dict[str, Callable[[Options, jax.Array], Points]] = {
    "sphere": lambda options, key: (_sphere(key, options["n"], options["d"]), None),
    "orthonormal": lambda options, key: (_orthonormal(key, options["n"], options["d"]), None),
    "equiangular": lambda options, key: (_equiangular(key, options["n"], float(options["coherence"])), None),
    "near_duplicate": lambda options, key: (
        _near_duplicate(key, options["n"], options["d"], float(options["angle"])),
        None,
    ),
    "digits": _digits,
    "file": lambda options, _: read_file(options),
}

# Each takes the `data.labels` settings, a key, the points and the labels that came with them.
LABELS: dict[str, Callable[[Options, jax.Array, Any, Any], Any]] = {
    "sign": lambda _, key, X, __: _sign(key, X.shape[0]),
    "teacher": lambda options, key, X, _: _teacher(key, X, options.get("m", 4), float(options.get("scale", 1.0))),
    "given": _given,
}


def make(options: Options, key_points: jax.Array, key_labels: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return the data set (X, y) of the `data` settings, (n, d) and (n,), float64 on the host.

    A pure function of settings and keys, the same on every machine: drawn on the CPU in float64 whatever the
    precision of the run. The two keys must be independent of each other and of those of the network (A.14).
    Labels default to `given` for digits and files, to `sign` otherwise. Raises InputError for settings that
    contradict each other; call `validate` for what may be wrong with the arrays.
    """
    problems = check_settings(options)
    if problems:
        raise InputError(problems)
    asked = options.get("labels") or {"kind": default_labels(options["kind"])}
    with jax.enable_x64(True), jax.default_device(_cpu()):
        X, y = DATA[options["kind"]](options, jax.device_put(key_points, _cpu()))
        y = LABELS[asked["kind"]](asked, jax.device_put(key_labels, _cpu()), X, y)
        return np.asarray(X, dtype=np.float64), np.asarray(y, dtype=np.float64)


def default_labels(kind: str) -> str:
    """Return the kind of labels that data of this kind has when none is asked for."""
    return "given" if kind in ("digits", "file") else "sign"


@lru_cache(maxsize=1)
def _cpu() -> jax.Device | None:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # the CPU is excluded by JAX_PLATFORMS: draw where the run is
        return None
