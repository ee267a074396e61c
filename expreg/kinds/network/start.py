"""What a network cell starts from: points, labels, the spectrum of H^cts, the neurons, and how wide its program is."""

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np

from expreg import data, ntk
from expreg.network import initialise
from expreg.types import Array, Row, Settings

PRECISIONS: dict[str, type[np.float32] | type[np.float64]] = {"f32": np.float32, "f64": np.float64}
BRANCHES = {"coupled": 2, "iid": 1}
SMALLEST_PROGRAM = 8192
"""Elements n x m below which a wider bucket costs less than compiling another program."""


class Problem(NamedTuple):
    """The data of one replicate and the spectrum of its H^cts; shared by all widths."""

    X: np.ndarray  # (n, d) float64
    y: np.ndarray  # (n,) float64
    key: np.ndarray  # (2,) uint32, of the neuron stream
    modes: ntk.Modes  # of H^cts
    gram_norm: float  # ||X||^2, spectral
    length: float  # max ||x_i||
    error: float  # m E ||H(0) - H^cts||_F^2 (B.11) of independent neurons

    @property
    def eigenvalues(self) -> np.ndarray:
        """Return the eigenvalues of H^cts, ascending."""
        return self.modes.values


@jax.jit
def _keys(seed: Array, replicate: Array, n: Array, d: Array) -> Array:
    """Return independent key data for points, labels and neurons (A.14)."""
    key = jax.random.key(seed)
    for part in (replicate, n, d):
        key = jax.random.fold_in(key, part)
    return jax.random.key_data(jax.random.split(key, 3))


@lru_cache(maxsize=512)
def _problem(data_text: str, activation: str, seed: int, replicate: int) -> Problem:
    settings = json.loads(data_text)
    points, labels, neurons = np.asarray(_keys(seed, replicate, settings["n"], settings["d"]))
    X, y = data.make(settings, jax.random.wrap_key_data(points), jax.random.wrap_key_data(labels))
    return Problem(
        X,
        y,
        neurons,
        ntk.modes(ntk.infinite(X, activation=activation)),
        gram_norm=float(np.linalg.norm(X, 2)) ** 2,
        length=float(np.linalg.norm(X, axis=1).max()),
        error=float(ntk.expected_squared_error(X, 1, init="iid", activation=activation)),
    )


def problem(settings: Settings) -> Problem:
    """Return the data set of a cell; cells that differ in anything but the data share it."""
    text = json.dumps(settings["data"], sort_keys=True)
    host = jax.local_devices(backend="cpu")[0]
    # the whole context is part of JAX's trace cache: set here, data compiles once for every caller
    with jax.enable_x64(True), jax.default_matmul_precision("highest"), jax.default_device(host):
        return _problem(text, settings["network"]["activation"], settings["seed"], settings["replicate"])


def bucket(m: int, n: int, *, base: int = 2) -> int:
    """Return the padded width of a cell's program: the next power of the base, small ones merged."""
    power = max(m - 1, SMALLEST_PROGRAM // (1 << (n - 1).bit_length()) - 1).bit_length()
    each = (base - 1).bit_length()
    return int(1 << each * -(-power // each))


def inputs(settings: Settings) -> dict[str, Array]:
    """Return the arrays that the cell starts from: X (n, d), y (n,), W (d, m), a (m,)."""
    found, network = problem(settings), settings["network"]
    real = PRECISIONS[settings["precision"]]
    W, a = initialise(
        jax.random.wrap_key_data(jax.numpy.asarray(found.key)),
        network["m"],
        settings["data"]["d"],
        init=network["init"],
    )
    arrays = {"X": found.X, "y": found.y, "W": W, "a": a}
    return {name: np.asarray(value).astype(real) for name, value in arrays.items()}


def identity(settings: Settings, found: Problem) -> Row:
    """Return the columns that say what a cell is: its sizes, its data and their spectrum."""
    network = settings["network"]
    return {
        "n": settings["data"]["n"],
        "d": settings["data"]["d"],
        "m": network["m"],
        "activation": network["activation"],
        "init": network["init"],
        "scale": float(network["scale"]),
        "data": settings["data"]["kind"],
        "labels": settings["data"]["labels"]["kind"],
        "lambda_cts": float(found.eigenvalues[0]),
        "lambda_max_cts": float(found.eigenvalues[-1]),
        "gram_norm": found.gram_norm,
        "frobenius_expected": math.sqrt(found.error * BRANCHES[network["init"]] / network["m"]),
        "label_norm": float(np.linalg.norm(found.y)),
    }


def certify(settings: Settings, arrays: Mapping[str, Array], refined: bool) -> Any:
    """Return the certificate of the arrays that a cell starts from."""
    from expreg.certificate import certify as certificate

    network = settings["network"]
    return certificate(**arrays, activation=network["activation"], scale=network["scale"], refined=refined)
