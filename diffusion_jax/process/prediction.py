"""What a network may predict, each through the pair (x0, eps) with xt = alpha x0 + sigma eps.

| kind | target |
|---|---|
| x0 | x0 |
| eps | eps |
| v | alpha eps - sigma x0 (arXiv 2202.00512) |
| score | -eps / sigma |
| velocity | alpha' x0 + sigma' eps (flow matching) |

Back from v, for any schedule: x0 = (alpha xt - sigma v) / (alpha^2 + sigma^2), eps = (sigma xt + alpha v) / (alpha^2
+ sigma^2). From the velocity u: the 2 x 2 system has determinant d = alpha sigma' - sigma alpha' > 0, x0 = (sigma' xt
- sigma u) / d and eps = (alpha u - alpha' xt) / d. An x0 network determines eps by division by sigma, an eps network
x0 by division by alpha; there the divisor is kept above FLOOR, which is exact wherever it is larger and finite where
it vanishes.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffusion_jax.process.sde import coefficients, expand, rates
from diffusion_jax.typing import Prediction, Schedule, UserError, one_of

__all__ = ["FLOOR", "KINDS", "from_pair", "to_prediction"]

KINDS = ("x0", "eps", "v", "score", "velocity")
FLOOR = 4.5e-5  # exp(-10): alpha or sigma at the ends of the clipped logsnr

Images = Float[Array, "batch *shape"]


def to_prediction(kind: str, output: Array, xt: Images, t: ArrayLike, schedule: Schedule) -> Prediction:
    """The pair that a network's `output` of this kind stands for, at xt and time t (scalar or [batch]).

    The computation and the pair are in float32 at least. Raises UserError for an unknown kind, and when the output has
    another shape than xt.
    """
    one_of("prediction", kind, KINDS)
    if output.shape != xt.shape:
        raise UserError(f"prediction {kind!r} has shape {output.shape} for xt of shape {xt.shape}: they must be equal")
    dtype = jnp.promote_types(xt.dtype, jnp.float32)
    xt, output = xt.astype(dtype), output.astype(dtype)
    alpha, sigma = coefficients(schedule, t, xt)
    if kind == "x0":
        return Prediction(output, (xt - alpha * output) / jnp.maximum(sigma, FLOOR))
    if kind in ("eps", "score"):
        eps = output if kind == "eps" else -sigma * output
        return Prediction((xt - sigma * eps) / jnp.maximum(alpha, FLOOR), eps)
    if kind == "v":
        square = alpha * alpha + sigma * sigma
        return Prediction((alpha * xt - sigma * output) / square, (sigma * xt + alpha * output) / square)
    alpha_rate, sigma_rate = (expand(rate, xt) for rate in rates(schedule, t))
    determinant = alpha * sigma_rate - sigma * alpha_rate
    return Prediction(
        (sigma_rate * xt - sigma * output) / determinant, (alpha * output - alpha_rate * xt) / determinant
    )


def from_pair(kind: str, x0: Images, eps: Images, t: ArrayLike, schedule: Schedule) -> Images:
    """What a network of this kind should say where the pair is (x0, eps), at time t (scalar or [batch])."""
    one_of("prediction", kind, KINDS)
    if kind == "x0":
        return x0
    if kind == "eps":
        return eps
    alpha, sigma = coefficients(schedule, t, x0)
    if kind == "v":
        return alpha * eps - sigma * x0
    if kind == "score":
        return -eps / jnp.maximum(sigma, FLOOR)
    alpha_rate, sigma_rate = (expand(rate, x0) for rate in rates(schedule, t))
    return alpha_rate * x0 + sigma_rate * eps
