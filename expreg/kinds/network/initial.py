"""What is known of a network at its start: H(0), the radii of the proof, the certificate, the lazy movement.

For one lane, unbatched, in float64 whatever the precision of the training: the smallest eigenvalues need it (H.7),
and it is done once per run. `count` (p,) says how many of the m neurons each column stands for: 2 for a coupled
pair, 0 for padding.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from expreg import certificate, ntk, theory
from expreg.activation import ACTIVATIONS
from expreg.kinds.network import kernel as gpu
from expreg.kinds.network import native
from expreg.network import neurons

SHARED = range(128, 1025)
"""Neurons of programs that narrow networks may share: drawing them all takes half of the time of a start."""


class Kernel(NamedTuple):
    """H(0) and how it compares to H^cts."""

    matrix: jax.Array  # (n, n)
    lambda_0: jax.Array
    lambda_max_0: jax.Array
    frobenius_error: jax.Array | None  # None where H^cts is not known
    spectral_error: jax.Array | None


class Reach(NamedTuple):
    """How far neurons may move, how far they are expected to, and what is certified; nan where undefined."""

    radius: jax.Array  # R of (C.9), for every neuron
    largest: jax.Array  # max |<w_r(0), x_i>|, the B of (C.10)
    certified: jax.Array  # Ecert: (C.22) and (C.23) hold
    eta_certified: jax.Array  # (C.25), 0 where nothing is certified
    certificate_margin: jax.Array
    radii: jax.Array  # (p,) R_r of (C.22)
    movement_linearised: jax.Array  # max_r of (B.24) at r_t = 0


class Drawn(NamedTuple):
    """The neurons of one lane and what the network makes of the points; neurons beyond the width are masked."""

    weights: jax.Array  # (d, p) float32
    live: jax.Array  # (p,) whether a column is within the width
    z0: jax.Array  # (n, p) pre-activations
    signs: jax.Array  # (branches, p), 0 where masked
    residual: jax.Array  # (n,) f(0) - y


def draw(static: Any, inputs: Any) -> Drawn:
    """Draw the neurons of one lane; `static` and `inputs` are the signature and inputs of any program of networks."""
    dtype = jnp.dtype(static.dtype)
    weights, signs = _drawn(static, inputs)
    live = jnp.arange(static.neurons) < inputs.m // static.branches
    z0 = inputs.X @ weights.astype(dtype)
    masked = jnp.where(live, signs, 0).astype(dtype)
    branches = jnp.stack([masked, -masked][: static.branches])
    residual = inputs.scale * (ACTIVATIONS[static.activation].value(z0) @ branches.sum(0)) - inputs.y
    return Drawn(weights, live, z0, branches, residual)


def _drawn(static: Any, inputs: Any) -> tuple[jax.Array, jax.Array]:
    """Return weights and signs, drawn for an eighth of the neurons where the network has no more; the rest is 0."""
    key, count, few = jax.random.wrap_key_data(inputs.key), static.neurons, static.neurons // 8
    if count not in SHARED or jax.default_backend() != "cpu":  # vmapped, both draws would be made
        return neurons(key, count, static.d)

    def narrow() -> tuple[jax.Array, jax.Array]:
        weights, signs = neurons(key, few, static.d)
        return jnp.pad(weights, ((0, 0), (0, count - few))), jnp.pad(signs, (0, count - few))

    is_narrow = inputs.m // static.branches <= few
    found: tuple[jax.Array, jax.Array] = jax.lax.cond(is_narrow, narrow, lambda: neurons(key, count, static.d))
    return found


def measure(static: Any, inputs: Any, drawn: Drawn) -> tuple[dict[str, jax.Array], jax.Array | None]:
    """Return what is known of the start (scalars), and the radii R_r of (C.22) if they are asked for."""
    count = drawn.live * static.branches
    start = kernel(inputs.X, drawn.z0, count, static.activation)
    found = {name: value for name, value in start._asdict().items() if name != "matrix" and value is not None}
    if not static.reach:
        return found, None
    constants = {"lambda_cts": inputs.lambda_cts, "gram_norm": inputs.gram_norm, "scale": inputs.scale}
    at = (inputs.X, drawn.z0, count, drawn.residual, start)
    found |= reach(*at, activation=static.activation, **constants)._asdict()
    return found, found.pop("radii")


def extremes(matrices: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the extreme eigenvalues of each matrix; in float64, which the small ones of H need (H.7)."""
    find = native.extremes if not native.missing() else ntk.extreme_eigenvalues
    if jax.default_backend() == "gpu" and gpu.finds(matrices.shape[-1]):
        find = gpu.extremes
    low, high = find(matrices.astype(jnp.float64))
    return low.astype(matrices.dtype), high.astype(matrices.dtype)


