"""The sweep language against itertools, its generators, and grids that are too large to be made."""

import itertools
import time
import tracemalloc
from typing import Any

import pytest

from expreg.core.config import grid


def read(sweep: Any) -> tuple[grid.Block, list[tuple[str, str]]]:
    tree, faults = grid.read(
        sweep, lambda name: 2 if name == "m" else name in ("n", "replicate") or (False if "." in name else None), {}
    )
    return tree, [(fault.code, ".".join(map(str, fault.path))) for fault in faults]


def rows(sweep: Any) -> list[dict[str, Any]]:
    tree, problems = read(sweep)
    assert problems == []
    return list(grid.rows(tree))


def values(name: str, axis: Any) -> list[Any]:
    return [row[name] for row in rows({"product": {name: axis}})]


def test_product_runs_the_last_axis_fastest() -> None:
    found = rows({"product": {"n": [1, 2], "m": [3, 4, 5], "replicate": {"count": 2}}})
    expected = itertools.product([1, 2], [3, 4, 5], range(2))
    assert found == [dict(zip(("n", "m", "replicate"), row, strict=True)) for row in expected]


def test_zip_runs_its_members_together() -> None:
    found = rows({"zip": {"n": [1, 2, 3], "rho": [0.1, 0.2, 0.3]}})
    assert found == [{"n": 1, "rho": 0.1}, {"n": 2, "rho": 0.2}, {"n": 3, "rho": 0.3}]


def test_concat_puts_blocks_behind_each_other() -> None:
    found = rows({"concat": [{"product": {"n": [1, 2]}}, {"zip": {"n": [3], "rho": [0.5]}}]})
    assert found == [{"n": 1}, {"n": 2}, {"n": 3, "rho": 0.5}]


def test_blocks_nest_and_when_filters_the_block_in_which_it_stands() -> None:
    sweep = {
        "product": {"n": [2, 4], "zip": {"a": [1, 2], "b": [10, 20]}},
        "concat": [{"product": {"m": [1, 2, 3]}, "when": "m > 1"}, {"product": {"m": 8}}],
        "when": "m >= n",
    }
    expected = [
        {"n": n, "a": a, "b": b, "m": m}
        for n, (a, b), m in itertools.product([2, 4], [(1, 10), (2, 20)], [2, 3, 8])
        if m >= n
    ]
    assert rows(sweep) == expected
    tree, _ = read(sweep)
    assert grid.size(tree) == 2 * 2 * 4
    assert grid.names(tree) == ("n", "a", "b", "m")


def test_geometric_is_rounded_to_even_widths() -> None:
    widths = values("m", {"geometric": [8, 4096, 19]})
    assert (widths[0], widths[-1]) == (8, 4096)
    assert all(isinstance(m, int) and m % 2 == 0 for m in widths)
    assert widths == sorted(set(widths))
    assert all(abs(m - 8 * 512 ** (i / 18)) <= 1.0001 for i, m in enumerate(widths))


@pytest.mark.parametrize("kind", ["geometric", "linear"])
@pytest.mark.parametrize(("a", "b"), [(5, 31), (31, 5), (3, 9), (1, 7), (7.5, 90.2), (2, 3)])
def test_even_widths_stay_between_the_ends(kind: str, a: float, b: float) -> None:
    widths = values("m", {kind: [a, b, 12]})
    assert {m % 2 for m in widths} == {0}
    assert min(a, b) <= min(widths) <= min(a, b) + 2
    assert max(a, b) - 2 <= max(widths) <= max(a, b)
    assert widths == sorted(set(widths), reverse=a > b)


def test_geometric_drops_repeats_after_rounding() -> None:
    assert values("n", {"geometric": [1, 4, 9]}) == [1, 2, 3, 4]


def test_integers_come_from_integer_ends_and_reals_from_real_fields() -> None:
    assert values("rho", {"geometric": [1, 100, 3]}) == [1, 10, 100]
    assert values("rho", {"geometric": [0.01, 1, 3]}) == [0.01, 0.1, 1]
    assert values("training.factor", {"geometric": [1, 10, 3]}) == [1, pytest.approx(10**0.5), 10]
    assert values("rho", {"linear": [0, 1, 5]}) == [0, 0.25, 0.5, 0.75, 1]
    assert values("n", {"linear": [1, 10, 4]}) == [1, 4, 7, 10]


def test_range_holds_both_ends_and_decimal_steps_are_exact() -> None:
    assert values("n", {"range": [2, 10, 4]}) == [2, 6, 10]
    assert values("n", {"range": [2, 11, 4]}) == [2, 6, 10]
    assert values("n", {"range": [5, 1, -2]}) == [5, 3, 1]
    assert values("rho", {"range": [0.1, 0.5, 0.1]}) == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_a_scalar_is_an_axis_of_one_value() -> None:
    assert values("n", 8) == [8]
    assert values("n", {"geometric": [8, 8, 1]}) == [8]


