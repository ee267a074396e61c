"""Derivatives of solutions: finite differences of solutions in every argument and pair, and nan where there is none."""

import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import planted
from scipy import sparse

import expreg
from expreg import residual
from expreg.errors import InputError
from expreg.solver import implicit
from expreg.solver.method import TRACED
from expreg.solver.state import Objective
from expreg.types import Status

PAIRS = [(loss, activation) for loss in residual.LOSSES for activation in residual.activations()]
N, D, STEP = 24, 3, 1e-4
pytestmark = [pytest.mark.filterwarnings("ignore:b sums to"), pytest.mark.usefixtures("quickly_compiled")]


def problem(loss="softmax", activation="exp", seed=3):
    """A problem with a large residual, where the Gauss-Newton matrix is not the Hessian."""
    noise = 0.1 if (loss, activation) == ("rescaled", "sinh") else 0.3  # more of it has no minimum but x = 0
    A, b, _ = planted(N, D, loss, activation, noise=noise, seed=seed)
    return A, b, np.random.default_rng(seed).uniform(0.005, 0.02, N)


def directions(A, b, w):
    rng = np.random.default_rng(0)
    return [rng.normal(size=each.shape) * np.abs(each).mean() for each in (A, b, w)]


def difference(solved, at, i, direction):
    """Return the derivative of an array along a direction of argument i by central differences of fourth order."""

    def shifted(k):
        return np.asarray(solved(*at[:i], at[i] + k * STEP * direction, *at[i + 1 :]))

    return (8 * (shifted(1) - shifted(-1)) - (shifted(2) - shifted(-2))) / (12 * STEP)


def close(found, wanted, tol=1e-6):
    return np.linalg.norm(found - wanted) <= tol * np.linalg.norm(wanted)


def both_ways(kind, given, along, seed):
    """Return, of x along each argument, forward derivatives (3, d) and, by reverse mode, those of x @ seed (3,)."""
    *given, x = given

    def x_of(*given):
        return implicit.minimiser(kind, "", *given, x, jnp.asarray(True))

    _, linear = jax.linearize(x_of, *given)
    forward = jax.vmap(lambda one: linear(*(k * each for k, each in zip(one, along, strict=True))))(jnp.eye(3))
    reverse = jax.linear_transpose(linear, *given)(seed)
    return forward, jnp.stack([jnp.vdot(g, t) for g, t in zip(reverse, along, strict=True)])


@pytest.mark.parametrize(("loss", "activation"), PAIRS)
def test_forward_and_reverse_derivatives_are_finite_differences_of_every_pair_also_under_vmap(loss, activation):
    problems = [problem(loss, activation, seed) for seed in (3, 7)]
    options = {"loss": loss, "activation": activation, "tol": 1e-14}
    ends = [expreg.solve(A, b, weights=w, **options) for A, b, w in problems]
    assert [end.status for end in ends] == ["converged"] * 2
    along, seed = [directions(*each) for each in problems], jnp.arange(1.0, D + 1)
    given = [jnp.stack(each) for each in zip(*problems, strict=True)]
    tangents = [jnp.stack(each) for each in zip(*along, strict=True)]
    kind, x = Objective(loss, activation, True, TRACED), jnp.stack([end.x for end in ends])
    mapped = jax.jit(jax.vmap(lambda given, along: both_ways(kind, given, along, seed)))
    forward, reverse = mapped([*given, x], tangents)
    for k, (at, end) in enumerate(zip(problems, ends, strict=True)):

        def solved(A, b, w, start=end.x):
            return expreg.solve(A, b, weights=w, x0=start, **options).x

        for i in range(3):
            wanted = difference(solved, at, i, along[k][i])
            assert close(forward[k, i], wanted), ("A", "b", "weights")[i]
            assert close(reverse[k, i], wanted @ seed), ("A", "b", "weights")[i]


def test_the_hessian_is_the_exact_one():
    """With the Gauss-Newton matrix derivatives are 9 % off here: the residual is not zero."""
    A, b, w = problem()
    x = expreg.solve(A, b, "softmax", weights=w, tol=1e-14).x
    along = directions(A, b, w)
    wanted = difference(lambda b: expreg.solve(A, b, "softmax", weights=w, x0=x, tol=1e-14).x, [b], 0, along[1])
    for exact, near in ((True, 1e-6), (False, 0.05)):
        kind = Objective("softmax", "exp", exact, TRACED)
        x_of = lambda b, kind=kind: implicit.minimiser(kind, "", A, b, w, jnp.asarray(x), jnp.asarray(True))  # noqa: E731
        found = jax.jvp(x_of, (jnp.asarray(b),), (jnp.asarray(along[1]),))[1]
        assert bool(close(found, wanted, near)) is exact


# --- the call of users ----------------------------------------------------------------------------


def softmax_of(A, b):
    found = expreg.solve(A, b, "softmax")
    return found.x @ np.ones(D), found


slope_of = jax.value_and_grad(softmax_of, argnums=1, has_aux=True)
compiled_slope_of = jax.jit(jax.vmap(slope_of))
NUMBERS = ("loss", "alpha", "softmax_residual", "projective_loss", "max_logit")


