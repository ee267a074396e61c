"""Bisection on lines of cells, as a source of cells, against outcomes that are known in full."""

import math

import numpy as np
import pandas as pd
import pytest

from expreg.core.bisection import bisect, verified
from expreg.core.engine.search import Line, expected, lines, search, wanted
from expreg.core.stats.searched import fill, verification
from expreg.core.stats.thresholds import first_and_last

CRITERIA = ("one", "other")


def monotone(rng, count, places):
    """Return (criteria, lines, places) of outcomes that begin to succeed once, before, on or beyond the line."""
    begins = rng.integers(places + 1, size=(len(CRITERIA), count, 1))
    return (np.arange(places) >= begins).astype(float)


def noisy(rng, count, places):
    """Return outcomes in which the success of some lines is not monotone."""
    found = monotone(rng, count, places)
    return np.where(rng.random(found.shape) < 0.15, 1 - found, found)


def along(count, places):
    return [Line(tuple(f"{i}-{place}" for place in range(places)), i) for i in range(count)]


def outcome_of(truth, cell):
    line, place = map(int, cell.split("-"))
    return truth[line, place]


def finished(truth, places, verify=0.0, known=(), forget=lambda round_, asked: asked):
    """Run the search to its end; return the ids in the order of their rounds. `forget` loses some cells of a round."""
    done, rounds = dict.fromkeys(known), 0
    board = along(truth.shape[1], places)
    while asked := wanted(board, [{c: outcome_of(t, c) for c in done} for t in truth], verify):
        assert not set(asked) & done.keys()
        done |= dict.fromkeys(forget(rounds, asked))
        rounds += 1
    return list(done), rounds


def table(truth, ran):
    """Return the outcomes (S, G) of one criterion, nan where a cell did not run."""
    found = np.full(truth.shape, np.nan)
    for cell in ran:
        line, place = map(int, cell.split("-"))
        found[line, place] = truth[line, place]
    return found


@pytest.mark.parametrize("places", [1, 2, 7, 24, 31])
def test_a_search_brackets_the_thresholds_of_the_whole_grid(places):
    truth = monotone(np.random.default_rng(places), 40, places)
    ran, rounds = finished(truth, places)
    steps = math.ceil(math.log2(places + 1))
    assert rounds == steps
    for line in range(40):
        assert sum(cell.startswith(f"{line}-") for cell in ran) <= len(CRITERIA) * steps
    for of in truth:
        np.testing.assert_array_equal(fill(table(of, ran)), of)  # so every statistic of the grid is the same


def test_a_cell_serves_all_criteria():
    truth = monotone(np.random.default_rng(0), 200, 31)
    both = len(finished(truth, 31)[0])
    assert both < sum(len(finished(of[None], 31)[0]) for of in truth) - 200  # at least the first cell of each line


