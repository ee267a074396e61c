"""The engine: every cell once, whatever the lanes; one program per signature; failures cost what they must."""

from collections import deque
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from countdown import cells_of, countdown, slices

from expreg import api, checks
from expreg.core.engine import failures, programs
from expreg.core.engine import lanes as engine_module
from expreg.core.engine.lanes import Engine
from expreg.core.engine.programs import slice_of_lanes
from expreg.errors import StorageError
from expreg.kinds import EXPERIMENTS
from expreg.types import Program


def collect(engine, cells):
    return {row["cell"]: row for rows in engine.run(cells) for row in rows}


@pytest.mark.parametrize("lanes", [2, 4, 64])
def test_every_cell_runs_once_and_stragglers_hold_up_nobody(lanes):
    lengths = [1, 500, 2, 3, 1, 40, 7, 7, 1, 9, 300, 5]
    engine = Engine(countdown(), lanes=lanes, slice_seconds=1e-4)
    batches = [row for rows in engine.run(cells_of(lengths)) for row in rows]
    assert sorted(row["cell"] for row in batches) == sorted(f"c{i}" for i in range(len(lengths)))
    totals = {row["cell"]: row["total"] for row in batches}
    assert all(totals[f"c{i}"] == n * (n + 1) / 2 for i, n in enumerate(lengths))
    assert batches[-1]["cell"] == "c1" or lanes < 4  # the longest ends last: the others went past it
    assert all(row["seconds"] > 0 for row in batches)


