"""Programs for accelerators: what they compute is compared on the CPU, and every kind lowers for CUDA and TPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from runs import N, make

from expreg import api
from expreg.core.config.cells import cells
from expreg.core.engine.packing import packed
from expreg.core.engine.programs import slice_of_lanes
from expreg.kinds import EXPERIMENTS
from expreg.kinds.network import descent, kernel, native
from expreg.types import Status

RUNS = [
    {"max_steps": 50},
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


def alone_and_together(by, *given, **more):
    """Return the records of runs that end differently: each by XLA in a loop of its own, and vmapped."""
    labels = np.random.default_rng(5).choice([-1.0, 1.0], (len(RUNS), more.get("n", N)))
    made = [make(*given, y=y, **more, **change) for y, change in zip(labels, RUNS, strict=True)]
    signature = made[0][0]
    inputs = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(inputs for _, inputs in made))
    alone, together = (finished(by, n, signature, inputs) for by, n in (("early", 1), (by, len(RUNS))))
    assert len({Status(int(status)) for status in alone["status"]}) > 1
    assert len(set(np.asarray(alone["steps"]).tolist())) > 2
    return alone, together


@pytest.mark.parametrize(("form", "optimizer"), [("gram", "sgd"), ("gram", "momentum"), ("weight", "adam")])
@pytest.mark.parametrize("activation", ["exp", "cosh"])
def test_lanes_that_have_ended_stand_still_in_loops_of_fixed_length(form, optimizer, activation):
    alone, together = alone_and_together("fixed", form, optimizer=optimizer, activation=activation)
    for name, values in alone.items():
        np.testing.assert_allclose(together[name], values, rtol=1e-9, atol=1e-12, err_msg=name)


# --- the kernel for GPUs


@pytest.mark.parametrize(
    ("activation", "init", "shape"),
    [("exp", "coupled", {}), ("cosh", "iid", {}), ("sinh", "coupled", {}), ("exp", "iid", {"n": 20, "d": 20, "m": 40})],
)
def test_the_kernel_of_gpus_takes_the_steps_of_xla(activation, init, shape):
    """As XLA interprets it: points in one block and in two, columns padded, lanes that end in the midst of a block."""
    alone, together = alone_and_together("interpreted", "gram", activation, init, np.float32, reach=True, **shape)
    for name, values in alone.items():
        largest = max(np.abs(values, where=np.isfinite(values), out=np.zeros(values.shape)).max(initial=0), 1)
        np.testing.assert_allclose(together[name], values, rtol=2e-5, atol=1e-6 * largest, err_msg=name)


@pytest.mark.parametrize("n", [5, 16, 48])
def test_the_kernel_of_gpus_lowers_for_cuda(n):
    signature, inputs = make(dtype=np.float32, n=n, d=n)
    program = descent.program(signature, by="kernel")
    state = jax.eval_shape(program.init, jax.tree.map(jnp.asarray, inputs))
    lanes = jax.tree.map(lambda a: jax.ShapeDtypeStruct((16, *a.shape), a.dtype), state)
    text = jax.jit(jax.vmap(program.advance)).trace(lanes).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("gpu.triton") == 1
    assert "grid_x = 16" in text


def test_the_kernel_of_gpus_takes_what_fits_registers(monkeypatch):
    monkeypatch.setattr(kernel, "missing", lambda: "")
    small = {"dtype": np.float32}
    assert kernel.covers(make(**small)[0])
    assert kernel.covers(make(**small, n=16, d=16, m=1024)[0])
    for other in ({"form": "weight"}, {"dtype": np.float64}, {"optimizer": "momentum"}, {"activation": "relu"}):
        assert not kernel.covers(make(**small | other)[0])
    for large in ({"n": 16, "m": 1026}, {"n": 17, "m": 1024}):
        assert not kernel.covers(make(**small, d=17, **large)[0])


def test_a_kernel_that_fails_its_trial_is_not_used(monkeypatch):
    trial, ask = kernel._trial, kernel.missing.__wrapped__
    assert "this is a CPU" in ask()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "interpret" in ask()  # a kernel of Triton does not compile for a CPU
    monkeypatch.setattr(kernel, "_trial", lambda interpret: trial(True))
    assert ask() == ""
    for wrong in (1.0001, np.nan):
        monkeypatch.setattr(kernel, "_trial", lambda i, by=wrong: [found * (1 if i else by) for found in trial(True)])
        assert "off by" in ask()

    def on_tensor_cores(a, b, **how):
        return jnp.matmul(jax.lax.reduce_precision(a, 8, 10), jax.lax.reduce_precision(b, 8, 10), **how)

    with monkeypatch.context() as patch:
        patch.setattr(jnp, "dot", on_tensor_cores)
        inexact = trial(True)
    monkeypatch.setattr(kernel, "_trial", lambda interpret: trial(True) if interpret else inexact)
    assert "off by" in ask()
    monkeypatch.setenv("EXPREG_NATIVE", "off")
    assert ask() == "EXPREG_NATIVE is off"


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
