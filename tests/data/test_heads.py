"""The bundled attention heads: small, in the wheel, real, and read without a pickle."""

from pathlib import Path

import numpy as np
import pytest
from hatchling.builders.wheel import WheelBuilder
from scipy.special import softmax

from expreg import data
from expreg.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
FILE = "expreg/data/attention.npz"


def test_the_file_is_small_and_in_the_wheel():
    assert (ROOT / FILE).stat().st_size <= 300_000
    assert FILE in {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}


@pytest.mark.parametrize(("layer", "head"), data.HEADS)
def test_heads_are_finite_and_of_full_rank(layer, head):
    keys, queries, tokens = data.attention(layer, head)
    assert keys.shape == queries.shape == (276, 32)
    assert keys.dtype == queries.dtype == np.float64
    assert tokens.shape == (276,)
    assert tokens[0] == "[CLS]"
    assert np.linalg.matrix_rank(keys) == 32
    np.testing.assert_allclose(data.attention_row(keys, queries[7]), softmax(keys @ queries[7]), rtol=1e-12)


def test_logits_reach_seventy_where_squares_overflow_in_f32():
    head = data.attention(0, 2)
    largest = np.abs(head.queries @ head.keys.T).max()
    assert 69 < largest < 71
    with np.errstate(over="ignore"):
        assert np.isinf(np.float32(np.exp(largest)) ** 2)


def test_a_head_that_is_not_bundled_is_named():
    with pytest.raises(InputError, match=r"got layer 1, head 3; expected one of \(0, 0\)"):
        data.attention(1, 3)
