"""One network over many devices: the run of one device, one sum of n numbers per step; also in several processes."""

import json
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sharding import both, ended, loops, start

from expreg import api, checks
from expreg.commands import plan_lines
from expreg.core.engine import checkpoints, estimate
from expreg.core.engine.checkpoints import Checkpoints
from expreg.core.engine.lanes import Engine
from expreg.errors import InputError
from expreg.kinds import EXPERIMENTS
from expreg.kinds.network.start import spread
from expreg.types import Experiment, Program

pytestmark = pytest.mark.clusters

N, STEPS, LENGTH = 6, 500, 800
KEYS = ("network.init", "training.optimizer.name", "precision", "data.d")
KINDS = (
    ("coupled", "sgd", "f32", 6),
    ("iid", "sgd", "f64", 2),
    ("coupled", "adam", "f64", 6),
    ("iid", "adam", "f32", 2),
)
"""The first trains in Gram space, the others in weight space."""
CONFIG = {
    "experiment": "threshold",
    "name": "sharded",
    "data": {"kind": "sphere", "n": N, "d": 6},
    "training": {
        "max_steps": STEPS,
        "tolerance": 1e-5,
        "step_size": {"factor": 0.02},
        "curve": {"points": STEPS + 1, "spacing": "regular"},
    },
    "measure": ["E0", "E1", "E1m", "E2", "E3", "E4", "E5", "Ecert", "E3cert", "E4cert"],
    "execution": {"shard": "neurons"},
    "sweep": {
        "concat": [{name: [value] for name, value in zip(KEYS, values, strict=True)} for values in KINDS],
        "product": {"m": [1008, 1002]},  # 8 devices divide the columns of the first, not of the second
    },
}
NO_KERNEL = {"sweep": None, "network.m": 1002, "measure": ["E4", "E5"]}
CLOSE = {"f32": 1e-6, "f64": 1e-14}
"""Of the residual at any step, in units of its start."""

EIGHT = """
run({}, "whole")
run(json.loads(sys.argv[2]), "without")
write_programs("dtype")
programs.forget()
from expreg.kinds.network import initial
draw = initial.draw
initial.draw = lambda static, inputs: draw(static, inputs._replace(m=static.neurons * static.branches))
run(json.loads(sys.argv[2]), "unmasked")
"""
BOTH = """
for again in range(2):  # of the second only one knows that nothing is left to do
    run(json.loads(sys.argv[2]), "whole")
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return the run that is not sharded."""
    return api.run(CONFIG, {"execution.shard": "cells"}, tmp_path_factory.mktemp("alone") / "whole", draw=False)


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """Return a folder with what 8 devices left: two runs, one whose padding is not masked, and their programs."""
    folder = tmp_path_factory.mktemp("eight")
    ended(start(folder, 8, EIGHT, CONFIG, NO_KERNEL))
    return folder


def curves(run):
    return {cell: of["residual"].to_numpy() for cell, of in run.curves.groupby("cell")}


def furthest(run, other):
    """Return the largest difference of residuals, in units of their start, by cell."""
    ours, theirs = curves(run), curves(other)
    assert set(ours) <= set(theirs)
    assert all(len(curve) == STEPS + 1 for curve in theirs.values())
    return {cell: np.abs(curve - theirs[cell][: len(curve)]).max() / theirs[cell][0] for cell, curve in ours.items()}


def test_residuals_are_those_of_one_device_at_every_step(alone, eight):
    precision = alone.cells.set_index("cell")["precision"]
    found = furthest(api.load(eight / "whole"), alone)
    assert len(found) == len(precision) == 8
    for cell, distance in found.items():
        assert distance <= CLOSE[precision[cell]]
    falls = [curve[-1] / curve[0] for curve in curves(alone).values()]
    assert max(falls) < 0.99
    assert min(falls) > 1e-4  # not at its rounding


def test_events_movement_and_certificate_are_those_of_one_device(alone, eight):
    ours, theirs = (run.cells.set_index("cell").sort_index() for run in (api.load(eight / "whole"), alone))
    events = CONFIG["measure"]
    assert theirs["Ecert"].nunique() == 2
    assert theirs[events].notna().any().all()
    for name in theirs.columns.drop(["seconds", "status_detail"]):
        for cell, precision in theirs["precision"].items():
            found, expected = ours.loc[cell, name], theirs.loc[cell, name]
            if isinstance(expected, float) and math.isfinite(expected):
                assert found == pytest.approx(expected, rel={"f32": 1e-4, "f64": 1e-11}[precision]), name
            else:
                assert repr(found) == repr(expected), name


def test_padding_that_is_not_masked_would_be_seen(eight):
    (found,) = furthest(api.load(eight / "unmasked"), api.load(eight / "without")).values()
    assert not found < 1e-2


# --- what devices send ----------------------------------------------------------------------------


def test_a_step_sends_n_numbers_and_a_measurement_of_the_gram_matrix_n_squared_more(eight):
    """One number more at each measurement, the largest movement, and where there are radii one in these."""
    texts = sorted(eight.glob("*.hlo"))
    assert len(texts) == 5
    numbers = []
    for path in texts:
        size = {"float32": 4, "float64": 8}[path.name.split("-")[0]]
        ((measured, step),) = loops(path.read_text())
        assert step == [("all-reduce", N * size)]
        assert {operation for operation, _ in measured} == {"all-reduce"}
        numbers.append(sum(sent for _, sent in measured) / size)
    assert sorted(numbers) == [1, *[N**2 + 2] * 4]


