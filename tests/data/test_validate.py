"""What is refused, in which words (reliability.md section 6), and that nothing else is."""

import numpy as np
import pytest

from expreg import ntk
from expreg.data.validate import MIN_DISTANCE, validate

ACTIVATIONS = ["exp", "cosh", "sinh", "relu"]


def unit_points(n=6, d=4, seed=0):
    X = np.random.default_rng(seed).normal(size=(n, d))
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def lines(X, y=None, activation="exp", **options):
    y = np.ones(len(X)) if y is None else y
    return [str(problem) for problem in validate(X, y, activation=activation, **options)]


def turned(x, distance):
    """Return a unit vector at this distance from x."""
    offset = np.roll(x, 1) - (np.roll(x, 1) @ x) * x
    angle = 2 * np.arcsin(distance / 2)
    return np.cos(angle) * x + np.sin(angle) * offset / np.linalg.norm(offset)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_good_data_has_no_problems(activation):
    assert lines(unit_points(1000, 6), activation=activation) == []
    assert lines(np.c_[unit_points(), np.zeros(6)], activation=activation) == []  # a constant column is fine


@pytest.mark.parametrize(("X", "y"), [(np.ones(3), np.ones(3)), (np.ones((0, 3)), np.ones(0)), (np.ones((2, 0)), [1])])
def test_shapes_of_points(X, y):
    assert lines(X, np.asarray(y))[0].startswith(f"error[E-SHAPE] X: got shape {X.shape}, expected (points, dim")


def test_shape_of_labels():
    expected = "error[E-SHAPE] mine.npz: y: got shape (5,), expected (6,) to match X (6, 4)"
    assert lines(unit_points(), np.ones(5), name="mine.npz") == [expected]
    assert "got shape (6, 1), expected (6,)" in lines(unit_points(), np.ones((6, 1)))[0]


def test_values_that_are_not_finite_are_counted_and_placed():
    X, y = unit_points(), np.ones(6)
    X[2, 3], X[4, 0], X[5, 1], y[1] = np.nan, np.inf, -np.inf, -np.inf
    assert lines(X, y) == [
        "error[E-DATA] X[2,3]: got nan, expected finite (3 such values)",
        "error[E-DATA] y[1]: got -inf, expected finite",
    ]


def test_norms():
    X = unit_points()
    X[1] *= 3.2
    X[3] *= 1 + 2e-6
    expected = "error[E-DATA] X[1]: norm 3.2, expected 1 +- 1e-06 (2 such rows); set data.normalise: true"
    assert lines(X) == [expected]
    assert lines(unit_points() * (1 + 5e-7)) == []


def test_zero_rows_are_named_once():
    X = unit_points()
    X[[1, 4]] = 0
    assert lines(X) == [
        "error[E-DATA] X[1]: zero row: lambda_min(H) is 0; remove it",
        "error[E-DATA] X[4]: zero row: lambda_min(H) is 0; remove it",
    ]


def test_equal_points():
    X = unit_points()
    X[5] = X[3]
    rule = "lambda_min(H) is 0 (needs distance >= 0.001); set data.allow_duplicates: true to study it"
    assert lines(X) == [f"error[E-DATA] X[5] equals X[3]: {rule}"]
    assert lines(X, allow_duplicates=True) == []


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_opposite_points_are_a_problem_exactly_where_they_make_the_gram_matrix_singular(activation):
    X = unit_points()
    X[5] = -X[3]
    singular = ntk.spectrum(ntk.infinite(X, activation=activation))[0] < 1e-10
    assert singular == (activation in ("cosh", "sinh"))
    found = lines(X, activation=activation)
    assert len(found) == singular
    assert all("X[5] equals -X[3]" in line for line in found)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("share", "refused"), [(0.01, True), (0.99, True), (1.01, False)])
def test_the_least_distance_is_sharp(share, refused, sign):
    X = unit_points()
    X[4] = sign * turned(X[0], share * MIN_DISTANCE)
    found = lines(X, activation="cosh")
    assert len(found) == refused
    if refused:
        other = "X[0]" if sign > 0 else "-X[0]"
        assert f"X[4] is {share * MIN_DISTANCE:.2g} away from {other}: lambda_min(H) is nearly 0" in found[0]


def test_duplicates_are_found_across_blocks_and_each_point_is_named_once():
    X = unit_points(1500, 8)
    X[[700, 1400, 1499]] = X[3]
    found = lines(X)
    assert [line.split(":")[0] for line in found] == [
        "error[E-DATA] X[700] equals X[3]",
        "error[E-DATA] X[1400] equals X[3]",
        "error[E-DATA] X[1499] equals X[3]",
    ]
