"""What lanes cost and hold: seconds by cell, memory by cost, cells when memory runs out, one trace of a step."""

import time
from collections import Counter
from dataclasses import replace

import chex
import jax
import numpy as np
import pytest
from countdown import cells_of, countdown, subtract

from expreg.core.engine import lanes as engine_module
from expreg.core.engine.lanes import Engine
from expreg.kinds import EXPERIMENTS


def rows_of(engine, cells):
    return [row for rows in engine.run(cells) for row in rows]


# --- seconds


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_cell_pays_for_its_own_seconds_only(lanes):
    """A refilled lane starts at 0: seconds of all cells add up to the time of the device, and do not pile up."""
    engine = Engine(countdown(), lanes=lanes, devices=1, slice_seconds=1e-6)
    began = time.monotonic()
    rows = rows_of(engine, cells_of([20] * 24))
    wall = time.monotonic() - began
    seconds = [row["seconds"] for row in rows]
    assert sum(seconds) <= wall
    assert min(seconds) > 0
    assert seconds != sorted(seconds)  # a lane that goes on counting only ever shows more


# --- memory


def lanes_chosen(size):
    engine = Engine(countdown(size=size))
    assert len(rows_of(engine, cells_of([1] * 3))) == 3
    ((_, lanes, _),) = engine.compilations
    return lanes


def test_a_lane_takes_what_its_cost_says_where_that_is_more_than_its_state():
    devices = jax.local_device_count()
    assert lanes_chosen(1e18) == devices  # nothing fits: one lane each
    assert lanes_chosen(8.0) > devices  # the state alone is no larger


class Pending:
    """The flags of a slice that the device still works on; reading them may fail, as after a dispatch that did not."""

    def __init__(self, values, failure):
        self.values, self.failure = values, failure

    def is_ready(self):
        return False

    def __array__(self, dtype=None, copy=None):
        if self.failure is not None:
            raise self.failure
        return np.asarray(self.values)


@pytest.fixture
def full(monkeypatch):
    """Return a function that lets slice `at` of programs of more than `most` lanes run out of memory."""

    def set_up(at, where, most):
        def compile_program(*arguments, **options):
            found, calls = original(*arguments, **options), iter(range(1, 10**6))
            tried.append(found.lanes)

            def execute(*inputs):
                failure = None
                if next(calls) >= at and found.lanes > most:
                    failure = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte.")
                if failure is not None and where == "dispatch":
                    raise failure
                state, running, record = found.execute(*inputs)
                return state, Pending(running, failure), record

            return replace(found, execute=execute)

        tried = []
        original = engine_module.compile_program
        monkeypatch.setattr(engine_module, "compile_program", compile_program)
        return tried

    return set_up


@pytest.mark.parametrize("where", ["dispatch", "read"])
@pytest.mark.parametrize("at", [2, 3, 5])
def test_out_of_memory_in_mid_run_gives_the_waiting_cells_back(full, at, where):
    tried = full(at, where, most=4)
    lengths = [1 + 7 * i % 40 for i in range(60)]
    rows = rows_of(Engine(countdown(), lanes=16, slice_seconds=1e-6), cells_of(lengths))
    assert tried == [16, 8, 4]
    assert Counter(row["cell"] for row in rows) == Counter(f"c{i}" for i in range(60))
    totals = {row["cell"]: row["total"] for row in rows}
    assert all(totals[f"c{i}"] == n * (n + 1) / 2 for i, n in enumerate(lengths))


def test_where_one_lane_is_too_much_every_cell_that_is_left_is_a_row(full):
    full(3, "read", most=0)
    rows = rows_of(Engine(countdown(), lanes=4, slice_seconds=1e-6), cells_of([1, 1, *[50] * 20]))
    assert Counter(row["cell"] for row in rows) == Counter(f"c{i}" for i in range(22))
    assert Counter(row["status"] for row in rows)["oom"] == 20


# --- traces


def test_a_step_is_traced_once_however_many_slices_run_and_cells_come():
    traced = chex.assert_max_traces(subtract, n=1)
    engine = Engine(countdown(advance=traced), lanes=4, slice_seconds=1e-6)
    rows = rows_of(engine, cells_of(range(1, 60)))
    assert len(rows) == 59
    assert len(engine.compilations) == 1


def test_a_program_of_training_is_traced_once_for_all_its_cells():
    def build(signature):
        program = train.build(signature)

        def advance(state):
            return program.advance(state)

        return program._replace(advance=chex.assert_max_traces(advance, n=1))

    train = EXPERIMENTS["threshold"]
    training = {**train.probe["training"], "max_steps": 100}
    cells = [(f"c{r}", {**train.probe, "replicate": r, "training": training}) for r in range(6)]
    rows = rows_of(Engine(replace(train, build=build), lanes=2, slice_seconds=1e-6), cells)
    assert [row["steps"] for row in rows] == [100] * 6
