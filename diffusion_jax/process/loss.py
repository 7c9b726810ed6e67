"""The denoising loss: E_t,eps w(t) mean |target - prediction|^2, in any space, for a network of any prediction.

The space in which the error is measured is apart from what the network predicts: both go through the pair (x0, eps).
The error of the pair has alpha dx0 = -sigma deps, so that the spaces differ by a factor of the noise level alone:

    |dx0|^2 = (sigma / alpha)^2 |deps|^2,   |dv|^2 = ((alpha^2 + sigma^2) / alpha)^2 |deps|^2.

A `Weighting` (process.weighting) undoes that factor: its loss is the same number in every space. The loss of an
example is a mean over its entries; with the weightings of the variational bound it is nats per dimension.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion_jax.process.arguments import check_cond, check_denoise, check_function, check_schedule, data, one_key
from diffusion_jax.process.asking import predict
from diffusion_jax.process.prediction import from_pair
from diffusion_jax.process.sde import coefficients
from diffusion_jax.process.times import stratified
from diffusion_jax.process.weighting import Weight, Weighting
from diffusion_jax.typing import DenoiseFn, PyTree, Schedule

__all__ = ["denoising_loss", "loss_at", "simple"]

Images = Float[Array, "batch *shape"]


def simple(logsnr: Float[Array, " batch"]) -> Float[Array, " batch"]:
    """Weight 1 (in eps space, DDPM's L_simple: arXiv 2006.11239, eq. 14)."""
    return jnp.ones_like(logsnr)


def loss_at(
    denoise: DenoiseFn,
    schedule: Schedule,
    x0: Images,
    eps: Images,
    t: Float[Array, " batch"],
    cond: PyTree = None,
    *,
    weight: Weight = simple,
    space: str = "v",
) -> Float[Array, " batch"]:
    """The loss of each example at its time t and noise eps: what `denoising_loss` is once these are drawn."""
    check_denoise(denoise)
    check_schedule(schedule)
    check_cond(cond, x0.shape[0])
    alpha, sigma = coefficients(schedule, t, x0)
    prediction = predict(denoise, alpha * x0 + sigma * eps, t, cond)
    error = from_pair(space, prediction.x0, prediction.eps, t, schedule) - from_pair(space, x0, eps, t, schedule)
    weights = weight.in_space(space, schedule, t) if isinstance(weight, Weighting) else weight(schedule.logsnr(t))
    return weights * jnp.mean(error**2, axis=tuple(range(1, x0.ndim)))


def denoising_loss(
    denoise: DenoiseFn,
    schedule: Schedule,
    x0: Images,
    cond: PyTree,
    key: Array,
    *,
    sample_t: Callable[..., Array] = stratified,
    weight: Weight = simple,
    space: str = "v",
) -> Float[Array, " batch"]:
    """The loss of each example, a mean over its entries: one time and one noise each, drawn from `key`.

    x0 [batch, ...] is scaled data ([-1, 1] for images), `cond` what `denoise` takes. `space` is one of x0, eps, v,
    score, velocity. `weight` is a Weighting, whose loss is the same in every space, or a plain function of logsnr
    [batch], which weighs the error in `space` as it is. Raises UserError for an unknown space.
    """
    order = " (the order is denoise, schedule, x0, cond, key)"
    check_denoise(denoise, order)
    check_schedule(schedule, order)
    x0, key = data("x0", x0, clean=True, order=order), one_key(key)
    check_function(sample_t, "sample_t")
    key_t, key_eps = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)
    t = sample_t(key_t, x0.shape[0], schedule)
    x0 = x0.astype(jnp.promote_types(x0.dtype, jnp.float32))
    eps = jax.random.normal(key_eps, x0.shape, x0.dtype)
    return loss_at(denoise, schedule, x0, eps, t, cond, weight=weight, space=space)
