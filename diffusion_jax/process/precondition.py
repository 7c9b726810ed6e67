"""EDM's preconditioning for every schedule (arXiv 2206.00364, table 1 and appendix B.6).

For data of standard deviation sd a coordinate, x_t has V = alpha^2 sd^2 + sigma^2. The network F sees x_t / sqrt(V) and
c_noise = ln(sigma / alpha) / 4, and the clean data are

    x0 = alpha sd^2 / V x_t + sigma sd / sqrt(V) F,   eps = sigma / V x_t - alpha sd / sqrt(V) F:

input and target of F have unit variance at every noise level, and neither answer divides by alpha or sigma. With alpha
= 1 these are EDM's c_skip, c_out, c_in and c_noise; with sd = 1 and alpha^2 + sigma^2 = 1, F is -v.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffusion_jax.process.sde import coefficients
from diffusion_jax.typing import Prediction, Schedule

__all__ = ["c_in", "from_network", "network_target"]

Images = Float[Array, "batch *shape"]


def c_in(schedule: Schedule, xt: Images, t: ArrayLike, sigma_data: float = 0.5) -> Array:
    """1 / sqrt(V), in the shape that multiplies xt [batch, ...]; t a scalar or [batch]."""
    alpha, sigma = coefficients(schedule, t, xt)
    return 1.0 / jnp.sqrt((alpha * sigma_data) ** 2 + sigma**2)


def from_network(output: Array, xt: Images, t: ArrayLike, schedule: Schedule, sigma_data: float = 0.5) -> Prediction:
    """The pair (x0, eps) that the network's F [batch, ...] stands for at xt and t; float32 at least."""
    dtype = jnp.promote_types(xt.dtype, jnp.float32)
    xt, output = xt.astype(dtype), output.astype(dtype)
    alpha, sigma = coefficients(schedule, t, xt)
    scale = c_in(schedule, xt, t, sigma_data)
    x0 = alpha * (sigma_data * scale) ** 2 * xt + sigma * sigma_data * scale * output
    eps = sigma * scale**2 * xt - alpha * sigma_data * scale * output
    return Prediction(x0, eps)


def network_target(x0: Images, eps: Images, t: ArrayLike, schedule: Schedule, sigma_data: float = 0.5) -> Images:
    """The F for which `from_network` gives the pair (x0, eps)."""
    alpha, sigma = coefficients(schedule, t, x0)
    scale = c_in(schedule, x0, t, sigma_data)
    return scale * (sigma * x0 - alpha * sigma_data**2 * eps) / sigma_data
