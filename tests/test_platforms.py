"""Programs for accelerators: what they compute is compared on the CPU, and every kind lowers for CUDA and TPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from runs import alone_and_together, make

from expreg import api
from expreg.core.config.cells import cells
from expreg.core.engine.packing import packed
from expreg.core.engine.programs import slice_of_lanes
from expreg.kinds import EXPERIMENTS
from expreg.kinds.network import descent, native


@pytest.mark.parametrize(("form", "optimizer"), [("gram", "sgd"), ("gram", "momentum"), ("weight", "adam")])
@pytest.mark.parametrize("activation", ["exp", "cosh"])
def test_lanes_that_have_ended_stand_still_in_loops_of_fixed_length(form, optimizer, activation):
    alone, together = alone_and_together("fixed", form, optimizer=optimizer, activation=activation)
    for name, values in alone.items():
        np.testing.assert_allclose(together[name], values, rtol=1e-9, atol=1e-12, err_msg=name)


# --- programs for other platforms


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