def test_grad_jacobians_vmap_and_jit_of_solve_agree():
    A, b, _ = problem()
    plain, along, c = expreg.solve(A, b, "softmax"), directions(A, b, b)[1], np.ones(D)
    (_, eager), gradient = slope_of(jnp.asarray(A), jnp.asarray(b))
    assert eager.status == "converged"
    assert np.allclose(eager.x, plain.x, rtol=1e-12)
    assert close(jax.grad(lambda b: softmax_of(A.tolist(), b)[0])(jnp.asarray(b)), gradient, 1e-9)
    numbers = lambda b: {name: getattr(expreg.solve(A, b, "softmax"), name) for name in ("x", *NUMBERS)}  # noqa: E731
    forward = jax.jacfwd(numbers)(jnp.asarray(b))
    for name in ("x", *NUMBERS):
        wanted = difference(lambda b, name=name: numbers(b)[name], [b], 0, along)
        assert close(forward[name] @ along, wanted), name
    assert close(gradient, c @ forward["x"], 1e-9)
    assert close(jax.jacrev(lambda b: softmax_of(A, b)[1].x)(jnp.asarray(b)), forward["x"], 1e-9)
    (_, found), slopes = compiled_slope_of(jnp.stack([A, A]), jnp.stack([b, b]))
    assert close(slopes[1], gradient, 1e-9)
    assert (found.status.tolist(), found.message, found.history) == ([Status.converged] * 2, None, [])
    for name in ("x", *NUMBERS):
        assert np.allclose(getattr(found, name)[0], getattr(plain, name), rtol=1e-7)
    assert repr(found).startswith("Solution(2 converged, loss ")


def test_inside_jit_a_singular_hessian_is_nan_without_a_word():
    A, b, _ = problem()
    A = np.stack([A, np.column_stack([A[:, :2], A[:, 0] - A[:, 1]])])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (x, _), slopes = compiled_slope_of(jnp.asarray(A), jnp.stack([b, b]))
    assert np.isfinite(x).all()
    assert np.isfinite(slopes[0]).all()  # of its neighbour
    assert np.isnan(slopes[1]).all()


def test_second_derivatives():
    A, b, _ = problem()
    along, first = directions(A, b, b)[1], jax.grad(lambda b: softmax_of(A, b)[0])
    second = jax.jvp(first, (jnp.asarray(b),), (jnp.asarray(along),))[1]
    assert close(second, difference(first, [jnp.asarray(b)], 0, along), 1e-5)


def test_weights_that_are_a_number_and_a_sparse_matrix():
    A, b, _ = problem()
    A = sparse.csr_array(np.where(np.abs(A) > 0.5, A, 0))
    of_weight = lambda w: expreg.solve(A, b, "softmax", weights=w).x[0]  # noqa: E731
    assert close(jax.grad(of_weight)(0.02), difference(of_weight, [0.02], 0, 1.0))


def test_bad_input_is_refused_while_tracing_too():
    A, b, _ = problem()
    with pytest.raises(InputError, match=r"b: got shape \(23,\) for an A of shape \(24, 3\)"):
        jax.grad(lambda b: softmax_of(A, b)[0])(jnp.asarray(b[1:]))
    with pytest.raises(InputError, match="loss: got 'logistic'"):
        jax.jit(lambda b: expreg.solve(A, b, "logistic").x)(b)


# --- where there is no derivative -----------------------------------------------------------------


def singular(A, b):
    return np.column_stack([A[:, :2], A[:, 0] - A[:, 1]]), b, {}, "its Hessian is singular"


def intercept(A, b):
    return np.column_stack([A[:, :2], np.ones(N)]), b, {}, "its Hessian is singular"


def wide(A, b):
    return A[:2], b[:2] / b[:2].sum(), {}, "its Hessian is singular"


def unbounded(A, b):
    return A, np.where(np.arange(len(b)) == np.argmax(A[:, 0]), 1.0, 0.0), {}, "the status is unbounded"


def unfinished(A, b):
    return A, b, {"max_steps": 1, "x0": np.full(D, -0.2)}, "the status is max_steps"


def collapsed(A, b):
    return np.abs(A) + 1, b, {"loss": "rescaled", "x0": np.full(D, -3.0)}, "the status is collapsed"


def trivial(A, b):
    return A, b, {"loss": "rescaled", "activation": "sinh", "x0": np.full(D, 1e-3)}, "the status is trivial"


@pytest.mark.filterwarnings("ignore:x is not unique")
@pytest.mark.parametrize("case", [singular, intercept, wide, unbounded, unfinished, collapsed, trivial])
def test_no_isolated_minimum_has_no_derivative(case):
    A, b, options, reason = case(*problem()[:2])
    options = {"loss": "softmax", **options}
    with pytest.warns(UserWarning, match=f"the derivative of x is nan: {reason}"):
        found = jax.grad(lambda b: expreg.solve(A, b, **options).x[0])(jnp.asarray(b))
    assert np.isnan(found).all()


def test_what_is_refused_under_jit_leaves_nothing_behind():
    """Switching 64 bits on after a refusal once broke what JAX keeps of other calls: a process of its own."""
    code = """
import jax, numpy as np, expreg
from expreg.errors import InputError
rng = np.random.default_rng(1)
A, b = rng.normal(size=(200, 5)), rng.dirichlet(np.ones(200))
solved = jax.jit(lambda A, b: expreg.solve(A, b, loss="softmax").x)
print(solved(A, b).dtype)
try:
    jax.jit(lambda b: expreg.solve(A, b, loss="softmax", starts=4).loss)(b)
except InputError as error:
    print(error.problems[0].key)
jax.config.update("jax_enable_x64", True)
print(solved(A, b).dtype, jax.jit(lambda A, b: expreg.solve(A, b, loss="softmax").x)(A, b).dtype)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["float32", "starts", "float64", "float64"]