def kernel(X: jax.Array, z0: jax.Array, count: jax.Array, activation: str) -> Kernel:
    """Measure H(0) (B.1) and its distance from H^cts (B.3)-(B.6)."""
    X, z0, count = (array.astype(jnp.float64) for array in (X, z0, count))
    gram = X @ X.T
    squares = jnp.diag(gram)
    phi = ACTIVATIONS[activation]
    derivative = phi.derivative(z0)
    H = gram * ((derivative * count) @ derivative.T) / jnp.sum(count)
    if phi.expectation is None:
        low, high = extremes(H[None])
        return Kernel(H, low[0], high[0], None, None)
    error = H - gram * phi.expectation(gram, squares[:, None], squares[None, :])
    low, high = extremes(jnp.stack([H, error]))
    return Kernel(H, low[0], high[0], ntk.norm(error.ravel()), jnp.maximum(jnp.abs(low[1]), jnp.abs(high[1])))


def reach(
    X: jax.Array,
    z0: jax.Array,
    count: jax.Array,
    residual: jax.Array,
    start: Kernel,
    *,
    activation: str,
    scale: Any,
    lambda_cts: Any,
    gram_norm: Any,
) -> Reach:
    """Measure the radii of the proof and the certificate at the start, where phi'' = phi.

    `residual` = f(0) - y, (n,); `lambda_cts` = lambda_min(H^cts); `gram_norm` = ||X||^2, spectral. Radii are of
    ||w_r - w_r(0)||: those of (C.9), (C.22) for ||x_i|| <= 1, divided by max ||x_i||.
    """
    X, z0, count, residual = (array.astype(jnp.float64) for array in (X, z0, count, residual))
    length = jnp.sqrt(jnp.max(jnp.sum(X**2, axis=1)))
    phi = ACTIVATIONS[activation]
    envelope = jnp.maximum(jnp.abs(phi.value(z0)), jnp.abs(phi.derivative(z0)))
    h_bar = jnp.max(envelope**2 @ count) / jnp.sum(count)
    drop = theory.ROOT_DROP * jnp.sqrt(jnp.maximum(lambda_cts, 0) / (gram_norm * h_bar))
    spectra = certificate.Spectra(start.lambda_0, start.lambda_max_0, gram_norm)
    found = certificate.measure(X, z0, residual, count, activation=activation, scale=scale, spectra=spectra)
    return Reach(
        radius=jnp.log1p(drop) / length,
        largest=jnp.max(jnp.where(count > 0, jnp.abs(z0), 0)),
        certified=found.holds,
        eta_certified=found.eta,
        certificate_margin=jnp.minimum(found.movement_margin, found.kernel_margin),
        radii=found.radius,
        movement_linearised=_lazy(X, phi.derivative(z0), count, residual, start, scale),
    )


def _lazy(X: jax.Array, D: jax.Array, count: jax.Array, residual: jax.Array, start: Kernel, scale: Any) -> jax.Array:
    """Return max_r ||w_r - w_r(0)|| of linearised training to r_t = 0 (B.24); nan where H(0) is singular.

    Conjugate gradients solve H(0) h = r_0: a second LAPACK routine beside the eigenvalues could block it.
    """
    solved, _ = jax.scipy.sparse.linalg.cg(start.matrix, residual, tol=1e-10, maxiter=4 * len(residual))
    pulled = D * solved[:, None]
    squares = jnp.sum(pulled * ((X @ X.T) @ pulled), axis=0)
    largest = jnp.sqrt(jnp.max(jnp.where(count > 0, squares, 0))) / (jnp.abs(scale) * jnp.sum(count))
    return jnp.where(start.lambda_0 > 1e-10 * start.lambda_max_0, largest, jnp.nan)