@pytest.mark.parametrize(
    ("sweep", "code", "path"),
    [
        ([], "E-TYPE", "sweep"),
        ({}, "E-EMPTY", "sweep"),
        ({"when": "n > 1"}, "E-EMPTY", "sweep"),
        ({"product": []}, "E-TYPE", "sweep.product"),
        ({"product": {"n": []}}, "E-EMPTY", "sweep.product.n"),
        ({"product": {"n": [64, 8, 64]}}, "E-DUP", "sweep.product.n.2"),
        ({"product": {"n": [1, 1.0]}}, "E-DUP", "sweep.product.n.1"),
        ({"product": {"n": [[1]]}}, "E-TYPE", "sweep.product.n.0"),
        ({"product": {"n": [1]}, "zip": {"n": [2]}}, "E-DUP", "sweep.zip.n"),
        ({"prodct": {"n": [1]}, "product": {"m": [1]}}, "E-UNKNOWN", "sweep.prodct"),
        ({"product": {"n": {"geometrc": [1, 2, 3]}}}, "E-UNKNOWN", "sweep.product.n"),
        ({"product": {"n": {"geometric": [1, 2]}}}, "E-TYPE", "sweep.product.n.geometric"),
        ({"product": {"n": {"geometric": [0, 2, 3]}}}, "E-RANGE", "sweep.product.n.geometric"),
        ({"product": {"n": {"geometric": [1, 2, 0]}}}, "E-RANGE", "sweep.product.n.geometric"),
        ({"product": {"n": {"geometric": [1, 2, 2.5]}}}, "E-RANGE", "sweep.product.n.geometric"),
        ({"product": {"n": {"linear": [1, 2, 1]}}}, "E-RANGE", "sweep.product.n.linear"),
        ({"product": {"n": {"linear": [1, float("inf"), 3]}}}, "E-RANGE", "sweep.product.n.linear"),
        ({"product": {"n": {"range": [1, 5, 0]}}}, "E-RANGE", "sweep.product.n.range"),
        ({"product": {"n": {"range": [1, 5, -1]}}}, "E-RANGE", "sweep.product.n.range"),
        ({"product": {"n": {"count": 0}}}, "E-RANGE", "sweep.product.n.count"),
        ({"product": {"n": {"count": True}}}, "E-TYPE", "sweep.product.n.count"),
        ({"concat": {"n": [1]}}, "E-TYPE", "sweep.concat"),
        ({"concat": [3]}, "E-TYPE", "sweep.concat.0"),
        ({"product": {"n": [1]}, "when": 3}, "E-TYPE", "sweep.when"),
    ],
)
def test_refusals(sweep: Any, code: str, path: str) -> None:
    assert read(sweep)[1] == [(code, path)]


@pytest.mark.parametrize(
    ("sweep", "messages"),
    [
        (
            {"zip": {"a": [1, 2], "b": {"count": 3}, "c": {"geometric": [1, 2, 5]}}},
            ["zipped members differ in length: a 2, b 3, c 2"],
        ),
        ({"zip": {"a": [1], "zip": {"b": [1], "c": [1, 2]}}}, ["zipped members differ in length: b 1, c 2"]),
        ({"zip": {"a": [1], "product": {"b": [1], "when": "1/(b - 1) > 0"}}}, []),  # that is another mistake
    ],
)
def test_zips_of_different_lengths_are_found(sweep: Any, messages: list[str]) -> None:
    assert [(fault.code, fault.message) for fault in grid.uneven_zips(read(sweep)[0])] == [
        ("E-GRID", message) for message in messages
    ]


@pytest.mark.parametrize(
    ("sweep", "count"),
    [
        ({"product": {"a": {"count": 10**6}, "b": {"count": 10**6}}}, 10**12),
        ({"product": {"a": {"count": 10**15}, "b": {"linear": [0, 1, 1000]}}}, 10**18),
        ({"product": {"a": {"count": 10**9}, "zip": {"b": {"count": 10**9}, "c": {"count": 10**9}}}}, 10**18),
        ({"concat": [{"a": {"count": 10**18}}, {"a": {"range": [0, 10**18, 1]}}], "when": "a > 3"}, 2 * 10**18 + 1),
        ({"product": {f"a{i}": {"geometric": [1, 2, 10**15]} for i in range(50)}}, 10**750),
    ],
)
def test_grids_are_counted_before_they_are_made(sweep: Any, count: int) -> None:
    tracemalloc.start()
    start = time.process_time()
    tree, _ = read(sweep)
    assert grid.size(tree) == count
    assert time.process_time() - start < 1
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()


def test_rows_come_one_at_a_time() -> None:
    tree, _ = read(
        {"product": {"a": {"count": 1000}, "b": {"count": 1000}, "c": {"count": 1000}, "d": {"count": 1000}}}
    )
    assert list(itertools.islice(grid.rows(tree), 2)) == [
        {"a": 0, "b": 0, "c": 0, "d": 0},
        {"a": 0, "b": 0, "c": 0, "d": 1},
    ]


def test_no_sweep_has_more_rows_than_its_size() -> None:
    """Also for zips whose members' lengths are bounds themselves."""
    zipped = {"n": {"geometric": [1, 3, 5]}, "rho": [4, 5, 6]}
    for sweep, size in (
        ({"zip": zipped}, 5),
        ({"product": {"zip": zipped, "r": [0, 1]}}, 10),
        ({"concat": [{"zip": zipped}, {"zip": zipped, "r": [0, 1]}]}, 15),
    ):
        assert grid.size(read(sweep)[0]) == size >= len(rows(sweep))
