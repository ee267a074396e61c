"""The kernels for GPUs, run by an emulator on the CPU, and compiled where NVRTC is installed."""

import itertools
from types import SimpleNamespace

import emulated
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import alone_and_together, make

from expreg.activation import ACTIVATIONS
from expreg.core.engine.devices import numerics
from expreg.kinds.network import descent, initial, kernel

needs_compiler = pytest.mark.skipif(emulated.COMPILER is None, reason="there is no C++ compiler")
LAYOUTS = {
    "two blocks of points": ("exp", "iid", {"n": 20, "d": 20, "m": 40}, None),
    "a padded width": ("exp", "coupled", {"bucket": 64}, None),
    "cosh": ("cosh", "iid", {}, None),
    "sinh": ("sinh", "coupled", {}, None),
    "more points than threads of a warp": ("exp", "iid", {"n": 35, "d": 35, "m": 20, "every": 4}, None),
    "two blocks of threads": ("exp", "coupled", {"n": 12, "d": 12, "m": 90}, (32, 3, 2, True, True)),
    "four blocks of threads, all in memory": ("exp", "iid", {"n": 9, "d": 9, "m": 120}, (32, 2, 4, False, False)),
    "two warps, an odd number of groups": ("sinh", "coupled", {"n": 9, "d": 9, "m": 150}, (64, 5, 1, True, False)),
}


@needs_compiler
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_kernel_takes_the_steps_of_xla(name, monkeypatch):
    """Lanes that end in the midst of a block, each in its own way."""
    activation, init, shape, forced = LAYOUTS[name]
    emulated.install(monkeypatch)
    if forced:
        monkeypatch.setattr(kernel, "layout", lambda *_: kernel.Layout(*forced))
    alone, together = alone_and_together("kernel", "gram", activation, init, np.float32, reach=True, **shape)
    for key, values in alone.items():
        largest = np.abs(values, where=np.isfinite(values), out=np.zeros(values.shape)).max(initial=0)
        np.testing.assert_allclose(together[key], values, rtol=2e-5, atol=1e-6 * largest, err_msg=key)


