"""Exact denoisers and densities: what a perfect network would say, for data whose distribution is known.

For x0 ~ N(m, s^2 I), x_t has variance V = alpha^2 s^2 + sigma^2 a coordinate, the score is -(x - alpha m) / V, and
Tweedie's formula gives x0_hat = m + alpha s^2 (x - alpha m) / V, eps_hat = sigma (x - alpha m) / V. A mixture weighs
its components' answers by their posterior probabilities, softmax_k(log w_k + log N(x; alpha m_k, V_k)); a point set
is a mixture with s = 0. All are DenoiseFn's that need no training: the reference for solvers, and for users a way to
try a method before a network exists.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffusion_jax.process.asking import AnyTime
from diffusion_jax.process.prediction import FLOOR
from diffusion_jax.process.sde import coefficients
from diffusion_jax.typing import Prediction, PyTree, Schedule, UserError, pytree_dataclass

__all__ = ["Mixture", "gaussian", "mixture", "point_set"]


@pytree_dataclass
class Mixture(AnyTime):
    """sum_k w_k N(m_k, s_k^2 I) as a DenoiseFn: means [components, ...], stds [components], log_weights [components]."""

    schedule: Any
    means: Any
    stds: Any
    log_weights: Any

    def _joint(self, xt: Array, t: ArrayLike) -> tuple[Array, Array, Array, Array, Array]:
        """Posterior logits [batch, k], residuals [batch, k, d], variances [batch, k], alpha and sigma [batch or 1, 1]."""
        x = xt.reshape(xt.shape[0], -1).astype(jnp.promote_types(xt.dtype, jnp.float32))
        if self.means.shape[0] and x.shape[1] != self.means[0].size:
            raise UserError(
                f"xt has shape {xt.shape}, where the data of this mixture have shape {self.means.shape[1:]}"
            )
        alpha, sigma = coefficients(self.schedule, t, x)
        means = self.means.reshape(self.means.shape[0], -1).astype(x.dtype)
        residual = x[:, None, :] - alpha[:, :, None] * means[None]
        variance = (alpha * self.stds[None].astype(x.dtype)) ** 2 + sigma**2
        # Above 0, so that a point set answers with its nearest point where sigma vanishes.
        variance = jnp.broadcast_to(jnp.maximum(variance, FLOOR**2), residual.shape[:2])
        square = jnp.sum(residual**2, axis=-1) / variance
        log_density = -0.5 * square - 0.5 * x.shape[1] * jnp.log(2 * jnp.pi * variance)
        return self.log_weights[None].astype(x.dtype) + log_density, residual, variance, alpha, sigma

    def __call__(self, xt: Array, t: ArrayLike, cond: PyTree = None) -> Prediction:
        """The posterior means of x0 and eps given xt [batch, ...] at time t (scalar or [batch]), float32 at least.

        `cond` is not used: the distribution has no condition.
        """
        logits, residual, variance, alpha, sigma = self._joint(xt, t)
        posterior = jax.nn.softmax(logits, axis=-1)[:, :, None]
        scaled = residual / variance[:, :, None]
        means = self.means.reshape(self.means.shape[0], -1).astype(scaled.dtype)
        gain = alpha[:, :, None] * (self.stds[None, :, None].astype(scaled.dtype)) ** 2
        x0 = jnp.sum(posterior * (means[None] + gain * scaled), axis=1)
        eps = sigma * jnp.sum(posterior * scaled, axis=1)
        return Prediction(x0.reshape(xt.shape), eps.reshape(xt.shape))

    def log_density(self, xt: Array, t: ArrayLike) -> Float[Array, " batch"]:
        """log p_t(xt) in nats. A point set has a density only where sigma > 0."""
        return jax.nn.logsumexp(self._joint(xt, t)[0], axis=-1)


def mixture(schedule: Schedule, means: ArrayLike, stds: ArrayLike, weights: ArrayLike | None = None) -> Mixture:
    """A mixture of isotropic Gaussians: means [components, ...], stds [components] >= 0, weights [components] > 0.

    The weights are scaled to sum to 1; without them they are equal. Raises UserError when their leading axes differ.
    """
    means, stds = jnp.asarray(means), jnp.asarray(stds)
    count = means.shape[0]
    weights = jnp.full((count,), 1.0 / count) if weights is None else jnp.asarray(weights)
    if stds.shape != (count,) or weights.shape != (count,):
        raise UserError(
            f"{count} means have stds of shape {stds.shape} and weights of shape {weights.shape}; both are ({count},)"
        )
    return Mixture(schedule, means, stds, jnp.log(weights / jnp.sum(weights)))


def gaussian(schedule: Schedule, mean: ArrayLike, std: ArrayLike) -> Mixture:
    """N(mean, std^2 I) with mean of the shape of one example."""
    return mixture(schedule, jnp.asarray(mean)[None], jnp.asarray(std)[None])


def point_set(schedule: Schedule, points: ArrayLike) -> Mixture:
    """Equal point masses at `points` [count, ...]: the denoiser of a training set learned by heart."""
    points = jnp.asarray(points)
    return mixture(schedule, points, jnp.zeros(points.shape[0], points.dtype))
