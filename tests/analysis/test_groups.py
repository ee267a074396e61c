"""Which rows are compared with each other, and what counts as success, failure and missing."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from expreg.kinds.network.summary import groups

CRITERIA = {criterion.name: criterion for criterion in groups.criteria()}


def frame(**columns: Any) -> pd.DataFrame:
    fixed = {"n": [4, 4, 8, 8], "m": [16, 32, 16, 32], "status": "converged", "data": "sphere"}
    return groups.prepare(pd.DataFrame(fixed | columns))


def keys(rows: pd.DataFrame, *axes: str) -> list[dict[str, Any]]:
    return [group.key for group in groups.split(rows, ["n", "m", "replicate", *axes])]


def test_a_dimension_that_follows_n_makes_no_group_and_a_free_one_does() -> None:
    assert keys(frame(d=[8, 8, 16, 16]), "d") == [{"data": "sphere"}]
    assert keys(frame(d=[8, 16, 8, 16]), "d") == [{"data": "sphere", "d": 8}, {"data": "sphere", "d": 16}]
    # d = n for one coherence and d = 2n for the other: still a function of n within each.
    rows = frame(n=[4, 8, 4, 8], d=[4, 8, 8, 16], rho=[0.1, 0.1, 0.5, 0.5])
    assert keys(rows, "d", "rho") == [{"data": "sphere", "rho": 0.1}, {"data": "sphere", "rho": 0.5}]


def test_axes_that_only_serve_to_set_the_dimension_are_shown_as_the_dimension() -> None:
    def labels(d: list[int], **axes: Any) -> list[str]:
        rows = frame(n=[4, 8] * (len(d) // 2), m=16, d=d, **axes)
        return [group.label for group in groups.split(rows, ["n", "m", "replicate", "d", *axes])]

    ratio, fixed = [1, 1, 2, 2, 0, 0], [0, 0, 0, 0, 7, 7]
    assert labels([4, 8, 8, 16, 7, 7], ratio=ratio, fixed=fixed) == ["d = 7", "d = n", "d = 2n"]
    # an axis that does something else too, or another d(n), is shown as it is
    assert labels([4, 8, 4, 8], rho=[0.1, 0.1, 0.5, 0.5]) == ["rho = 0.1", "rho = 0.5"]
    assert labels([4, 8, 5, 9], more=[0, 0, 1, 1]) == ["more = 0", "more = 1"]


def test_data_kinds_and_axes_that_only_some_rows_have_make_groups() -> None:
    rows = frame(data=["sphere", "sphere", "equiangular", "equiangular"], rho=[None, None, 0.5, 0.5])
    found = groups.split(rows, ["n", "m", "rho", "data.kind", "not.there"])
    assert [group.label for group in found] == ["equiangular, rho = 0.5", "sphere"]
    assert [len(group.rows) for group in found] == [2, 2]


def test_cells_that_repeat_a_replicate_count_as_further_replicates() -> None:
    rows = frame(n=[4, 4, 4, 4], m=[16, 16, 32, 32], replicate=[7, 7, 7, 7])
    [group] = groups.split(rows, ["n", "m"])
    laid_out = groups.outcomes(group.rows, pd.Series([0.0, 1.0, 1.0, 1.0]))
    assert laid_out.success.shape == (2, 2)
    assert not np.isnan(laid_out.success).any()


def test_cells_that_were_not_run_are_missing_in_the_table() -> None:
    rows = frame(n=[4, 4, 4, 4], m=[16, 32, 64, 16], replicate=[0, 0, 0, 1])
    [group] = groups.split(rows, ["n", "m", "replicate"])
    table = groups.outcomes(group.rows, pd.Series(np.ones(4))).success
    np.testing.assert_array_equal(table, [[1, 1, 1], [1, np.nan, np.nan]])


def test_failed_cells_are_missing_and_runs_that_broke_off_are_no_successes() -> None:
    status = ["oom", "nonfinite", "diverged", "converged"]
    rows = frame(status=status, E3=[None, None, None, True], E1=[None, None, True, True], E5=[False] * 4)
    np.testing.assert_array_equal(groups.judge(rows, CRITERIA["E3"]), [np.nan, 0, 0, 1])
    np.testing.assert_array_equal(groups.judge(rows, CRITERIA["E1"]), [np.nan, np.nan, 1, 1])
    np.testing.assert_array_equal(groups.judge(rows, CRITERIA["E5"]), [np.nan, 0, 0, 0])


@pytest.mark.parametrize("dtype", [object, "boolean", bool])
def test_events_are_read_from_every_type_a_table_may_use(dtype: Any) -> None:
    rows = frame(E5=pd.Series([True, False, True, True], dtype=dtype))
    np.testing.assert_array_equal(groups.judge(rows, CRITERIA["E5"]), [1, 0, 1, 1])


def test_an_event_that_nobody_measured_is_no_criterion() -> None:
    assert groups.judge(frame(E2=[None] * 4), CRITERIA["E2"]) is None
    assert groups.judge(frame(), CRITERIA["movement"]) is None
    assert groups.judge(frame(status="error", E5=[True] * 4), CRITERIA["E5"]) is None


@pytest.mark.parametrize(
    ("name", "column"), [("movement", "max_movement"), ("movement_linearised", "movement_linearised")]
)
def test_movement_is_compared_with_the_radius_of_its_own_cell(name: str, column: str) -> None:
    radius = 4.0 / (2 * math.e**2 * np.array([4, 4, 8, 8]))
    rows = frame(lambda_cts=4.0, **{column: radius * np.array([0.99, 1.01, 0.99, np.inf])})
    np.testing.assert_array_equal(groups.judge(rows, CRITERIA[name]), [1, 0, 1, 0])


def test_movement_is_compared_with_each_radius_that_a_row_has() -> None:
    moved = np.array([0.9, 1.1, np.nan, np.inf])
    rows = frame(lambda_cts=4.0, max_movement=moved, radius_frobenius=[1.0, 1.0, 1.0, None])
    np.testing.assert_array_equal(groups.judge(rows, CRITERIA["movement_frobenius"]), [1, 0, np.nan, np.nan])
    rows = frame(refined_movement=moved, status=["converged"] * 3 + ["diverged"])
    np.testing.assert_array_equal(groups.judge(rows, CRITERIA["movement_refined"]), [1, 0, np.nan, 0])
    assert groups.judge(frame(max_movement=moved), CRITERIA["movement_frobenius"]) is None
    rows = frame(refined_movement=[None, None, 0.9, 0.9], radius=[0.1, None, 0.1, None])
    np.testing.assert_array_equal(groups.judge(rows, CRITERIA["movement_refined"]), [0, np.nan, 1, 1])


def test_rows_without_a_place_are_left_out() -> None:
    assert len(frame(n=[4, None, 8, 8])) == 3
    assert groups.split(groups.prepare(pd.DataFrame()), ["n"]) == []
