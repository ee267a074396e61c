"""Attention heads of a trained language model, bundled: real matrices for softmax regression.

Queries and keys of eight heads of `all-MiniLM-L6-v2` (sentence-transformers, licence Apache-2.0; 6 layers of 12
heads of dimension 32) on one English text of 276 tokens, the opening of a declaration of 1776. The keys are
divided by sqrt(32), so the logits of query q are `keys @ q`. Stored in float16: the rounded numbers *are* the
data, and every figure of this package is about them. Imports no JAX.
"""

from functools import lru_cache
from importlib.resources import files
from typing import Annotated, Any, NamedTuple

import numpy as np

from expreg.core.config.fields import Block, Number, key
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


def attention_row(keys: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Return softmax(keys @ query), (n,), which sums to 1."""
    logits = keys @ query
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


@lru_cache(maxsize=1)
def _file() -> dict[str, Any]:
    with files("expreg.data").joinpath("attention.npz").open("rb") as source, np.load(source, allow_pickle=False) as z:
        return dict(z)
