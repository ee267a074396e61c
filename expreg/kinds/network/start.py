"""What a network cell starts from: points, labels, the spectrum of H^cts, the neurons, and how wide its program is.

Where the theory of its activation is unknown, so is everything about H^cts: None on the host, nan in a program.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np

from expreg import data, ntk, theory
from expreg.activation import lookup
from expreg.core.config.parts import once_for
from expreg.core.engine import devices
from expreg.kinds.network import events
from expreg.network import initialise
from expreg.types import PRECISIONS, Array, Row, Settings

BRANCHES = {"coupled": 2, "iid": 1}
MERGED, MERGED_ELEMENTS, COARSE = 1024, 2**17, 2**17
"""Networks of at most MERGED neurons and MERGED_ELEMENTS = n x m share one program; up to COARSE neurons, widths within
a factor of four do. Padding costs less there than another compilation."""
GROUP, GROUP_NUMBERS, GRAM_NUMBERS = 256, 2**18, 2**14
"""Most replicates that are computed together, and most numbers of a group: coordinates that are drawn, and entries of
H^cts, so that no replicate waits long for the others."""
SIZES, KEPT, KEPT_NUMBERS = 8, 2**13, 2**24
"""Sizes whose problems are kept, for all lanes of a program; most problems of a size, and numbers in them (128 MB)."""


class Problem(NamedTuple):
    """The data of one replicate and the spectrum of its H^cts; shared by all widths."""

    X: np.ndarray  # (n, d) float64
    y: np.ndarray  # (n,) float64
    key: np.ndarray  # (2,) uint32, of the neuron stream
    modes: ntk.Modes | None  # of H^cts
    extremes: Sequence[float | None]  # the smallest and the largest eigenvalue of H^cts
    gram_norm: float  # ||X||^2, spectral
    length: float  # max ||x_i||
    label_norm: float  # ||y||
    error: float | None  # m E ||H(0) - H^cts||_F^2 (B.11) of independent neurons


@jax.jit
def _keys(seed: Array, replicates: Array, n: Array, d: Array) -> Array:
    """Return independent keys for points, labels and neurons (A.14) of each replicate, as data (replicates, 3, 2)."""

    def of(replicate: Array) -> Array:
        key = jax.random.key(seed)
        for part in (replicate, n, d):
            key = jax.random.fold_in(key, part)
        return jax.random.key_data(jax.random.split(key, 3))

    return jax.vmap(of)(replicates)


@lru_cache(maxsize=16)
def _drawn(data_text: str, seed: int, replicates: range) -> list[tuple[Array, Array, Array]]:
    """Return (X, y, key of the neurons) of each of these replicates, all drawn at once."""
    settings = json.loads(data_text)
    # the whole context is part of JAX's trace cache: set here, data compiles once for every caller
    with jax.enable_x64(True), jax.default_matmul_precision("highest"), jax.default_device(devices.host()):
        keys = np.asarray(_keys(seed, np.arange(replicates.start, replicates.stop), settings["n"], settings["d"]))
        sets = data.draw(settings, *(jax.random.wrap_key_data(jax.numpy.asarray(keys[:, i])) for i in (0, 1)))
    return [(X, y, key) for (X, y), key in zip(sets, keys[:, 2], strict=True)]


def _problems(data_text: str, activation: str, seed: int, replicates: range) -> list[Problem]:
    """Return the problems of these replicates, all computed at once."""
    settings, phi = json.loads(data_text), lookup(activation)
    numbers = settings["n"] * settings["d"]
    groups = [_group(settings, replicate, GROUP_NUMBERS // numbers) for replicate in replicates]
    drawn = [_drawn(data_text, seed, group)[one - group.start] for one, group in zip(replicates, groups, strict=True)]
    points, labels, keys = zip(*drawn, strict=True)
    X = np.stack(points)
    found: dict[str, Any] = dict.fromkeys(Problem._fields, [None] * len(X))
    found |= {"X": X, "y": labels, "key": keys, "extremes": [(None, None)] * len(X)}
    if phi.expectation is not None:
        modes = ntk.modes(ntk.infinite(X, activation=activation))
        found |= {"modes": map(ntk.Modes, *modes), "extremes": modes.values[:, [0, -1]].tolist()}
    if phi.variance is not None:
        found["error"] = ntk.expected_squared_error(X, 1, init="iid", activation=activation).tolist()
    found["gram_norm"] = [norm**2 for norm in np.linalg.norm(X, 2, axis=(1, 2)).tolist()]
    found["length"] = np.linalg.norm(X, axis=2).max(axis=1).tolist()
    found["label_norm"] = [float(np.linalg.norm(y)) for y in labels]
    return list(map(Problem, *found.values()))


@lru_cache(maxsize=SIZES)
def _kept(size: int, numbers: int) -> Callable[..., list[Problem]]:
    """Return `_problems` that keeps what it has found: groups of this size, whose problems have so many numbers."""
    return lru_cache(maxsize=max(1, min(KEPT, KEPT_NUMBERS // numbers) // size))(_problems)


def _group(options: Mapping[str, Any], replicate: int, most: int) -> range:
    """Return the replicates with which one is always computed: its numbers must not depend on who asks."""
    size = max(1, min(GROUP, most)) if data.together(options) else 1
    first = replicate // size * size
    return range(first, first + size)


@once_for("data")
def _data_text(settings: Settings) -> str:
    return json.dumps(settings["data"])


def problem(settings: Settings) -> Problem:
    """Return the data set of a cell; cells that differ in anything but the data share it."""
    options, replicate = settings["data"], settings["replicate"]
    n, text = options["n"], _data_text(settings)
    group = _group(options, replicate, GRAM_NUMBERS // n**2)
    kept = partial(_kept(len(group), n * (n + options["d"])), text, settings["network"]["activation"], settings["seed"])
    try:
        return kept(group)[replicate - group.start]
    except np.linalg.LinAlgError:  # raised for all where the numbers of one are not finite
        return kept(range(replicate, replicate + 1))[0]


def bucket(m: int, smallest: int, coarse: int = COARSE) -> int:
    """Return the padded width of a cell's program: a power of four up to `coarse`, then of two; at least `smallest`."""
    power = (max(m, smallest) - 1).bit_length()
    return 1 << (power + power % 2 if 1 << power <= coarse else power)


