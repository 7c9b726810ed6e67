"""What follows from alpha and sigma alone, for every schedule (score SDE, arXiv 2011.13456; VDM, arXiv 2107.00630).

With f = alpha' / alpha and g^2 = (sigma^2)' - 2 f sigma^2 = -sigma^2 logsnr', the forward process is dx = f x dt + g
dw. Along the probability-flow ODE, dx/dt = alpha' x0_hat + sigma' eps_hat. Derivatives are taken by forward mode, so
that a schedule has only to give alpha and sigma. Time runs from data (0) to noise (1); the rates are meant for t in
[t_min, t_max], as sigma' may diverge at 0 (VPLinear).

Backwards in time the same marginals p_t belong to a family of processes (arXiv 2011.13456, appendix D.1; 2206.00364,
eq. 6): dx = (dx/dt of the ODE - eta^2 g^2 s / 2) dt + eta g dw with the score s. eta = 0 is the ODE, eta = 1 the reverse
SDE of Anderson and Song. g^2 s = -(g^2 / sigma) eps, and g^2 / sigma = 2 (sigma' - f sigma) is finite where sigma is 0.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffusion_jax.typing import Prediction, Schedule, UserError

__all__ = [
    "coefficients",
    "drift",
    "expand",
    "noised",
    "prior_std",
    "rates",
    "reverse_drift",
    "score",
    "squared_diffusion",
    "velocity",
]

Times = Float[Array, "..."]

SLACK = 1e-6
"""How far rounding to float32 may take a time past the ends."""


def _time(t: ArrayLike) -> Array:
    """t as an array of floats, so that a schedule is always given one."""
    return jnp.asarray(t, dtype=jnp.result_type(t, jnp.float32))


def _check_time(t: ArrayLike) -> None:
    """UserError for a time outside [0, 1], where it is a number already; a traced one was checked with its grid."""
    if isinstance(t, jax.core.Tracer):
        return
    values = np.asarray(t, np.float64).reshape(-1)
    outside = values[~((values > -SLACK) & (values < 1 + SLACK))]
    if outside.size:
        raise UserError(f"time t = {outside[0]:g} is not in [0, 1]; nearest: {np.clip(outside[0], 0, 1):g}")


def expand(coefficient: ArrayLike, x: Array) -> Array:
    """A scalar or [batch] coefficient in the shape and dtype that multiplies x [batch, ...].

    Raises UserError for another shape.
    """
    coefficient = jnp.asarray(coefficient)
    if coefficient.ndim == 0:
        coefficient = coefficient[None]
    if coefficient.shape not in ((1,), x.shape[:1]):
        raise UserError(
            f"a time, scale or coefficient of shape {coefficient.shape} does not fit a batch of {x.shape[0]}"
        )
    return coefficient.reshape(coefficient.shape + (1,) * (x.ndim - coefficient.ndim)).astype(x.dtype)


def coefficients(schedule: Schedule, t: ArrayLike, x: Array) -> tuple[Array, Array]:
    """(alpha, sigma) at t, in the shape that multiplies x. Raises UserError for a time outside [0, 1]."""
    _check_time(t)
    t = _time(t)
    return expand(schedule.alpha(t), x), expand(schedule.sigma(t), x)


def _rate(fn: Callable[[Array], Array], t: ArrayLike) -> Array:
    t = _time(t)
    return jax.jvp(fn, (t,), (jnp.ones_like(t),))[1]


def rates(schedule: Schedule, t: ArrayLike) -> tuple[Times, Times]:
    """(alpha', sigma') at t, per unit of time."""
    return _rate(schedule.alpha, t), _rate(schedule.sigma, t)


def drift(schedule: Schedule, t: ArrayLike) -> Times:
    """f(t) = alpha' / alpha: the forward SDE's drift is f x. It diverges where alpha is 0."""
    return _rate(schedule.alpha, t) / schedule.alpha(_time(t))


def squared_diffusion(schedule: Schedule, t: ArrayLike) -> Times:
    """g(t)^2 = 2 sigma sigma' - 2 f sigma^2, at least 0: the forward SDE's noise has variance g^2 dt."""
    alpha, sigma = schedule.alpha(_time(t)), schedule.sigma(_time(t))
    alpha_rate, sigma_rate = rates(schedule, t)
    return 2.0 * sigma * (sigma_rate - alpha_rate / alpha * sigma)


def velocity(schedule: Schedule, prediction: Prediction, t: ArrayLike) -> Array:
    """dx/dt of the probability-flow ODE, alpha' x0 + sigma' eps; it points from data to noise."""
    alpha_rate, sigma_rate = rates(schedule, t)
    x = prediction.x0
    return expand(alpha_rate, x) * x + expand(sigma_rate, x) * prediction.eps


def score(schedule: Schedule, prediction: Prediction, t: ArrayLike) -> Array:
    """The gradient of log p_t at xt, -eps / sigma; it diverges where sigma is 0."""
    return -prediction.eps / expand(schedule.sigma(_time(t)), prediction.eps)


def reverse_drift(schedule: Schedule, prediction: Prediction, t: ArrayLike, eta: float = 1.0) -> Array:
    """dx/dt of the reverse-SDE family, for steps dt < 0 beside noise of standard deviation eta g sqrt(-dt).

    It diverges where alpha is 0, as g does.
    """
    alpha, sigma = schedule.alpha(_time(t)), schedule.sigma(_time(t))
    alpha_rate, sigma_rate = rates(schedule, t)
    pull = eta**2 * (sigma_rate - alpha_rate / alpha * sigma)
    return velocity(schedule, prediction, t) + expand(pull, prediction.eps) * prediction.eps


def noised(schedule: Schedule, x0: Array, eps: Array, t: ArrayLike) -> Array:
    """x_t = alpha x0 + sigma eps, x0 and eps [batch, ...], t a scalar or [batch]."""
    alpha, sigma = coefficients(schedule, t, x0)
    return alpha * x0 + sigma * eps


def prior_std(schedule: Schedule) -> Times:
    """The standard deviation of the prior N(0, sigma(t_max)^2) from which sampling begins."""
    return schedule.sigma(jnp.float32(schedule.t_max))