@needs_compiler
@pytest.mark.parametrize("activation", kernel.ACTIVATION)
def test_the_change_of_one_neuron_is_exact_to_rounding(activation, monkeypatch):
    """On both sides of the range of polynomials; as multiples of 1/1024, increments are exact on tensor cores."""
    emulated.install(monkeypatch)
    phi, z0 = ACTIVATIONS[activation], 0.7
    dl = np.concatenate([np.linspace(-0.5, 0.5, 33), [0.25 + 1 / 1024, -0.25 - 1 / 1024, 3.0, 1 / 1024]])
    one, base = jnp.ones((), jnp.float32), [np.float32([[value]]) for value in phi.base(np.float64(z0))]
    shape = SimpleNamespace(n=1, neurons=1, branches=1, activation=activation, measure_every=1)

    def size(theta):
        state = SimpleNamespace(
            **dict.fromkeys(("eta", "step", "budget", "status"), one),
            gram=one[None, None],
            signs=one[None, None],
            initial_residual=0 * one[None],
            base=base,
            inputs=SimpleNamespace(scale=one, tolerance=0 * one, m=1),
            theta=theta,
            radii=None,
        )
        return kernel.steps(shape, state, 1e9 * one)[2][0]

    with numerics():
        found = np.asarray(jax.vmap(size)(np.float32(dl)[:, None, None, None]), float)
    exact = np.abs(phi.increment([b.astype(float)[0, 0] for b in base], dl)[0])
    np.testing.assert_allclose(found, exact, rtol=4 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("activation", ["exp", "cosh"])
@pytest.mark.parametrize(("capability", "memory"), [("9.0", 227), ("8.0", 163), ("8.9", 99)])
def test_a_layout_fits_the_multiprocessor(monkeypatch, activation, capability, memory):
    monkeypatch.setattr(kernel, "_capability", lambda: capability)
    fits = 0
    for n in range(1, 70):
        for columns in (1, 2, 30, 64, 256, 1000, 1024, 2048, 4096, 8192):
            found = kernel.layout(n, columns, activation)
            if found is None:
                continue
            fits += 1
            kept = found.groups * -(-n // 8) * 4 * (1 + found.slopes + found.bases * (1 if activation == "exp" else 2))
            assert n <= kernel.POINTS
            assert found.bytes(n) <= 1024 * memory
            assert kept + 60 <= min(255, 65536 // found.threads)
            assert found.ranks == 1 or capability == "9.0"
            assert 16 * found.groups * found.ranks * found.threads // 32 >= columns
    assert fits > 100


def test_the_kernel_covers_plain_descent_in_float32_where_it_fits(monkeypatch):
    monkeypatch.setattr(kernel, "missing", lambda: "")
    monkeypatch.setattr(kernel, "_capability", lambda: "9.0")
    small = {"dtype": np.float32}
    assert kernel.covers(make(**small)[0])
    assert kernel.covers(make(**small, n=64, d=64, m=4096)[0])
    for other in ({"form": "weight"}, {"dtype": np.float64}, {"optimizer": "momentum"}, {"activation": "relu"}):
        assert not kernel.covers(make(**small | other)[0])
    for large in ({"n": 64, "m": 4098}, {"n": 65, "m": 8}):
        assert not kernel.covers(make(**small, d=65, **large)[0])


@needs_compiler
@pytest.mark.parametrize("n", [1, 2, 3, 8, 31, 33, 64])
def test_extreme_eigenvalues_are_those_of_lapack(n, monkeypatch):
    emulated.install(monkeypatch)
    rng = np.random.default_rng(n)
    A, diagonal = rng.standard_normal((n, n)), np.geomspace(1e-12, 1, n)
    Q = np.linalg.qr(A)[0]
    matrices = [A @ A.T, A + A.T, np.diag(diagonal), Q * diagonal @ Q.T, np.ones((n, n)) * 1e-200, A @ A.T * 1e150]
    matrices += [np.zeros((n, n)), np.eye(n), np.eye(n) + np.eye(n, k=1) * 1e-160 + np.eye(n, k=-1) * 1e-160]
    with numerics():
        low, high = kernel.extremes(jnp.asarray(np.stack(matrices)))
        holes = np.stack([np.eye(n)] * 2)
        holes[0, 0, 0] = holes[1, -1, -1] = np.nan
        unknown = kernel.extremes(jnp.asarray(holes))
    expected = np.linalg.eigvalsh(np.stack(matrices))
    size = np.abs(expected).max(axis=1) + np.finfo(float).tiny
    assert np.all(np.abs(low - expected[:, 0]) <= 2e-15 * n**0.5 * size)
    assert np.all(np.abs(high - expected[:, -1]) <= 2e-15 * n**0.5 * size)
    assert np.isnan(unknown).all()


@needs_compiler
def test_kernels_are_tried_also_by_those_who_trace_a_program(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    emulated.install(monkeypatch)
    kernel._missing.cache_clear()
    with numerics():
        low, high = jax.jit(initial.extremes)(jnp.diag(jnp.arange(1.0, 4.0))[None])
    assert (float(low[0]), float(high[0])) == pytest.approx((1, 3))
    assert kernel.missing() == ""
    kernel._missing.cache_clear()


@needs_compiler
def test_kernels_that_fail_their_trial_are_not_used(monkeypatch):
    ask = kernel._missing.__wrapped__
    assert "this is a CPU" in ask()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for capability in ("7.5", "gfx942"):
        monkeypatch.setattr(kernel, "_capability", lambda given=capability: given)
        assert f"this GPU has {capability}" in ask()
    emulated.install(monkeypatch)
    assert ask() == ""
    emulated.install(monkeypatch, edit=("low = __float_as_uint(value - rounded)", "low = 0"))
    assert "off by 1e-04" in ask() or "off by 2e-04" in ask()
    emulated.install(monkeypatch)
    with numerics():
        pairs = kernel._trial()
    for place, wrong in itertools.product(range(len(pairs)), (1.0001, np.nan)):
        spoiled = [(found * (wrong if i == place else 1), *rest) for i, (found, *rest) in enumerate(pairs)]
        with monkeypatch.context() as patch:
            patch.setattr(kernel, "_trial", lambda spoiled=spoiled: spoiled)
            assert "off by" in ask()
    monkeypatch.setattr(kernel, "_trial", lambda: 1 / 0)
    assert ask() == "ZeroDivisionError: division by zero"
    monkeypatch.setenv("EXPREG_NATIVE", "off")
    assert ask() == "EXPREG_NATIVE is off"


@pytest.mark.parametrize("n", [5, 16, 48])
def test_all_lanes_are_one_launch(n, monkeypatch):
    monkeypatch.setattr(kernel, "_capability", lambda: "9.0")
    monkeypatch.setattr(kernel, "_compiled", lambda *_: "")
    signature, inputs = make(dtype=np.float32, n=n, d=n, m=1024)
    program = descent.program(signature, by="kernel")
    state = jax.eval_shape(program.init, jax.tree.map(jnp.asarray, inputs))
    lanes = jax.tree.map(lambda a: jax.ShapeDtypeStruct((16, *a.shape), a.dtype), state)
    text = jax.jit(jax.vmap(program.advance)).trace(lanes).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("gpu.ptx") == 1
    assert f"grid_x = {16 * kernel.layout(n, 1024, 'exp').ranks} : i32" in text


def test_the_kernels_compile_for_gpus(monkeypatch, tmp_path):
    pytest.importorskip("nvidia.cuda_nvrtc")
    monkeypatch.setenv("EXPREG_CACHE", str(tmp_path))
    lane = {"STEPS": 64, "RADII": 1, "BRANCHES": 2}
    for capability in ("8.0", "9.0"):
        monkeypatch.setattr(kernel, "_capability", lambda given=capability: given)
        kernel._compiled.cache_clear()
        for activation, n, columns in [("exp", 8, 64), ("cosh", 20, 512), ("exp", 64, 1024)]:
            place = kernel.layout(n, columns, activation)
            assert (place is None) == (capability == "8.0" and n == 64)
            if place:
                constants = {"N": n, "P": columns // 2, "ACTIVATION": kernel.ACTIVATION[activation], **lane}
                constants |= dict(zip(("T", "GROUPS", "RANKS", "SLOPES", "BASES"), map(int, place), strict=True))
                text = kernel._compiled("steps", tuple(constants.items()))
                assert ".entry expreg_steps" in text
                assert "\n.version 8.3\n" in text
        assert ".entry expreg_extremes" in kernel._compiled("extremes", (("N", 8),))
    kernel._compiled.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(kernel, "_by_nvrtc", None)  # the second process finds them in the cache
        assert ".entry expreg_extremes" in kernel._compiled("extremes", (("N", 8),))
    with pytest.raises(RuntimeError, match="NVRTC: .*error"):
        kernel._by_nvrtc("__global__ void broken( {}", ())
    kernel._compiled.cache_clear()
