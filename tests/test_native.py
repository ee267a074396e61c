"""The compiled steps: the same runs as XLA's, in every range of numbers; absent, they are never missed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import movements
from runs import EVERY, STEPS, M, make, measured, oracle, status_of

from expreg.activation import ACTIVATIONS, Activation
from expreg.core.engine.packing import SMALL, packed
from expreg.kinds.network import descent, native
from expreg.types import Status

pytestmark = pytest.mark.skipif(bool(native.missing()), reason=native.missing() or "there is a compiler")


def both(signature, inputs):
    """Return the records of a run with compiled steps and with those of XLA."""
    found = []
    for by in ("compiled", "early"):
        program = descent.program(signature, by=by)
        state = program.init(jax.tree.map(jnp.asarray, inputs))
        run = jax.jit(lambda s, p=program: p.record(jax.lax.while_loop(p.running, p.advance, s)))
        found.append(jax.tree.map(np.asarray, run(state)))
    return found


@pytest.mark.parametrize("init", ["coupled", "iid"])
@pytest.mark.parametrize("form", ["gram", "weight"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
@pytest.mark.parametrize(("n", "d", "m"), [(1, 1, 2), (5, 3, M), (7, 9, 200)])
def test_compiled_steps_follow_those_of_xla_and_the_slow_loop(n, d, m, dtype, tolerance, form, init):
    """Also where neither points nor columns fill a tile, and where most columns are masked."""
    signature, inputs = make(form, init=init, dtype=dtype, n=n, d=d, m=m, bucket=4 * m)
    own, xla = both(signature, inputs)
    norms, path = oracle(signature, inputs)
    np.testing.assert_allclose(own["curve_residual"], norms, rtol=0, atol=tolerance * norms[0])
    np.testing.assert_allclose(own["max_movement"], movements(path[measured(path)]).max(), rtol=10 * tolerance)
    for name in xla:
        np.testing.assert_allclose(own[name], xla[name], rtol=10 * tolerance, atol=tolerance * norms[0], err_msg=name)


def test_steps_beyond_the_polynomial_are_exact():
    """Pre-activations move by more than 1/2 in the first step, twice the range of the polynomial."""
    signature, inputs = make(y=100 * np.array([1.0, -1.0, 1.0, 1.0, -1.0]), max_steps=2, divergence=1e30, points=3)
    norms, path = oracle(signature, inputs)
    X = np.asarray(inputs.X)
    assert np.abs(X @ (path[1] - path[0])).max() > 0.5
    own, _ = both(signature, inputs)
    np.testing.assert_allclose(own["curve_residual"], norms, rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_step_multiplies_to_rounding_within_the_range_of_the_polynomial_and_beyond(dtype):
    """One neuron, one point, u = 1: after a step of -eta r = D the residual is r + e^D - 1."""
    signature, inputs = make(init="iid", dtype=dtype, n=1, d=1, m=1, X=np.ones((1, 1)), max_steps=1, scale=1.0)
    D = np.concatenate([np.linspace(-0.7, 0.7, 281), [-0.25, 0.25, np.nextafter(dtype(0.25), 1), -20.0, 20.0]])
    state = descent.program(signature, by="compiled").init(jax.tree.map(jnp.asarray, inputs))
    state = state._replace(base=(jnp.ones_like(state.base[0]),), signs=jnp.abs(state.signs))
    size = dtype(2.0**-20)

    def after(D):
        r = -jnp.sign(D) * size
        one = state._replace(eta=jnp.abs(D) / size, initial_residual=r[None])
        return r, native.steps(signature, one, jnp.asarray(np.inf, dtype), False)[2][1]

    r, found = jax.vmap(after)(jnp.asarray(D[D != 0], dtype))
    exact = np.abs(np.asarray(r, float) + np.expm1(D[D != 0].astype(dtype).astype(float)))
    np.testing.assert_allclose(found, exact, rtol=4 * np.finfo(dtype).eps)


def test_xla_copies_nothing_that_the_steps_change_in_place():
    signature, inputs = make(n=8, d=8, m=256, bucket=256)
    program, given, _ = packed(descent.program(signature, by="compiled"), inputs)
    state = jax.eval_shape(program.init, given.pack(inputs))
    run = jax.jit(lambda s: jax.lax.while_loop(program.running, program.advance, s), donate_argnums=0)
    computations = run.lower(state).compile().as_text().split("\n\n")
    (body,) = (text for text in computations if "custom-call" in text and native.TARGETS[0] in text)
    shape = (signature.n, signature.branches, signature.neurons)
    assert np.prod(shape) > SMALL
    made = [line.split(" = ")[1] for line in body.splitlines() if " = " in line]
    large = [line for line in made if line.startswith("f64[{},{},{}]".format(*shape))]
    assert len(large) == 4  # theta and the change of phi, before and after
    assert [line for line in large if " get-tuple-element(" not in line] == []


@pytest.mark.parametrize("size", [1e-200, 1.0, 1e200])
def test_the_norm_of_a_residual_of_any_size_is_known(size):
    signature, inputs = make(n=2, max_steps=0)
    state = descent.program(signature, by="compiled").init(jax.tree.map(jnp.asarray, inputs))
    state = state._replace(initial_residual=size * jnp.asarray([3.0, -4.0]))
    sizes = native.steps(signature, state, jnp.asarray(np.inf), False)[2]
    np.testing.assert_allclose(sizes[0], 5 * size, rtol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_increments_are_made_again_from_theta_over_the_whole_range_of_numbers(dtype):
    """The change of phi is e^{z_0} (e^{dl} - 1) to a few units of rounding, whether dl is tiny, large or negative."""
    size = np.finfo(dtype).maxexp * np.log(2) - 6
    dl = np.concatenate([np.geomspace(1e-30, size, 150), -np.geomspace(1e-30, 2 * size, 150), [0.0]])
    signature, inputs = make(dtype=dtype, n=1, d=1, m=2 * len(dl), X=np.ones((1, 1)), max_steps=0)
    state = descent.program(signature).init(jax.tree.map(jnp.asarray, inputs))
    theta = jnp.asarray(np.broadcast_to(dl, state.theta.shape), dtype)
    moving = state._replace(theta=theta)
    _, change, _, ended, moved = native.steps(signature, moving, jnp.asarray(np.inf, dtype), False)
    exact = np.asarray(state.base[0], float)[:, None, :] * np.expm1(np.asarray(theta, float))
    np.testing.assert_allclose(change, exact, rtol=8 * np.finfo(dtype).eps, atol=0)
    np.testing.assert_allclose(moved[0], 2 * size, rtol=1e-5)
    assert int(ended[0]) == 0


def test_a_run_counts_as_diverged_at_the_first_residual_beyond_its_limit():
    rising = {"step_factor": 1.0, "max_steps": 3}
    norms, _ = oracle(*make(**rising))
    k = int(np.argmax(norms > norms[0]))
    assert norms[k] < 10 * norms[0]
    for limit, steps in ((0.99, k), (1.01, k + 1)):
        own, xla = both(*make(**rising, divergence=limit * norms[k] / norms[0]))
        assert (int(own["steps"]), status_of(own)) == (steps, Status.diverged)
        assert (int(xla["steps"]), status_of(xla)) == (steps, Status.diverged)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"step_factor": 100.0, "divergence": 1e3}, Status.diverged),
        ({"step_factor": 1e4, "divergence": np.inf}, Status.nonfinite),
        ({"tolerance": 1e-2, "max_steps": 100_000}, Status.converged),
        ({"tolerance": 0.0, "max_steps": 37}, Status.max_steps),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_runs_end_as_under_xla_at_the_same_step(change, status, dtype):
    own, xla = both(*make(dtype=dtype, **change))
    assert status_of(own) == status_of(xla) == status
    assert abs(int(own["steps"]) - int(xla["steps"])) <= (1 if dtype == np.float32 else 0)


def test_increments_keep_the_floor_of_float32():
    """||r|| falls to 1e-6 ||r_0|| and below (H.3): a sum of whole exponentials stops a thousand times earlier."""
    own, _ = both(*make(dtype=np.float32, n=4, d=4, m=512, max_steps=30_000, step_factor=0.2, tolerance=2e-6))
    assert status_of(own) == Status.converged


def test_without_a_compiler_xla_takes_the_steps(monkeypatch):
    signature, inputs = make()
    monkeypatch.setattr(native, "missing", lambda: "no C++ compiler (g++ or clang++) was found")
    assert not native.covers(signature)
    program = descent.program(signature)
    assert "ffi_call" not in str(jax.make_jaxpr(program.advance)(program.init(inputs)))


@pytest.mark.parametrize("change", [{"optimizer": "momentum"}, {"schedule": "linear"}, {"activation": "cosh"}])
def test_what_is_not_plain_gradient_descent_on_exp_is_left_to_xla(change):
    assert not native.covers(make(**change)[0])
    assert native.covers(make()[0])


def test_a_users_own_multiple_of_exp_is_covered_with_its_own_factor(monkeypatch):
    def triple(z):
        return 3 * z.__array_namespace__().exp(z)

    own = Activation("triple", triple, triple, multiplicative=True)
    monkeypatch.setitem(ACTIVATIONS, "triple", own)
    signature, inputs = make(step_factor=0.02)
    found, xla = both(signature._replace(activation="triple"), inputs)
    start = found["curve_residual"][0]
    np.testing.assert_allclose(found["curve_residual"], xla["curve_residual"], rtol=0, atol=1e-10 * start)
    assert found["curve_residual"][-1] < 0.9 * start


def test_a_compiler_that_fails_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "false")
    monkeypatch.setenv("EXPREG_CACHE", str(tmp_path))
    assert native._prepared.__wrapped__() == "false failed: no message"
    monkeypatch.setenv("EXPREG_NATIVE", "off")
    assert native._prepared.__wrapped__() == "EXPREG_NATIVE is off"
    assert not list(tmp_path.rglob("*.so"))


def test_a_block_of_any_length_gives_the_same_run():
    one, _ = both(*make(every=EVERY))
    other, _ = both(*make(every=STEPS))
    np.testing.assert_allclose(one["curve_residual"], other["curve_residual"], rtol=1e-11)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 33])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_smallest_eigenvalue_is_that_of_lapack(n, dtype):
    """Of H(t), whose entries are made here from the increments that the compiled steps return."""
    signature, inputs = make(dtype=dtype, n=n, d=3, m=50, bucket=128, max_steps=STEPS)
    state = descent.program(signature).init(jax.tree.map(jnp.asarray, inputs))
    _, change, *_, moved = jax.jit(lambda s: native.steps(signature, s, jnp.asarray(1e30, dtype), True))(state)
    D = (np.asarray(state.base[0])[:, None] + np.asarray(change)) * np.abs(np.asarray(state.signs))
    D = D.reshape(n, -1).astype(np.float64)
    values = np.linalg.eigvalsh(np.asarray(state.gram, np.float64) * (D @ D.T) / 50)
    assert float(moved[2]) == pytest.approx(values[0], abs=4 * np.finfo(dtype).eps * values[-1])


@pytest.mark.parametrize("entry", [np.nan, np.inf])
def test_no_eigenvalue_is_found_where_an_entry_is_not_a_number(entry):
    """Neither in the first row nor in a later one."""
    signature, inputs = make(n=4, d=3, m=8, max_steps=0)
    state = descent.program(signature).init(jax.tree.map(jnp.asarray, inputs))
    for place in [(0, 0), (3, 1)]:
        spoilt = state._replace(gram=state.gram.at[place].set(entry))
        assert np.isnan(native.steps(signature, spoilt, jnp.asarray(1e30), True)[-1][2])


def test_extreme_eigenvalues_are_those_of_lapack():
    """For stacks of general, decoupled, singular, diagonal, zero, tiny and huge matrices, up to rounding."""
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 16, 65):
        square = rng.standard_normal((n, n))
        low_rank = square[:, :1] @ square[:, :1].T
        apart = square + square.T
        apart[0, 1:] = apart[1:, 0] = 0  # only later columns need a reflection
        stack = np.stack(
            [
                square + square.T,
                apart,
                low_rank,
                np.diag(rng.standard_normal(n)),
                0 * square,
                1e-200 * low_rank,
                1e200 * low_rank,
            ]
        )
        for found, exact in zip(native.extremes(jnp.asarray(stack)), np.linalg.eigvalsh(stack).T[[0, -1]], strict=True):
            size = np.abs(stack).sum(axis=(1, 2))
            assert np.all(np.abs(found - exact) <= 4 * np.finfo(float).eps * size)