@pytest.mark.parametrize("outcomes", [monotone, noisy])
def test_what_is_asked_does_not_depend_on_interruptions_or_on_rows_that_are_there_already(outcomes):
    rng = np.random.default_rng(1)
    truth = outcomes(rng, 30, 24)
    whole = finished(truth, 24, 0.1)[0]
    pieces = finished(truth, 24, 0.1, forget=lambda _, asked: rng.permutation(asked)[: max(1, len(asked) // 3)])[0]
    assert sorted(pieces) == sorted(whole)
    some = list(rng.permutation([cell for line in along(30, 24) for cell in line.cells])[:200])
    assert set(finished(truth, 24, 0.1, known=some)[0]) == {*whole, *some}


def test_a_place_without_an_answer_is_left_out_for_its_neighbours():
    rng = np.random.default_rng(2)
    for _ in range(300):
        begin = rng.integers(25)
        line = (np.arange(24) >= begin).astype(float)
        line[rng.random(24) < 0.3] = np.nan
        known: dict[int, float] = {}
        while (found := bisect([known.get(i) for i in range(24)])).asked is not None:
            assert found.asked not in known
            known[found.asked] = line[found.asked]
        assert found.low < begin <= found.high
        assert np.isnan(line[found.low + 1 : found.high]).all()
        assert found.low == -1 or line[found.low] == 0
        assert found.high == 24 or line[found.high] == 1


def test_a_line_is_filled_by_its_own_bracket_also_where_success_is_not_monotone():
    rng = np.random.default_rng(6)
    truth = noisy(rng, 200, 24)
    ran, _ = finished(truth, 24)
    assert any(np.any(np.diff(row[~np.isnan(row)]) < 0) for row in table(truth[0], ran))  # seen by the other criterion
    for of in truth:
        known = table(of, ran)
        begins = np.array([bisect(line).high for line in of.tolist()])[:, None]  # of the whole line, by the same steps
        np.testing.assert_array_equal(fill(known), np.where(np.isnan(known), np.arange(24) >= begins, known))


def test_a_bracket_that_is_open_is_not_filled():
    line = np.array([[np.nan, 0, np.nan, np.nan, np.nan, 1, np.nan], [np.nan] * 7, [np.nan] * 6 + [0]])
    np.testing.assert_array_equal(
        fill(line), [[0, 0, np.nan, np.nan, np.nan, 1, 1], [np.nan] * 7, [0] * 6 + [0]]
    )  # the last: no success up to the end


@pytest.mark.parametrize(
    ("count", "share", "ran"), [(100, 0.1, 10), (40, 0.05, 2), (7, 0.3, 3), (9, 0.0, 0), (9, 1, 9)]
)
def test_a_share_of_the_replicates_runs_its_whole_line(count, share, ran):
    chosen = verified(np.arange(count), share)
    assert chosen.sum() == ran
    truth = monotone(np.random.default_rng(3), count, 12)
    done = set(finished(truth, 12, share)[0])
    whole = [all(cell in done for cell in line.cells) for line in along(count, 12)]
    assert all(np.array(whole)[chosen])
    assert np.mean(whole) < 1 or share == 1


def test_lines_differ_in_the_searched_axis_only():
    axes = {f"{n}{r}{m}": {"m": m, "n": n, "replicate": r} for m in (8, 2, 4) for n in (1, 3) for r in (0, 1) if m >= n}
    assert lines(axes, "m") == [
        Line(("102", "104", "108"), 0),
        Line(("112", "114", "118"), 1),
        Line(("304", "308"), 0),
        Line(("314", "318"), 1),
    ]


def test_the_source_asks_for_no_cell_that_failed_again():
    board = [Line(("a", "b", "c", "d", "e"), 1)]
    source = search(board, ["E5"], 0.0, lambda rows, _: dict(zip(rows["cell"], rows["outcome"], strict=True)))
    ask = lambda **known: source(lambda: pd.DataFrame({"cell": list(known), "outcome": list(known.values())}))  # noqa: E731
    assert ask() == ["c"]
    assert ask(c=math.nan) == ["b"]
    assert ask(c=math.nan, b=0.0) == ["d"]
    assert ask(c=math.nan, b=0.0, d=1.0) == []
    assert ask(c=0.0, b=0.0, d=1.0) == []


@pytest.mark.parametrize("size", [(300, 31, 0.1), (12, 16, 0.1), (40, 31, 0.05)])
def test_a_plan_expects_what_searches_run_from_criteria_that_begin_together_to_apart(size):
    """The ends are the two extremes; a search whose criteria begin somewhere near each other lies between them."""
    count, places, verify = size
    few, many = (len(expected(along(count, places), criteria, verify)) for criteria in (1, 2))

    def ran(shift):
        found = []
        for seed in range(20):
            rng = np.random.default_rng(seed)
            first = rng.integers(places + 1, size=(count, 1))
            second = rng.integers(places + 1, size=first.shape) if shift is None else np.clip(first + shift, 0, places)
            truth = np.stack([np.arange(places) >= begin for begin in (first, second)]).astype(float)
            found.append(len(finished(truth, places, verify)[0]))
        return np.mean(found)

    assert few == pytest.approx(ran(0), rel=0.05)
    assert many == pytest.approx(ran(None), rel=0.05)
    assert few < ran(1) < ran(4) < many


# --- whole lines say how far to trust it ------------------------------------------------------------


def test_verification_counts_lines_that_are_not_monotone_and_outcomes_that_bisection_gets_wrong():
    rng = np.random.default_rng(4)
    widths = 2.0 ** np.arange(12)
    truth = noisy(rng, 60, 12)[0]
    found = verification([(widths, truth[:20]), (widths, truth[20:])], 0.95)
    first, last = first_and_last(truth)
    begins = np.array([bisect(line).high for line in truth.tolist()])
    filled = np.arange(12) >= begins[:, None]
    assert found["replicates"] == 60
    assert found["non_monotone"] == np.mean(first < last) > 0.3
    assert found["low"] < found["non_monotone"] < found["high"]
    assert found["wrong"] == pytest.approx(np.mean(filled != truth))
    # the curves themselves: an octave is a step, so the area between them is the mean shift in octaves
    area = np.sum(truth.mean(axis=0) - filled.mean(axis=0))
    assert math.log2(found["curve"]) == pytest.approx(area)
    assert math.log2(found["last"]) == pytest.approx(np.mean(begins - last))
    assert found["last"] < 1


def test_verification_finds_nothing_where_success_is_monotone_and_leaves_lines_with_gaps_out():
    widths = 2.0 ** np.arange(9)
    truth = monotone(np.random.default_rng(5), 30, 9)[0]
    found = verification([(widths, truth)], 0.95)
    assert (found["replicates"], found["non_monotone"], found["wrong"]) == (30, 0.0, 0.0)
    assert (found["curve"], found["last"], found["low"]) == (1.0, 1.0, 0.0)
    truth[3, 4] = np.nan
    assert verification([(widths, truth)], 0.95)["replicates"] == 29
    alone = verification([(widths[:1], truth[:3, :1]), (widths, truth)], 0.95)  # a grid of one width at one n
    assert (alone["replicates"], alone["curve"], alone["last"]) == (32, 1.0, 1.0)
    nothing = verification([], 0.95)
    assert nothing["replicates"] == 0
    assert nothing["non_monotone"] is None
    assert nothing["curve"] is None
