"""Noise schedules: x_t = alpha(t) x0 + sigma(t) eps with data at t = 0 and noise at t = 1.

A schedule is the pair (alpha, sigma) and the inverse of its logsnr = 2 log(alpha / sigma), which is clipped to [-20,
20]. All else (drift, diffusion, velocity) is derived from the pair, for every schedule at once, in `process.sde`.

- **VPLinear** (DDPM, arXiv 2006.11239; score SDE, arXiv 2011.13456, eq. 33): beta(t) = beta_min + t (beta_max -
  beta_min), log alpha = -1/2 int_0^t beta = -(beta_min t / 2 + (beta_max - beta_min) t^2 / 4), sigma = sqrt(1 -
  alpha^2).
- **Cosine** (arXiv 2102.09672 without its offset; arXiv 2202.00512): alpha = cos(pi t / 2), sigma = sin(pi t / 2).
- **RectifiedFlow** (arXiv 2209.03003; flow matching, arXiv 2210.02747): alpha = 1 - t, sigma = t.
- **SubVP** (arXiv 2011.13456, eq. 29): VPLinear's alpha with sigma = 1 - alpha^2, the square of VPLinear's.
- **VE** (arXiv 2011.13456, eq. 30): alpha = 1, sigma = sigma_min (sigma_max / sigma_min)^t. At t = 0 a noise of sigma_min
  is left: sampling down to t = 0 ends by one more evaluation, whose x0 is the sample.
- **EDM** (arXiv 2206.00364): alpha = 1, sigma = sigma_max t, so that t = 0 is exactly clean; t_min = sigma_min / sigma_max.

In float32, 1 - alpha^2 loses all digits near t = 0, and cos(pi / 2) is -4e-8: sigma is made by expm1 and alpha is
never negative. Times of a lower precision or whole numbers are taken to float32 first.
"""

from __future__ import annotations

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffusion_jax.process.arguments import number
from diffusion_jax.typing import UserError, pytree_dataclass, static

__all__ = ["EDM", "LOGSNR_LIMIT", "VE", "Cosine", "RectifiedFlow", "SubVP", "VPLinear"]

LOGSNR_LIMIT = 20.0

Times = Float[Array, "..."]


