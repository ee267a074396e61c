"""Attention heads of language models, bundled or of the user's own: real matrices for softmax regression.

Bundled are the queries and keys of eight heads of `all-MiniLM-L6-v2` (sentence-transformers, licence Apache-2.0; 6
layers of 12 heads of dimension 32) on one English text of 276 tokens, the opening of a declaration of 1776. The keys
are divided by sqrt(32), so the logits of query q are `keys @ q`. Stored in float16: the rounded numbers *are* the
data, and every figure of this package is about them. Imports no JAX.
"""

import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np

from expreg.core.config.fields import Block, Fault, FilePath, Number, key
from expreg.data.arrays import Options
from expreg.data.files import check_unchanged, read_arrays, sha256
from expreg.errors import InputError, Problem

HEADS = ((0, 0), (0, 2), (0, 5), (2, 2), (2, 8), (2, 11), (5, 5), (5, 8))
"""The bundled heads as (layer, head). Logits reach 70 in (0, 2), where attention is nearly one-hot; in (0, 0)
a row spreads over 190 tokens."""


TOKENS, FEATURES = 276, 32

Index = Annotated[int, Number(integer=True, least=0, most=11)]


class Head(Block):
    """The keys of a config that name a bundled head and one of its queries."""

    layer: Index = key(0, "layer of the head, one of the eight that are bundled")
    head: Index = key(0, "head in its layer")
    token: Annotated[int, Number(integer=True, least=0, most=TOKENS - 1)] = key(0, "position of the query")

    @classmethod
    def implied(cls, given: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG003
        """Return the shape of the bundled heads."""
        return {"n": TOKENS, "d": FEATURES}


Position = Annotated[int, Number(integer=True, least=0, most=2**20)]


class OwnHead(Block):
    """The keys of a config that name a head of the user's own model and one of its queries."""

    files: ClassVar[tuple[str, ...]] = ("path",)

    path: Annotated[str, FilePath()] = key(
        ..., "an .npz file with keys and queries: (n, d), (heads, n, d) or (layers, heads, n, d); relative to this file"
    )
    layer: Position = key(0, "layer of the head")
    head: Position = key(0, "head in its layer")
    token: Position = key(0, "position of the query")

    @classmethod
    def implied(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the shape of the keys of a head."""
        *_, n, d = _own(given["path"], sha256(given["path"]))[0].shape
        return {"n": n, "d": d}

    def rules(self, precision: str) -> Iterator[Fault]:  # noqa: ARG002
        """Ask for what the file has."""
        if not os.path.isfile(self.path):
            return  # named where its size is read
        keys, queries = _own(self.path, sha256(self.path))
        known = {"layer": keys.shape[0], "head": keys.shape[1], "token": queries.shape[2]}
        for name, count in known.items():
            if (got := getattr(self, name)) >= count:
                yield Fault((name,), "E-RANGE", f"got {got}, expected 0 to {count - 1}: the file has {count}")


class Attention(NamedTuple):
    """One head: `keys` (n, d) already scaled, `queries` (n, d), both float64, and the n `tokens`."""

    keys: np.ndarray
    queries: np.ndarray
    tokens: np.ndarray


def attention(layer: int, head: int) -> Attention:
    """Return the keys, queries and tokens of one bundled head; n = 276, d = 32.

    With A = keys, the attention row of query i is b = softmax(A q_i): softmax regression of A on b recovers the
    row, and the query where A and b identify it. Raises InputError for a head that is not in `HEADS`.
    """
    if (layer, head) not in HEADS:
        known = ", ".join(map(str, HEADS))
        raise InputError(Problem("E-ENUM", f"got layer {layer}, head {head}; expected one of {known}", key="head"))
    stored, at = _file(), HEADS.index((layer, head))
    keys, queries = stored["keys"][at], stored["queries"][at]
    return Attention(keys.astype(float), queries.astype(float), stored["tokens"].astype(str))


def chosen(options: Options) -> Attention:
    """Return the head that the block `problem` of a config names, bundled or in a file.

    Raises InputError if the file is gone or has changed since it was planned.
    """
    if "path" not in options:
        return attention(options["layer"], options["head"])
    digest = sha256(options["path"])
    check_unchanged(digest, options.get("sha256") or digest, file=options["path"])
    keys, queries = (array[options["layer"], options["head"]] for array in _own(options["path"], digest))
    return Attention(keys, queries, np.arange(len(queries)).astype(str))


def save_heads(path: str | os.PathLike[str], queries: Any, keys: Any, *, scaled: bool = False) -> None:
    """Write the queries and keys of a model into an .npz file, for `problem.kind: heads`.

    Args:
        path: of the file, which ends in .npz.
        queries: real array of NumPy, JAX or PyTorch, of shape (n, d), (heads, n, d) or (layers, heads, n, d).
        keys: the same; only their number n may differ.
        scaled: whether keys are divided by sqrt(d) already, so that logits are `keys @ query`.

    Raises:
        InputError: shapes that do not fit together, or values that are not finite.

    """
    arrays = [np.asarray(array, np.float64) for array in (keys, queries)]
    arrays[0] = arrays[0] if scaled else arrays[0] / np.sqrt(arrays[0].shape[-1])
    _checked(*arrays, file=os.fspath(path))
    np.savez(path, keys=arrays[0], queries=arrays[1])


def attention_row(keys: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Return softmax(keys @ query), (n,), which sums to 1."""
    logits = keys @ query
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


@lru_cache(maxsize=1)
def _file() -> dict[str, Any]:
    with files("expreg.data").joinpath("attention.npz").open("rb") as source, np.load(source, allow_pickle=False) as z:
        return dict(z)


@lru_cache(maxsize=4)
def _own(path: str, digest: str) -> tuple[np.ndarray, np.ndarray]:  # noqa: ARG001  (another content, another entry)
    """Return keys and queries of a file, float64, of shapes (layers, heads, n, d)."""
    found = read_arrays(path, ("keys", "queries"))
    return _checked(found["keys"], found["queries"], file=path)


def _checked(keys: np.ndarray, queries: np.ndarray, *, file: str) -> tuple[np.ndarray, np.ndarray]:
    """Return keys and queries with four axes; raise InputError where they are no heads."""
    fit = keys.ndim == queries.ndim and 2 <= keys.ndim <= 4 and 0 not in (*keys.shape, *queries.shape)
    if not fit or keys.shape[:-2] != queries.shape[:-2] or keys.shape[-1] != queries.shape[-1]:
        message = (
            f"got keys of shape {keys.shape} and queries of {queries.shape}, expected both as (n, d), (heads, n, d) or"
            " (layers, heads, n, d)"
        )
        raise InputError(Problem("E-SHAPE", message, file=file))
    for name, array in (("keys", keys), ("queries", queries)):
        if not np.isfinite(array).all():
            raise InputError(Problem("E-DATA", f"got nan or infinite entries in {name}", file=file))
    lead = (1,) * (4 - keys.ndim)
    return keys.reshape(lead + keys.shape), queries.reshape(lead + queries.shape)