@contextmanager
def xla_compilations():
    """Collect the names of the functions that XLA compiles (or takes from its cache) inside the block."""
    names = []

    def listen(event, _, **facts):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(facts["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_there_is_one_compilation_per_bucket_and_static_setting_and_none_in_the_next_run():
    programs.forget()
    train = EXPERIMENTS["threshold"]
    cells = [
        (f"{n}-{m}-{r}-{act}", settings(n, m, r, activation=act, factor=factor))
        for n in (4, 6)
        for act in ("exp", "cosh")
        for r, (m, factor) in enumerate([(8, 1.0), (40, 0.5), (64, 0.25), (6000, 1.0), (8000, 1.0)])
    ]
    with xla_compilations() as compiled:
        engine = Engine(train, lanes=4)
        assert len(collect(engine, cells)) == len(cells)
    found = [signature for signature, _, _ in engine.compilations]
    assert len(found) == len(set(found)) == 2 * 2 * 2  # n, activation, {narrow, wide} bucket
    assert compiled.count("jit(slice_of_lanes)") == len(found)
    with xla_compilations() as compiled:
        again = Engine(train, lanes=4)
        assert len(collect(again, cells)) == len(cells)
    assert "jit(slice_of_lanes)" not in compiled
    assert [seconds for _, _, seconds in again.compilations] == [0.0] * len(found)


def sums(scale, dtype):
    """Return an experiment that adds `scale` three times; its functions are its own, their names are not."""

    def record(state):
        return {"total": state["total"]}

    program = Program(
        init=lambda x: {"left": x["left"], "total": 0 * x["by"]},
        advance=lambda s: {"left": s["left"] - 1, "total": s["total"] + jnp.asarray(scale, s["total"].dtype)},
        running=lambda s: s["left"] > 0,
        record=record,
    )
    return replace(
        countdown(),
        build=lambda _: program,
        prepare=lambda _: {"left": np.int32(3), "by": np.ones((), dtype)},
        row=lambda _, found: {"status": "converged", "total": float(found["total"])},
    )


def test_a_kept_program_is_that_of_its_functions_and_of_its_types():
    """The same name and the same signature, but another `build`, other types or another shape: another program."""
    experiment = sums(1.5, np.float64)
    others = [sums(2.5, np.float64), replace(experiment, prepare=sums(1, np.int32).prepare)]
    for one, total in ((experiment, 4.5), (others[0], 7.5), (others[1], 3.0), (experiment, 4.5)):
        rows = collect(Engine(one, lanes=2), cells_of([1]))
        assert rows["c0"]["total"] == total


def test_few_programs_are_kept_the_last_ones_and_no_inputs(monkeypatch):
    monkeypatch.setattr(programs, "MAX_KEPT", 2)
    programs.forget()
    experiments = [sums(scale, np.float64) for scale in (1.0, 2.0, 3.0)]
    for one in experiments:
        collect(Engine(one, lanes=2), cells_of([1]))
    assert [kept[0] for kept in programs._programs.values()] == [one.build for one in experiments[1:]]
    assert all(kept.example is None for _, kept in programs._programs.values())


def test_a_request_to_stop_ends_between_slices_and_keeps_what_is_done():
    done = []
    engine = Engine(countdown(), lanes=2, slice_seconds=1e-6, stop=lambda: len(done) >= 3)
    for rows in engine.run(cells_of([1] * 10 + [10**9])):
        done += rows
    assert 3 <= len(done) < 11


def test_running_out_of_memory_halves_the_lanes_and_loses_no_cell(monkeypatch):
    tried = []

    def compile_program(experiment, signature, example, lanes, devices, cells):
        found = original(experiment, signature, example, lanes or 16, devices, cells)
        tried.append(found.lanes)

        def execute(*arguments):
            if found.lanes > 4:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte.")
            return found.execute(*arguments)

        return engine_module.Compiled(**{**vars(found), "execute": execute})

    original = engine_module.compile_program
    monkeypatch.setattr(engine_module, "compile_program", compile_program)
    rows = collect(Engine(countdown()), cells_of(range(1, 30)))
    assert tried == [16, 8, 4]
    assert len(rows) == 29
    assert all(row["status"] == "converged" for row in rows.values())


def test_a_cell_that_does_not_fit_alone_is_reported_and_the_other_programs_run(monkeypatch):
    def compile_program(experiment, signature, example, lanes, devices, cells):
        if signature == 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return original(experiment, signature, example, lanes or 4, devices, cells)

    original = engine_module.compile_program
    monkeypatch.setattr(engine_module, "compile_program", compile_program)
    rows = collect(Engine(countdown()), [*cells_of([3, 4]), ("big", {"length": 2, "program": 1})])
    assert rows["big"]["status"] == "oom"
    assert rows["c0"]["status"] == rows["c1"]["status"] == "converged"


def test_other_failures_of_a_program_are_not_taken_for_lack_of_memory(monkeypatch):
    def compile_program(*arguments):
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    monkeypatch.setattr(engine_module, "compile_program", compile_program)
    rows = collect(Engine(countdown()), cells_of([1, 2]))
    assert [row["status"] for row in rows.values()] == ["error"] * 2
    assert rows["c0"]["status_detail"] == "JaxRuntimeError: INTERNAL: a bug"


@pytest.mark.parametrize(("failing", "lanes"), [(0, 8), (2, 2), (9, 2), (3, 8)])
@pytest.mark.parametrize("words", ["RESOURCE_EXHAUSTED: ", "INTERNAL: Error dispatching computation: "])
def test_out_of_memory_in_any_slice_loses_no_cell(monkeypatch, failing, lanes, words):
    calls = []

    def execute(program, *arguments):
        calls.append(program.lanes)
        if len(calls) == failing + 1:
            raise jax.errors.JaxRuntimeError(f"{words}Out of memory allocating 1 byte.")
        return program.execute(*arguments)

    slices(monkeypatch, execute)
    lengths = [1 + i % 5 for i in range(40)]
    engine = Engine(countdown(), lanes=lanes, devices=1, slice_seconds=1e-6)
    rows = [row for rows in engine.run(cells_of(lengths)) for row in rows]
    assert sorted(row["cell"] for row in rows) == sorted(f"c{i}" for i in range(40))
    totals = {row["cell"]: row["total"] for row in rows}
    assert all(totals[f"c{i}"] == n * (n + 1) / 2 for i, n in enumerate(lengths))
    assert calls[failing + 1] == lanes // 2


def test_cells_that_are_given_back_wait_in_the_order_of_their_start():
    queue = engine_module._Queue(deque("ef"), deque([("c", None), ("d", None)]), {1: "a", 0: "b"})
    assert queue.give_back() == 2
    assert (list(queue.waiting), queue.occupied, list(queue.prepared)) == (list("abcdef"), {}, [])


def raising(function, wrong, error):
    """Return a function of the settings that raises for the cells that `wrong` says."""

    def called(settings, *more):
        if wrong(settings):
            raise error
        return function(settings, *more)

    return called


@pytest.mark.parametrize("name", ["signature", "prepare", "row"])
@pytest.mark.parametrize("lanes", [1, 4])
def test_a_cell_whose_own_functions_raise_costs_itself_only(name, lanes):
    error = ValueError("no\u202e luck\nat all " + "x" * 500)
    experiment = countdown()
    wrong = raising(getattr(experiment, name), lambda settings: settings["length"] in (1, 4, 9), error)
    engine = Engine(replace(experiment, **{name: wrong}), lanes=lanes, devices=1)
    rows = [row for rows in engine.run(cells_of(range(1, 10))) for row in rows]
    assert sorted(row["cell"] for row in rows) == [f"c{i}" for i in range(9)]
    ended = {row["cell"]: row for row in rows}
    assert [cell for cell in sorted(ended) if ended[cell]["status"] == "error"] == ["c0", "c3", "c8"]
    assert {ended[cell]["status_detail"] for cell in ("c0", "c3", "c8")} == {r"ValueError: no\u202e luck"}
    assert all(row["total"] > 0 for row in rows if row["status"] == "converged")


def test_a_detail_is_one_short_printable_line():
    assert failures.detail(KeyError()) == "KeyError"
    line = failures.detail(ValueError("x" * 500))
    assert len(line) == 200
    assert line.startswith("ValueError: xxx")


def test_a_program_that_cannot_be_built_costs_its_own_cells_only():
    build = raising(countdown().build, lambda signature: signature == 1, TypeError("no such thing"))
    cells = [*cells_of([3, 4]), *((f"bad{i}", {"length": 2, "program": 1}) for i in range(3))]
    rows = collect(Engine(replace(countdown(), build=build)), cells)
    assert [rows[f"bad{i}"]["status_detail"] for i in range(3)] == ["TypeError: no such thing"] * 3
    assert rows["c0"]["status"] == rows["c1"]["status"] == "converged"


def test_inputs_of_another_shape_than_those_of_the_program_are_an_error_of_the_cell():
    def prepare(settings):
        return {"length": np.full((2,) if settings["length"] == 3 else (), settings["length"], np.int32)}

    rows = collect(Engine(replace(countdown(), prepare=prepare), lanes=2), cells_of([1, 2, 3, 4]))
    assert [row["status"] for _, row in sorted(rows.items())] == ["converged", "converged", "error", "converged"]
    assert rows["c2"]["status_detail"] == "ValueError: prepare returned shape (2,), its program has ()"


@pytest.mark.parametrize(("faults", "failed"), [(1, 0), (2, 1), (100, 7)])
def test_cells_of_a_slice_that_fails_run_again_alone(monkeypatch, faults, failed):
    calls = []

    def execute(program, *arguments):
        calls.append(0)
        if len(calls) <= faults:
            raise jax.errors.JaxRuntimeError("INTERNAL: a fault")
        return program.execute(*arguments)

    slices(monkeypatch, execute)
    rows = collect(Engine(countdown(), lanes=2, devices=1), cells_of(range(1, 8)))
    assert [rows[f"c{i}"]["status"] for i in range(7)] == ["error"] * failed + ["converged"] * (7 - failed)


@pytest.mark.parametrize("error", [StorageError("full"), KeyboardInterrupt(), SystemExit(3)])
def test_a_full_disk_and_a_request_to_stop_are_no_error_of_a_cell(error):
    prepare = raising(countdown().prepare, lambda settings: settings["length"] == 2, error)
    with pytest.raises(type(error)):
        collect(Engine(replace(countdown(), prepare=prepare), lanes=1, devices=1), cells_of([1, 2, 3]))


def test_a_host_without_memory_for_the_inputs_of_a_cell_loses_none():
    left = [MemoryError()] * 3

    def prepare(settings):
        if settings["length"] == 5 and left:
            raise left.pop()
        return countdown().prepare(settings)

    rows = collect(Engine(replace(countdown(), prepare=prepare), lanes=16, devices=1), cells_of(range(1, 30)))
    assert len(rows) == 29
    assert all(row["status"] == "converged" for row in rows.values())


@pytest.mark.parametrize("lanes", [1, 4])
def test_a_cell_that_takes_too_long_is_stopped_and_its_lane_is_used_again(lanes):
    lengths = [2, 2 * 10**9, 3, 4, 2 * 10**9, 5, 6, 7, 8]
    engine = Engine(countdown(), lanes=lanes, devices=1, slice_seconds=0.02, cell_timeout=0.2)
    rows = collect(engine, cells_of(lengths))
    late = [cell for cell, row in rows.items() if row["status"] == "timeout"]
    assert sorted(late) == ["c1", "c4"]
    assert all(0.2 <= rows[cell]["seconds"] < 5 for cell in late)
    assert all("execution.cell_timeout is 0.2 s" in rows[cell]["status_detail"] for cell in late)
    assert all(rows[f"c{i}"]["total"] == n * (n + 1) / 2 for i, n in enumerate(lengths) if n < 100)


def test_a_cleared_lane_idles_and_the_others_keep_every_bit():
    state = {"left": jnp.arange(1, 5), "deep": {"x": jnp.arange(24.0).reshape(4, 3, 2) + 1}}
    idle = jax.tree.map(lambda leaf: np.zeros((), leaf.dtype), state)
    cleared = programs.with_lanes(state, np.array([False, True, False, False]), idle)
    kept = np.array([0, 2, 3])
    chex.assert_trees_all_equal_shapes_and_dtypes(cleared, state)
    chex.assert_trees_all_equal(jax.tree.map(lambda x: x[kept], cleared), jax.tree.map(lambda x: x[kept], state))
    assert not any(leaf[1].any() for leaf in jax.tree.leaves(cleared))


def test_slices_and_refills_trace_a_program_once(monkeypatch):
    chex.clear_trace_counter()
    monkeypatch.setattr(programs, "slice_of_lanes", chex.assert_max_traces(slice_of_lanes, n=1))
    engine = Engine(countdown(), lanes=2, devices=1, slice_seconds=1e-6)
    batches = list(engine.run(cells_of([1, 30, 2, 7, 1, 50, 3])))
    assert len(batches) > 8
    assert len(engine.compilations) == 1


def test_costly_programs_run_first():
    experiment = countdown(flops=lambda settings: settings["length"])
    engine = Engine(experiment, lanes=2)
    order = [
        row["cell"] for rows in engine.run([("a", {"length": 1}), ("b", {"length": 99, "program": 1})]) for row in rows
    ]
    assert order == ["b", "a"]


def settings(n, m, replicate, *, precision="f32", factor=1.0, activation="exp"):
    return {
        "experiment": "threshold", "seed": 5, "replicate": replicate, "precision": precision,
        "data": {"kind": "sphere", "n": n, "d": n, "labels": {"kind": "sign"}, "allow_duplicates": False},
        "network": {"m": m, "activation": activation, "init": "coupled", "scale": 1.0},
        "training": {
            "optimizer": {"name": "sgd"},
            "step_size": {"rule": "spectral", "factor": factor, "value": None, "schedule": None},
            "max_steps": {"flow_time": 2.0, "at_most": 2000}, "tolerance": 0.05, "relative": False,
            "measure_every": 16, "divergence": 1e4, "curve": {"points": 16, "spacing": "logarithmic"},
        },
        "measure": ["E0", "E1", "E1s", "E1m", "E3", "E4", "E5"],
    }  # fmt: skip


def same(one, other):
    """Return the columns in which two rows differ in any bit."""
    ignored = {"seconds"}
    return [
        key for key in one if key not in ignored and not np.array_equal(one[key], other[key], equal_nan=_real(one[key]))
    ]


def _real(value):
    return np.asarray(value).dtype.kind == "f"


@pytest.mark.parametrize("precision", ["f32", "f64"])
def test_rows_do_not_depend_on_lanes_neighbours_or_slices_in_any_bit(precision):
    cells = [(f"{m}-{r}", settings(6, m, r, precision=precision)) for m in (8, 40) for r in range(4)]
    train = EXPERIMENTS["threshold"]
    reference = collect(Engine(train, lanes=16, slice_seconds=10), cells)
    assert {row["status"] for row in reference.values()} >= {"converged"}
    few = collect(Engine(train, lanes=2, slice_seconds=1e-6), cells[::-1])
    alone = collect(Engine(train, lanes=1, devices=1), cells[:2])
    for name, row in reference.items():
        assert same(row, few[name]) == []
        assert name not in alone or same(row, alone[name]) == []


def test_one_device_gives_the_rows_of_several_in_every_bit():
    """XLA would compile for one device along another path: rows of one and of two devices once differed."""
    product = {"n": [64], "d": [4], "problem.move": ["gd", "newton"], "replicate": {"count": 6}}
    sweep = checks.sweep(api.load_config({"experiment": "in_context", "name": "bits", "sweep": {"product": product}}))
    cells = [(cell, settings) for cell, (settings, _) in sweep.cells.items()]
    one, two = (collect(Engine(sweep.experiment, devices=count), cells) for count in (1, 2))
    assert len(one) == len(two) == 12
    assert {name: same(row, two[name]) for name, row in one.items()} == {name: [] for name in one}


@pytest.mark.parametrize("factor", [50.0, float("nan"), float("inf")])
def test_a_bad_run_costs_itself_only(factor):
    good = [(f"g{r}", settings(6, 40, r)) for r in range(4)]
    bad = [(f"b{r}", settings(6, 40, r, factor=factor)) for r in range(3)]
    train = EXPERIMENTS["threshold"]
    clean = collect(Engine(train, lanes=4), good)
    mixed = collect(Engine(train, lanes=4), [good[0], *bad, *good[1:]])
    assert {mixed[name]["status"] for name, _ in bad} <= {"diverged", "nonfinite", "max_steps"}
    assert all(not mixed[name]["E5"] and mixed[name]["steps"] <= 40 for name, _ in bad)
    assert all(same(clean[name], mixed[name]) == [] for name, _ in good)


def test_vmapped_lanes_agree_with_lanes_one_after_the_other():
    train = EXPERIMENTS["threshold"]
    inputs = [train.prepare(settings(6, m, r, precision="f64")) for m, r in ((8, 0), (16, 1), (40, 2), (40, 3))]
    program = train.build(train.signature(settings(6, 40, 0, precision="f64")))
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *inputs)
    idle = jax.tree.map(lambda s: jnp.zeros((4, *s.shape), s.dtype), jax.eval_shape(program.init, inputs[0]))
    fresh = np.array([True, True, False, True])
    runs = []
    for batch in (None, 4):
        step = jax.jit(partial(slice_of_lanes, program, batch, batch))
        state, running, _ = step(idle, fresh, stacked, 1)
        assert running.tolist() == fresh.tolist()
        _, running, record = step(state, np.zeros(4, bool), stacked, 1000)
        assert not running.any()
        runs.append(jax.tree.map(np.asarray, record))
    for name, values in runs[0].items():
        np.testing.assert_allclose(values, runs[1][name], rtol=1e-9, atol=1e-12, err_msg=name)
