"""Losses and their derivatives: autodiff, extended precision, and the inequalities that the safe weights promise."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import logarithmic, softplus

from expreg import residual
from expreg.activation import ACTIVATIONS as ACTIVATIONS_THERE_ARE
from expreg.residual import LOSSES

ACTIVATIONS = residual.activations()
PAIRS = list(product(LOSSES, ACTIVATIONS))
PHI = {"exp": (np.exp, np.exp), "cosh": (np.cosh, np.sinh), "sinh": (np.sinh, np.cosh)}


def problem(n=7, seed=0, size=1.0):
    rng = np.random.default_rng(seed)
    z, b = size * rng.normal(size=n), rng.uniform(size=n)
    return z, b / b.sum() * 1.3  # <b, 1> is not 1: no formula may rely on it


def residual_of(u, b, loss):
    """The residual whose half square is the loss (E.2), (E.44), in the precision of u."""
    scale = {"exponential": 1.0, "rescaled": 1.0, "softmax": u.sum(), "projective": (u**2).sum() ** 0.5}[loss]
    return (u - b if loss == "exponential" else u - u.sum() * b) / scale


def plain(z, b, loss, activation):
    u = getattr(jnp if isinstance(z, jax.Array) else np, activation)(z)
    return (residual_of(u, b, loss) ** 2).sum() / 2


def dense(curvature):
    diagonal, Q, S = map(np.asarray, curvature)
    return np.diag(diagonal) + Q @ S @ Q.T


def written_out(z, b, loss, activation):
    """The Jacobian of the residual from its factors, without the common scale."""
    at = residual.terms(z, b, loss, activation)
    v, L, M = (np.asarray(part) for part in residual.jacobian(at, loss))
    Q = np.asarray(residual.scaled_curvature(at, loss, exact=False).Q)
    return np.exp(np.asarray(at.log_scale) / 2) * (np.diag(v) - L @ (Q @ M).T)


def close(a, b, tolerance=1e-12):
    return np.abs(np.asarray(a) - np.asarray(b)).max() <= tolerance * np.abs(np.asarray(b)).max()


def autodiff(phi, loss):
    """Return (z, b) -> value, gradient, Hessian, Jacobian of the residual."""

    def r(z, b):
        return residual_of(phi(z), b, loss)

    def value(z, b):
        return jnp.sum(r(z, b) ** 2) / 2

    return jax.jit(lambda *at: (value(*at), jax.grad(value)(*at), jax.hessian(value)(*at), jax.jacobian(r)(*at)))


@pytest.mark.parametrize(("loss", "activation"), PAIRS)
def test_derivatives_are_those_of_autodiff(loss, activation):
    oracle = autodiff(getattr(jnp, activation), loss)
    for seed in range(5):
        value, gradient, hessian, J = oracle(*problem(seed=seed))
        for lib in (np, jnp):
            at = *map(lib.asarray, problem(seed=seed)), loss, activation
            assert close(residual.loss_value(*at), value)
            assert close(residual.gradient(*at), gradient)
            assert close(dense(residual.curvature(*at)), hessian)
            assert close(dense(residual.curvature(*at, exact=False)), J.T @ J)
            assert close(written_out(*at), J)


@pytest.mark.parametrize(("loss", "activation"), PAIRS)
def test_gauss_newton_is_the_hessian_at_zero_residual_and_never_indefinite(loss, activation):
    z, b = problem(seed=3)
    u = PHI[activation][0](z)
    fit = u if loss == "exponential" else u / u.sum()
    exact, gauss_newton = (dense(residual.curvature(z, fit, loss, activation, exact=e)) for e in (True, False))
    assert close(gauss_newton, exact)
    eigenvalues = np.linalg.eigvalsh(dense(residual.curvature(z, b, loss, activation, exact=False)))
    assert eigenvalues[0] >= -1e-13 * eigenvalues[-1]


@pytest.mark.parametrize("size", [30.0, 300.0, 900.0])
@pytest.mark.parametrize(("loss", "activation"), PAIRS)
def test_large_logits_agree_with_extended_precision(loss, activation, size):
    if np.finfo(np.longdouble).maxexp < 10000:
        pytest.skip("this machine has no extended precision")
    z, b = problem(seed=1)
    z = z * (size / np.abs(z).max())
    wide = np.asarray(z, np.longdouble), np.asarray(b, np.longdouble), loss, activation
    at, exact = residual.terms(z, b, loss, activation), plain(*wide)
    assert np.log((at.r @ at.r) / 2) + at.log_scale == pytest.approx(float(np.log(exact)), rel=1e-12)
    assert np.all(np.isfinite(at.v * at.c))
    finite = 2 * size < np.log(np.finfo(float).max)
    assert np.isfinite(residual.loss_value(z, b, loss, activation)) == (finite or at.log_scale == 0)
    step = 1e-4 * np.arange(1, 8, dtype=np.longdouble)
    change = [plain(wide[0] + sign * step, *wide[1:]) for sign in (1, -1)]
    slope = (change[0] - change[1]) / 2 / np.exp(np.longdouble(at.log_scale))
    assert float((at.v * at.c) @ step.astype(float)) == pytest.approx(float(slope), rel=1e-5, abs=1e-9 * (at.r @ at.r))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_stable_forms_are_the_functions(activation):
    z, _ = problem(n=50, size=3.0)
    u, v, s = residual.stable(z, activation)
    for got, phi in zip((u, v), PHI[activation], strict=True):
        assert close(np.exp(s) * got, phi(z), 1e-14)
        assert np.abs(got).max() <= 1
    tiny = 1e-12 * z
    u, v, s = residual.stable(tiny, activation)
    assert np.allclose(np.exp(s) * u, PHI[activation][0](tiny), rtol=1e-14, atol=0)
    assert close(residual.softmax(z, activation), PHI[activation][0](z) / PHI[activation][0](z).sum())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_identities_between_the_losses(activation):
    z, b = problem(seed=5)
    found = residual.summary(z, b, activation)
    softmax = residual.loss_value(z, b, "softmax", activation)
    assert found["loss_rescaled"] == pytest.approx(found["alpha"] ** 2 * softmax, rel=1e-12)  # (E.16)
    assert found["softmax_residual"] == pytest.approx(np.sqrt(2 * softmax), rel=1e-12)
    assert found["softmax_residual"] >= abs(1 - b.sum()) / np.sqrt(b.size)  # (E.17)
    assert found["max_logit"] == np.abs(z).max()
    assert found["projective_loss"] == pytest.approx(plain(z, b, "projective", activation), rel=1e-12)


def test_shifts_of_the_logits_scale_the_losses_of_exp():
    z, b = problem(seed=6)
    for shift in (-800.0, 0.7, 800.0):
        soft, rescaled = (residual.terms(z + shift, b, loss, "exp") for loss in ("softmax", "rescaled"))
        assert close(soft.r, residual.terms(z, b, "softmax", "exp").r, 1e-11)  # (E.15)
        assert rescaled.log_scale == pytest.approx(2 * (z.max() + shift), rel=1e-12)
        assert close(rescaled.r, residual.terms(z, b, "rescaled", "exp").r, 1e-11)


def test_all_of_it_works_under_jit_vmap_and_in_float32():
    z, b = problem()
    Z = jnp.asarray(np.stack([z, 2 * z, 60 * z]), jnp.float32)
    target = jnp.asarray(b, jnp.float32)
    for loss, activation in PAIRS:
        both = jax.jit(jax.vmap(lambda z, loss=loss, a=activation: residual.terms(z, target, loss, a)))(Z)
        assert both.c.dtype == jnp.float32
        for lane in range(3):
            alone = residual.terms(np.asarray(Z[lane], float), b, loss, activation)
            assert np.allclose(both.v[lane] * both.c[lane], alone.v * alone.c, rtol=1e-3, atol=2e-5)


def cases():
    yield from (("exponential", activation, None) for activation in ACTIVATIONS)
    yield from (("softmax", activation, None) for activation in ("exp", "cosh"))
    yield from (("rescaled", activation, 1.5) for activation in ACTIVATIONS)


@pytest.mark.parametrize(("loss", "activation", "rho"), list(cases()))
def test_safe_weights_make_the_loss_convex(loss, activation, rho):
    rng = np.random.default_rng(0)
    for _ in range(200):
        z, b = rng.normal(size=6) * rng.uniform(0.1, 4), rng.uniform(size=6)
        z, b = (np.clip(z, -rho, rho) if rho else z), b / b.sum() * (10 if loss == "exponential" else 1)
        w = residual.safe_weights(b, loss, activation, mu=0.1, rho=rho)
        smallest = np.linalg.eigvalsh(dense(residual.curvature(z, b, loss, activation)) + np.diag(w**2))[0]
        assert smallest >= 0.1 - 1e-9


def test_the_safe_weights_of_the_exponential_loss_are_sharp():
    b = np.array([2.0])
    z = np.log(b / 4)
    hessian = dense(residual.curvature(z, b, "exponential", "exp"))
    assert hessian[0, 0] + residual.safe_weights(b, "exponential", "exp")[0] ** 2 == pytest.approx(0, abs=1e-15)


def test_pairs_without_safe_weights_say_so():
    with pytest.raises(ValueError, match=r"rho, a bound on max \|z\| \(E.22\)"):
        residual.safe_weights(np.ones(3))
    with pytest.raises(ValueError, match="has no safe weights"):
        residual.safe_weights(np.ones(3), "softmax", "sinh")


# --- a user's own loss and activation ---------------------------------------------------------------


@pytest.fixture
def own(monkeypatch):
    monkeypatch.setitem(LOSSES, "logarithmic", logarithmic())
    monkeypatch.setitem(ACTIVATIONS_THERE_ARE, "softplus", softplus())


@pytest.mark.parametrize(
    ("loss", "activation"), [("logarithmic", "exp"), ("logarithmic", "cosh"), *((loss, "softplus") for loss in LOSSES)]
)
def test_a_loss_and_an_activation_of_the_users_own_are_one_record_each(own, loss, activation):
    assert list(residual.check(LOSSES[loss])) == []
    phi = {"exp": jnp.exp, "cosh": jnp.cosh, "softplus": jax.nn.softplus}[activation]

    def value(z, b):
        u = phi(z)
        return jnp.sum((jnp.log(u / b) if loss == "logarithmic" else residual_of(u, b, loss)) ** 2) / 2

    at = tuple(jnp.asarray(part) for part in problem(seed=2))
    assert close(residual.loss_value(*at, loss, activation), value(*at))
    assert close(residual.gradient(*at, loss, activation), jax.grad(value)(*at))
    assert close(dense(residual.curvature(*at, loss, activation)), jax.hessian(value)(*at))
    with pytest.raises(ValueError, match="has no safe weights"):
        residual.safe_weights(np.ones(3), loss, activation, rho=1.0)


def test_a_wrong_loss_is_seen_by_its_probe():
    right = LOSSES["softmax"]
    assert [list(residual.check(loss)) for loss in LOSSES.values()] == [[]] * len(LOSSES)
    wrong = right._replace(terms=lambda *at: (found := right.terms(*at))._replace(c=2 * found.c))
    assert "is not the gradient" in next(residual.check(wrong))
    other = right._replace(jacobian=LOSSES["rescaled"].jacobian)
    assert "is not J^T J" in next(residual.check(other))


def test_an_activation_without_a_stable_form_is_refused():
    assert "relu" not in residual.activations()
    with pytest.raises(ValueError, match="got 'relu', expected one of exp, cosh, sinh"):
        residual.stable(np.ones(3), "relu")
