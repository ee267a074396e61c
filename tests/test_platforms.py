"""Programs for accelerators: what they compute is compared on the CPU, and every kind lowers for CUDA and TPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from runs import make

from expreg import api
from expreg.core.config.cells import cells
from expreg.core.engine.packing import packed
from expreg.core.engine.programs import slice_of_lanes
from expreg.kinds import EXPERIMENTS
from expreg.kinds.network import descent, native
from expreg.types import Status

RUNS = [
    {"max_steps": 50, "y": np.array([1.0, -1.0, 1.0, 1.0, -1.0])},
    {"max_steps": 7},
    {"tolerance": 0.3},
    {"step_factor": 8.0, "divergence": 4.0},
    {"max_steps": 0},
]


def finished(by, lanes, signature, inputs):
    program = descent.program(signature, by=by)

    def run(one):
        return program.record(jax.lax.while_loop(program.running, program.advance, program.init(one)))

    return jax.jit(lambda all: jax.lax.map(run, all, batch_size=lanes))(inputs)


@pytest.mark.parametrize(("form", "optimizer"), [("gram", "sgd"), ("gram", "momentum"), ("weight", "adam")])
@pytest.mark.parametrize("activation", ["exp", "cosh"])
def test_lanes_that_have_ended_stand_still_in_loops_of_fixed_length(form, optimizer, activation):
    """Vmapped runs of different lengths and ends leave what each of them leaves alone, in a loop that it can leave."""
    made = [make(form, optimizer=optimizer, activation=activation, **change) for change in RUNS]
    signature = made[0][0]
    inputs = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(inputs for _, inputs in made))
    alone, together = (finished(by, n, signature, inputs) for by, n in (("early", 1), ("fixed", len(RUNS))))
    ends = {Status(int(status)) for status in alone["status"]}
    assert len(ends) > 1
    assert len(set(np.asarray(alone["steps"]).tolist())) > 2
    for name, values in alone.items():
        np.testing.assert_allclose(together[name], values, rtol=1e-9, atol=1e-12, err_msg=name)


def test_a_loop_for_accelerators_does_not_ask_whether_to_go_on():
    signature, inputs = make()
    loops = {}
    for by in ("early", "fixed"):
        program = descent.program(signature, by=by)
        state = jax.eval_shape(program.init, jax.tree.map(jnp.asarray, inputs))
        loops[by] = str(jax.make_jaxpr(program.advance)(state))
    assert "while[" in loops["early"]
    assert "while[" not in loops["fixed"]


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize(
    "config", ["quickstart", "lazy", "concentration", "capacity", "regression", "in_context", "attention"]
)
def test_programs_lower_for_accelerators(config, platform, monkeypatch):
    """Sixteen vmapped lanes of the first cell's program, for a platform that is not here."""
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(native, "missing", lambda: f"XLA takes the steps on a {platform}")
    loaded = api.load_config(f"configs/{config}.yaml")
    experiment = EXPERIMENTS[loaded.experiment]
    settings, _ = next(iter(cells(loaded)))
    with jax.enable_x64(True):
        inputs = experiment.prepare(settings)
        program, given, _ = packed(experiment.build(experiment.signature(settings)), inputs)
        first = given.pack(inputs)
        state = jax.eval_shape(program.init, first)
        wide = [jax.tree.map(lambda a: jax.ShapeDtypeStruct((16, *a.shape), a.dtype), tree) for tree in (state, first)]
        arguments = (wide[0], jax.ShapeDtypeStruct((16,), bool), wide[1], jax.ShapeDtypeStruct((), jnp.int32))
        body = jax.jit(lambda *a: slice_of_lanes(program, 16, 16, *a))
        found = export.export(body, platforms=[platform])(*arguments)
    assert found.platforms == (platform,)