# --- several processes ----------------------------------------------------------------------------


def test_two_processes_leave_what_one_leaves_in_one_directory(eight, tmp_path):
    folders = both(tmp_path, BOTH, CONFIG, NO_KERNEL)
    assert not list(folders[1].iterdir())
    run = api.load(folders[0] / "whole")
    assert json.loads((run.directory / "manifest.json").read_text())["ending"] == "finished"
    (found,) = furthest(run, api.load(eight / "without")).values()
    assert found <= CLOSE["f32"]


# --- checkpoints ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shard", ["neurons", "rows"])
def test_a_state_of_two_devices_goes_on_with_one(shard, tmp_path, monkeypatch):
    """A run whose state is split begins on both; one goes on from where it was saved."""
    taken = []

    def advance(state):
        jax.debug.callback(lambda step: taken.append(int(step)), state["step"])
        return {**state, "step": state["step"] + 1, "value": state["value"] * 0.999 + jnp.sin(state["value"])}

    program = Program(
        init=lambda start: {"step": jnp.int32(0), **start},
        advance=advance,
        running=lambda state: (state["step"] < LENGTH) & (state["value"][0] != 0),
        record=lambda state: {"value": state["value"]},
        split={"value": -1},
    )
    walk = Experiment(
        name="walk",
        signature=lambda _: 0,
        build=lambda _: program,
        prepare=lambda _: {"value": np.linspace(1, 2, 2000)},
        row=lambda _, record: {"status": "converged", "value": record["value"].tobytes()},
    )

    def run(devices, stop=lambda: False):
        kept = Checkpoints(tmp_path, 0.0)
        engine = Engine(walk, devices=devices, shard=shard, slice_seconds=0.02, stop=stop, checkpoints=kept)
        found = [row["value"] for rows in engine.run([("cell", {})]) for row in rows]
        jax.effects_barrier()
        return found

    monkeypatch.setattr(checkpoints, "SHARE", 1e9)  # of the time, for saving: all of it
    assert not run(2, lambda: len(taken) > LENGTH // 4)
    first, resumed = len(taken), run(1)
    assert LENGTH // 4 < first < LENGTH
    assert min(taken[first:]) > LENGTH // 8
    shutil.rmtree(tmp_path)
    assert resumed == run(2)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("experiment", ["regression", "concentration", "capacity"])
def test_an_experiment_that_has_no_neurons_to_split_is_refused(experiment):
    expected = "cells or rows" if experiment == "regression" else "cells"
    match = rf"execution\.shard: got neurons, expected {expected} for {experiment}; neurons are for threshold and"
    with pytest.raises(InputError, match=match) as caught:
        api.plan(f"configs/{experiment}.yaml", ["execution.shard=neurons"])
    assert caught.value.exit_code == 2


def test_neurons_that_devices_cannot_share_evenly_are_refused(monkeypatch):
    threshold = EXPERIMENTS["threshold"]
    odd = replace(threshold, spread=threshold.spread._replace(signature=lambda _: SimpleNamespace(neurons=5041)))
    monkeypatch.setitem(EXPERIMENTS, "threshold", odd)
    with pytest.raises(InputError, match=r"execution\.devices: got 2, .* such as 1"):
        checks.sweep(api.load_config(CONFIG))
    checks.sweep(api.load_config(CONFIG, {"execution.devices": 1}))


def test_padding_suits_many_numbers_of_devices_and_is_a_small_share():
    for count in (1, 501, 5040, 5041, 2**17 - 1, 2**17, 10**6, 5 * 10**9):
        padded = spread(count)
        assert padded >= count
        assert all(padded % devices == 0 for devices in (*range(1, 11), 12, 14, 15, 16))
        assert padded < max(1.08 * count, count + 5040)
    assert spread(5 * 10**9) % 2**18 == 0


def test_a_network_too_large_for_a_device_is_planned_for_several_and_refused_by_a_run(monkeypatch, tmp_path):
    wide = {"sweep": None, "network.m": 2**20, "execution.shard": "cells"}
    [settings] = [one for one, _ in checks.sweep(api.load_config(CONFIG, wide)).cells.values()]
    room = EXPERIMENTS["threshold"].spread.cost(settings).bytes / 1.5
    monkeypatch.setattr(estimate, "memory", lambda device: 2 * room)  # of two cores
    monkeypatch.setattr(estimate, "measured_speed", lambda experiment: 1e9)
    found = api.plan(CONFIG, wide)
    assert found["devices_needed"] == 2
    assert "execution.shard: neurons spreads it over 2 such devices" in "\n".join(plan_lines(found, []))
    with pytest.raises(InputError, match=r"E-MEM.* m=1048576 .*; execution\.shard: neurons .* at least 2 such"):
        api.run(CONFIG, wide, tmp_path / "run")
    assert not list(tmp_path.iterdir())
    both = wide | {"execution.shard": "neurons"}
    checks.sweep(api.load_config(CONFIG, both))  # two devices have the room
    with pytest.raises(InputError, match=r"E-MEM.* on 1 devices"):
        checks.sweep(api.load_config(CONFIG, both | {"execution.devices": 1}))
