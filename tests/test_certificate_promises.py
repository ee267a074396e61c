"""The certificate's promises, kept by thousands of trained networks, and the widths at which it makes them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import PHI, gradient_descent, movements, sphere
from starts import start

from expreg import theory
from expreg.activation import ACTIVATIONS
from expreg.certificate import Spectra, certify, measure

NAMES = ["exp", "cosh", "sinh"]


@partial(jax.jit, static_argnames="activation")
@partial(jax.vmap, in_axes=(0, 0, 0, 0, 0, 0, None))
def training_start(X, W, a, direction, factor, scale, activation):
    """Return residuals `factor` times the largest certified ones, and what `measure` says; basic and refined."""
    Z, found = X @ W, []
    for refined in (False, True):
        options = {"activation": activation, "scale": scale, "refined": refined}
        unit = measure(X, Z, direction, **options)
        options["spectra"] = Spectra(unit.lambda_0, unit.lambda_max_0, jnp.linalg.norm(X, 2) ** 2)
        edge = direction * unit.movement_margin  # the margins fall as 1 / ||r||, the second one a little faster
        residual = edge * jnp.minimum(measure(X, Z, edge, **options).kernel_margin, 1) * factor
        found.append((residual, measure(X, Z, residual, **options)))
    return found


@partial(jax.jit, static_argnames="activation")
@partial(jax.vmap, in_axes=(0, 0, 0, 0, 0, 0, 0, 0, 0, None))
def watch(X, W, a, residual, scale, eta, decrease, radius, lambda_0, activation):
    """Train 300 steps; return the worst movement / radius (E2), lambda/2 / lambda_min(H) (E3), ||r|| / bound (E4)."""
    base = ACTIVATIONS[activation].base(X @ W)
    K = X @ X.T

    def step(carry, t):
        delta, worst = carry
        inc, D = ACTIVATIONS[activation].increment(base, X @ delta)
        r = residual + scale * (inc @ a)
        movement = jnp.max(jnp.sqrt(jnp.sum(delta**2, axis=0)) / radius)
        bound = jnp.linalg.norm(residual) * (jnp.exp(t / 2 * jnp.log1p(-decrease)) + 1e-11)  # a floor for rounding
        rate = jnp.where(t > 0, jnp.linalg.norm(r) / bound, 0)
        return (delta - eta * scale * (X.T @ (D * r[:, None])) * a, jnp.maximum(worst, jnp.stack([movement, rate]))), D

    def block(carry, t):
        carry, D = jax.lax.scan(step, carry, t)
        return carry, K * (D[-1] @ D[-1].T) / W.shape[1]

    times = jnp.arange(300.0).reshape(15, 20)
    (_, worst), kernels = jax.lax.scan(block, (jnp.zeros_like(W), jnp.zeros(2)), times)
    lowest = jnp.min(jax.lax.map(jnp.linalg.eigvalsh, kernels)[:, 0])
    return worst[0], 2 / 3 * lambda_0 / lowest, worst[1]


def random_starts(rng, count, init, activation, n=3, d=3, m=16):
    """Return random starts: points of unequal norms, wide and narrow weights, residuals in hard directions."""
    X = np.stack([sphere(rng, n, d) for _ in range(count)]) * rng.uniform(0.3, 1.5, (count, n, 1))
    W = rng.normal(size=(count, d, m)) * rng.uniform(0.5, 1.5, (count, 1, 1))
    a = rng.choice([-1.0, 1.0], (count, m))
    if init == "coupled":
        W[..., m // 2 :], a[:, m // 2 :] = W[..., : m // 2], -a[:, : m // 2]
    D = PHI[activation][1](X @ W)
    vectors = np.linalg.eigh((X @ X.transpose(0, 2, 1)) * (D @ D.transpose(0, 2, 1)))[1]
    kind = rng.integers(0, 3, count)[:, None]  # anywhere, the slowest mode, the fastest mode
    direction = np.select([kind == 0, kind == 1], [rng.normal(size=(count, n)), vectors[..., 0]], vectors[..., -1])
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    scale = rng.choice([-1.0, 1.0], count) * 10 ** rng.uniform(-1, 1, count)
    return X, W, a, direction, 0.999 * 10 ** rng.uniform(-1, 0, count), scale


@pytest.mark.parametrize("activation", NAMES)
def test_no_certified_network_ever_breaks_a_promise(activation):
    """(C.26): E2, E3, E4 over 300 steps of eta and eta / 2, basic and refined, up to the edge of the conditions."""
    rng, certified = np.random.default_rng(7), [0, 0]
    worst, broken, closest = np.zeros(3), np.zeros(3), np.inf
    for init in ("coupled", "iid"):
        X, W, a, direction, factor, scale = random_starts(rng, 150, init, activation)
        for refined, (residual, found) in enumerate(training_start(X, W, a, direction, factor, scale, activation)):
            holds = np.asarray(found.holds)
            certified[refined] += int(holds.sum())
            margins = np.minimum(found.movement_margin, found.kernel_margin)
            closest = min(closest, margins[holds].min())
            for share in (1.0, 0.5):
                promise = (share * found.eta, share * found.decrease, found.radius, found.lambda_0)
                seen = np.array(watch(X, W, a, residual, scale, *promise, activation))[:, holds]
                worst = np.maximum(worst, seen.max(axis=1))
            bolder = (found.eta, np.minimum(4 * found.decrease, 0.9), found.radius / 4, found.lambda_0)
            broken = np.maximum(broken, np.array(watch(X, W, a, residual, scale, *bolder, activation)).max(axis=1))
    print(f"{activation}: certified {certified}, worst E2, E3, E4 {worst}, smallest margin {closest:.4f}")
    assert np.all(worst <= 1 + 1e-9)
    assert min(certified) >= 200  # basic and refined, 3 activations: over 1200 instances, over 2400 trainings
    assert closest < 1.01
    assert np.all(broken[[0, 2]] > 1)  # a quarter of the radius, or four times the rate, is too much to promise


@pytest.mark.parametrize("activation", NAMES)
def test_residual_is_below_eps_after_the_steps_it_names(activation):
    m = 256
    X, y, W, a = start(3, m=m, size=0.02)
    found = certify(X, y, W, a, activation=activation)
    assert found.holds
    lam = 4 / 3 * found.lambda_0
    for eta in (found.eta, found.eta / 3):
        steps = found.steps(0.01, eta)
        assert 1 < steps <= theory.iterations(m, eta, lam, found.residual, 0.01)
        norms, path = gradient_descent(W, a, X, y, eta=eta, steps=steps, activation=activation)
        assert norms[-1] <= 0.01
        assert movements(path)[-1] <= found.radius.max()
        exact = found.residual**2 * (1 - m * eta * lam / 2) ** np.array([steps - 1, steps])
        assert exact[1] <= 0.01**2 * (1 + 1e-6)
        assert exact[0] > 0.01**2
    assert found.steps(10.0) == 0


def test_step_sizes_above_the_certified_one_have_no_certificate():
    """The certified one is below the stability limit (B.28); a factor above that limit the promise is broken."""
    X, y, W, a = start(2, m=512, size=0.1)
    found = certify(X, y, W, a)
    stable = 2 / (512 * found.lambda_max_0)
    assert stable / 20 < found.eta < stable / 2
    with pytest.raises(ValueError, match="largest certified"):
        found.steps(0.01, 1.001 * found.eta)
    norms, _ = gradient_descent(W, a, X, y, eta=1.5 * stable, steps=12)
    assert np.any(norms**2 > found.rate ** np.arange(13) * norms[0] ** 2)


# --- how wide a network must be


def certified_width(X, y, rng):
    """Return the smallest m on a half-octave grid from which on all nested coupled networks are certified."""
    grid = [2 * round(2 ** (k / 2) / 2) for k in range(10, 25)]
    weights, signs = rng.normal(size=(X.shape[1], grid[-1] // 2)), rng.choice([-1.0, 1.0], grid[-1] // 2)
    failed = [0]
    for m in grid:
        W, s = np.tile(weights[:, : m // 2], 2), signs[: m // 2]
        if not certify(X, y, W, np.concatenate([s, -s])).holds:
            failed.append(m)
    return min((m for m in grid if m > failed[-1]), default=np.inf)


@pytest.mark.parametrize(
    ("points", "n", "replicates", "expected"), [("eye", 4, 41, 256), ("eye", 8, 21, 362), ("sphere", 4, 101, 512)]
)
def test_certified_widths_are_practical(points, n, replicates, expected):
    """Medians over replicates, labels +-1: within two steps of the half-octave grid."""
    widths = []
    for seed in range(replicates):
        rng = np.random.default_rng(100 + seed)
        X = np.eye(n) if points == "eye" else sphere(rng, n, n)
        widths.append(certified_width(X, rng.choice([-1.0, 1.0], n), rng))
    print(f"{points} n = {n}: certified width {np.quantile(widths, [0.25, 0.5, 0.75])}")
    assert expected / 2 <= np.median(widths) <= expected * 2