def _float(x: ArrayLike) -> Array:
    """x as an array of float32, or of float64 where it is one."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _check_order(**pair: float) -> None:
    number(**pair)
    (low_name, low), (high_name, high) = pair.items()
    if not 0 < low < high:
        raise UserError(f"{low_name} {low} and {high_name} {high} must satisfy 0 < {low_name} < {high_name}")


def _check_range(t_min: float, t_max: float) -> None:
    number(t_min=t_min, t_max=t_max)
    if not 0.0 <= t_min < t_max <= 1.0:
        raise UserError(f"t_min {t_min} and t_max {t_max} must satisfy 0 <= t_min < t_max <= 1")


def _clipped_logsnr(log_alpha: Array, log_sigma: Array) -> Array:
    return jnp.clip(2.0 * (log_alpha - log_sigma), -LOGSNR_LIMIT, LOGSNR_LIMIT)


def _log(x: Array) -> Array:
    """log with its argument kept off 0, where the clip of logsnr takes over."""
    return jnp.log(jnp.maximum(x, 1e-30))


class _LinearBeta:
    """log alpha of a beta(t) that is linear in t, and its inverse: shared by VPLinear and SubVP."""

    beta_min: float
    beta_max: float

    def log_alpha(self, t: ArrayLike) -> Times:
        """log alpha(t), at most 0."""
        t = _float(t)
        return -t * (0.5 * self.beta_min + 0.25 * (self.beta_max - self.beta_min) * t)

    def alpha(self, t: ArrayLike) -> Times:
        """The share of the data, in (0, 1]."""
        return jnp.exp(self.log_alpha(t))

    def _t_from_log_alpha(self, minus_log_alpha: Array) -> Array:
        half_b, a = 0.25 * self.beta_min, 0.25 * (self.beta_max - self.beta_min)
        # a t^2 + 2 half_b t = c, solved without the difference of two near numbers.
        return minus_log_alpha / (half_b + jnp.sqrt(half_b**2 + a * minus_log_alpha))

    def _check(self, t_min: float, t_max: float) -> None:
        number(beta_min=self.beta_min, beta_max=self.beta_max)
        if not 0 < self.beta_min <= self.beta_max:
            raise UserError(
                f"beta_min {self.beta_min} and beta_max {self.beta_max} must satisfy 0 < beta_min <= beta_max"
            )
        _check_range(t_min, t_max)


@pytree_dataclass
class VPLinear(_LinearBeta):
    """beta(t) linear from `beta_min` to `beta_max`. The velocity diverges at t = 0: training draws t from [t_min, 1].

    Raises UserError unless 0 < beta_min <= beta_max and 0 <= t_min < t_max <= 1.
    """

    beta_min: float = static(default=0.1)
    beta_max: float = static(default=20.0)
    t_min: float = static(default=1e-4)
    t_max: float = static(default=1.0)
    clean: ClassVar[bool] = True
    pure_noise: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self._check(self.t_min, self.t_max)

    def sigma(self, t: ArrayLike) -> Times:
        """The standard deviation of the noise, in [0, 1)."""
        return jnp.sqrt(-jnp.expm1(2.0 * self.log_alpha(t)))

    def logsnr(self, t: ArrayLike) -> Times:
        """2 log(alpha / sigma), falling in t, within [-20, 20]."""
        log_alpha = self.log_alpha(t)
        return _clipped_logsnr(log_alpha, 0.5 * _log(-jnp.expm1(2.0 * log_alpha)))

    def t_from_logsnr(self, logsnr: ArrayLike) -> Times:
        """The time of a logsnr: alpha^2 = sigmoid(logsnr), then the positive root of the quadratic for log alpha."""
        return self._t_from_log_alpha(0.5 * jax.nn.softplus(-_float(logsnr)))


@pytree_dataclass
class SubVP(_LinearBeta):
    """VPLinear's alpha with the smaller noise sigma = 1 - alpha^2; the velocity is finite at t = 0.

    Raises UserError unless 0 < beta_min <= beta_max and 0 <= t_min < t_max <= 1.
    """

    beta_min: float = static(default=0.1)
    beta_max: float = static(default=20.0)
    t_min: float = static(default=1e-3)
    t_max: float = static(default=1.0)
    clean: ClassVar[bool] = True
    pure_noise: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self._check(self.t_min, self.t_max)

    def sigma(self, t: ArrayLike) -> Times:
        """The standard deviation of the noise, 1 - alpha^2, in [0, 1)."""
        return -jnp.expm1(2.0 * self.log_alpha(t))

    def logsnr(self, t: ArrayLike) -> Times:
        """2 log(alpha / (1 - alpha^2)), falling in t, within [-20, 20]."""
        log_alpha = self.log_alpha(t)
        return _clipped_logsnr(log_alpha, _log(-jnp.expm1(2.0 * log_alpha)))

    def t_from_logsnr(self, logsnr: ArrayLike) -> Times:
        """The time of a logsnr: with R = exp(logsnr / 2), alpha is the positive root of R alpha^2 + alpha = R."""
        half = 0.5 * _float(logsnr)
        ratio = jnp.exp(-jnp.abs(half))  # R or 1 / R, whichever is at most 1
        # alpha / R = 1 - alpha^2, which is near 0 where R is large: there -2 log alpha = -log(1 - alpha / R).
        noise = 2.0 * ratio / (ratio + jnp.sqrt(ratio**2 + 4.0))
        alpha = 2.0 * ratio / (1.0 + jnp.sqrt(1.0 + 4.0 * ratio**2))
        return self._t_from_log_alpha(jnp.where(half > 0, -0.5 * jnp.log1p(-noise), -jnp.log(alpha)))


@pytree_dataclass
class VE:
    """alpha = 1, sigma from `sigma_min` (t = 0) to `sigma_max` (t = 1) in equal factors; the defaults are CIFAR-10's.

    Raises UserError unless 0 < sigma_min < sigma_max and 0 <= t_min < t_max <= 1.
    """

    sigma_min: float = static(default=0.01)
    sigma_max: float = static(default=50.0)
    t_min: float = static(default=0.0)
    t_max: float = static(default=1.0)
    clean: ClassVar[bool] = False
    pure_noise: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_order(sigma_min=self.sigma_min, sigma_max=self.sigma_max)
        _check_range(self.t_min, self.t_max)

    def alpha(self, t: ArrayLike) -> Times:
        """1: the data are not shrunk."""
        return jnp.ones_like(_float(t))

    def sigma(self, t: ArrayLike) -> Times:
        """The standard deviation of the noise, sigma_min at t = 0."""
        return jnp.exp(self._log_sigma(_float(t)))

    def _log_sigma(self, t: Array) -> Array:
        return math.log(self.sigma_min) + math.log(self.sigma_max / self.sigma_min) * t

    def logsnr(self, t: ArrayLike) -> Times:
        """-2 log sigma, within [-20, 20]."""
        log_sigma = self._log_sigma(_float(t))
        return _clipped_logsnr(jnp.zeros_like(log_sigma), log_sigma)

    def t_from_logsnr(self, logsnr: ArrayLike) -> Times:
        """Linear in logsnr."""
        return (-0.5 * _float(logsnr) - math.log(self.sigma_min)) / math.log(self.sigma_max / self.sigma_min)


@pytree_dataclass
class EDM:
    """alpha = 1, sigma = sigma_max t: at t = 0 the data are clean; a network is asked from t_min = sigma_min / sigma_max.

    Raises UserError unless 0 < sigma_min < sigma_max.
    """

    sigma_min: float = static(default=0.002)
    sigma_max: float = static(default=80.0)
    clean: ClassVar[bool] = True
    pure_noise: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_order(sigma_min=self.sigma_min, sigma_max=self.sigma_max)

    @property
    def t_min(self) -> float:
        """The time at which sigma is sigma_min."""
        return self.sigma_min / self.sigma_max

    @property
    def t_max(self) -> float:
        """1, where sigma is sigma_max."""
        return 1.0

    def alpha(self, t: ArrayLike) -> Times:
        """1: the data are not shrunk."""
        return jnp.ones_like(_float(t))

    def sigma(self, t: ArrayLike) -> Times:
        """The standard deviation of the noise, sigma_max t."""
        return self.sigma_max * _float(t)

    def logsnr(self, t: ArrayLike) -> Times:
        """-2 log sigma, within [-20, 20]."""
        t = _float(t)
        return _clipped_logsnr(jnp.zeros_like(t), _log(self.sigma(t)))

    def t_from_logsnr(self, logsnr: ArrayLike) -> Times:
        """exp(-logsnr / 2) / sigma_max."""
        return jnp.exp(-0.5 * _float(logsnr)) / self.sigma_max


@pytree_dataclass
class Cosine:
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2): at t = 1 there is noise alone (zero terminal SNR).

    Raises UserError unless 0 <= t_min < t_max <= 1.
    """

    t_min: float = static(default=0.0)
    t_max: float = static(default=1.0)
    clean: ClassVar[bool] = True
    pure_noise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_range(self.t_min, self.t_max)

    def alpha(self, t: ArrayLike) -> Times:
        """The share of the data, in [0, 1]."""
        # Written as the sine of the complement, which is exactly 0 at t = 1.
        return jnp.sin(0.5 * math.pi * (1.0 - _float(t)))

    def sigma(self, t: ArrayLike) -> Times:
        """The standard deviation of the noise, in [0, 1]."""
        return jnp.sin(0.5 * math.pi * _float(t))

    def logsnr(self, t: ArrayLike) -> Times:
        """2 log(alpha / sigma) = -2 log tan(pi t / 2), within [-20, 20]."""
        return _clipped_logsnr(_log(self.alpha(t)), _log(self.sigma(t)))

    def t_from_logsnr(self, logsnr: ArrayLike) -> Times:
        """(2 / pi) arctan(exp(-logsnr / 2))."""
        return jnp.arctan(jnp.exp(-0.5 * _float(logsnr))) * (2.0 / math.pi)


@pytree_dataclass
class RectifiedFlow:
    """alpha = 1 - t, sigma = t: straight lines between data and noise; the velocity is eps - x0.

    Raises UserError unless 0 <= t_min < t_max <= 1.
    """

    t_min: float = static(default=0.0)
    t_max: float = static(default=1.0)
    clean: ClassVar[bool] = True
    pure_noise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_range(self.t_min, self.t_max)

    def alpha(self, t: ArrayLike) -> Times:
        """The share of the data, 1 - t."""
        return 1.0 - _float(t)

    def sigma(self, t: ArrayLike) -> Times:
        """The share of the noise, t."""
        return _float(t)

    def logsnr(self, t: ArrayLike) -> Times:
        """2 log((1 - t) / t), within [-20, 20]."""
        t = _float(t)
        return _clipped_logsnr(_log(1.0 - t), _log(t))

    def t_from_logsnr(self, logsnr: ArrayLike) -> Times:
        """sigmoid(-logsnr / 2)."""
        return jax.nn.sigmoid(-0.5 * _float(logsnr))