def spread(count: int) -> int:
    """Return the padded number of columns of a network that is spread over devices: a multiple of 5040.

    That many up to 10 devices divide, and 12, 14, 15 and 16; for each doubling beyond 2^17 columns also twice as many.
    """
    grain = 5040 << max(0, count.bit_length() - 17)
    return -(-count // grain) * grain


def shape(settings: Settings, judged: Iterable[str]) -> dict[str, Any]:
    """Return what is static in every program of networks: sizes, number type, and whether an event needs the radii."""
    network, n = settings["network"], settings["data"]["n"]
    branches = BRANCHES[network["init"]]
    return {
        "n": n,
        "d": settings["data"]["d"],
        "neurons": bucket(network["m"], min(MERGED, MERGED_ELEMENTS // n)) // branches,
        "branches": branches,
        "activation": network["activation"],
        "dtype": PRECISIONS[settings["precision"]].__name__,
        "reach": any("reach" in events.EVENTS[name].needs for name in judged),
    }


def arrays(settings: Settings, found: Problem) -> dict[str, Array]:
    """Return what every program of networks starts from, in the cell's precision."""
    real = PRECISIONS[settings["precision"]]
    lam, _ = found.extremes
    return {
        "X": found.X.astype(real),
        "y": found.y.astype(real),
        "key": found.key,
        "m": np.int64(settings["network"]["m"]),
        "scale": real(settings["network"]["scale"]),
        "lambda_cts": real(math.nan if lam is None else lam),
        "gram_norm": real(found.gram_norm),
    }


def inputs(settings: Settings) -> dict[str, Array]:
    """Return the arrays that the cell starts from: X (n, d), y (n,), W (d, m), a (m,)."""
    found, network = problem(settings), settings["network"]
    key = jax.random.wrap_key_data(jax.numpy.asarray(found.key))
    W, a = initialise(key, network["m"], settings["data"]["d"], init=network["init"])
    real = PRECISIONS[settings["precision"]]
    return {name: np.asarray(v).astype(real) for name, v in {"X": found.X, "y": found.y, "W": W, "a": a}.items()}


def row(facts: events.Facts) -> Row:
    """Return the columns that every network has: its sizes, its data and their spectrum, its start, its events."""
    settings, found, record = facts.settings, facts.problem, facts.record
    network, (lowest, highest) = settings["network"], found.extremes
    branches = BRANCHES[network["init"]]
    return {
        "n": settings["data"]["n"],
        "d": settings["data"]["d"],
        "m": network["m"],
        "activation": network["activation"],
        "init": network["init"],
        "scale": float(network["scale"]),
        "data": settings["data"]["kind"],
        "labels": settings["data"]["labels"]["kind"],
        "lambda_cts": lowest,
        "lambda_max_cts": highest,
        "gram_norm": found.gram_norm,
        "frobenius_expected": None if found.error is None else math.sqrt(found.error * branches / network["m"]),
        "label_norm": found.label_norm,
        **{name: float(record[name]) if name in record else None for name in START},
        **_reach(record, found),
        **events.row(facts),
    }


def certify(settings: Settings, arrays: Mapping[str, Array], refined: bool) -> Any:
    """Return the certificate of the arrays that a cell starts from."""
    from expreg.certificate import certify as certificate

    network = settings["network"]
    return certificate(**arrays, activation=network["activation"], scale=network["scale"], refined=refined)


START = ("lambda_0", "lambda_max_0", "frobenius_error", "spectral_error")


def _reach(record: Mapping[str, Array], found: Problem) -> Row:
    """Return the radii of the proof, the certificate and the lazy movement; None where they are undefined."""
    names = ("radius", "refined_movement", "eta_certified", "movement_linearised")
    lam, _ = found.extremes
    if "radius" not in record or lam is None:
        return dict.fromkeys((*names, "radius_frobenius", "lambda_certificate"))
    frobenius = theory.radius_frobenius(lam / found.length**2, len(found.y), float(record["largest"])) / found.length
    row = {name: events.finite(record.get(name, math.nan)) for name in names}
    certificate = events.CERTIFIED * float(record["lambda_0"])
    return row | {"radius_frobenius": events.finite(frobenius), "lambda_certificate": events.finite(certificate)}
