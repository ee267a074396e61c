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


@pytest.mark.parametrize(
    ("X", "y", "code", "place"),
    [
        (np.ones(3), np.ones(3), "E-SHAPE", "X"),
        (np.ones((0, 3)), np.ones(0), "E-SHAPE", "X"),
        (np.ones((2, 0)), [1], "E-SHAPE", "X"),
        (unit_points(), np.ones(5), "E-SHAPE", "y"),
        (unit_points(), np.ones((6, 1)), "E-SHAPE", "y"),
        (unit_points(), [1, -np.inf, 1, 1, 1, 1], "E-DATA", "y[1]"),
    ],
)
def test_shapes_and_values_that_do_not_fit_are_placed(X, y, code, place):
    assert lines(X, np.asarray(y))[0].startswith(f"error[{code}] {place}: got ")
    assert lines(X, np.asarray(y), name="mine.npz")[0].startswith(f"error[{code}] mine.npz: {place}: ")


def test_rows_that_are_no_unit_vectors_are_placed():
    X = unit_points()
    assert lines(X * (1 + 5e-7)) == []
    X[2, 3], X[4, 0], X[5, 1] = np.nan, np.inf, -np.inf
    (line,) = lines(X)
    assert line.startswith("error[E-DATA] X[2,3]: got nan, expected finite (3 ")
    X = unit_points()
    X[1] *= 3.2
    X[3] *= 1 + 2e-6
    (line,) = lines(X)
    assert line.startswith("error[E-DATA] X[1]: norm 3.2, expected 1 +- 1e-06 (2 ")
    X = unit_points()
    X[[1, 4]] = 0
    assert [line.partition(": ")[0] for line in lines(X)] == ["error[E-DATA] X[1]", "error[E-DATA] X[4]"]


def test_equal_points():
    X = unit_points()
    X[5] = X[3]
    (line,) = lines(X)
    assert line.startswith("error[E-DATA] X[5] equals X[3]: ")
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
