"""Schedules made from others, and schedules that are learned.

**Shifted**: the noise of a larger image must be larger for the same destruction, as neighbouring pixels repeat one
another: sigma / alpha is multiplied by a shift, logsnr moves by -2 log(shift) (simple diffusion, arXiv 2301.11093, eq.
4; SD3, arXiv 2403.03206, eq. 23, where t' = s t / (1 + (s - 1) t)). The shifted pair lies on the base's own curve: with
n = sqrt(alpha^2 + s^2 sigma^2) for schedules that preserve variance, n = alpha + s sigma for straight lines, n = 1 where
alpha = 1, it is (alpha, s sigma) / n. So the shift is smooth and exact at both ends.

**LearnedGamma** (VDM, arXiv 2107.00630, appendix H): logsnr = -gamma(t), gamma a network of one input that rises
because its weights are positive, scaled to run from -logsnr_max at t = 0 to -logsnr_min at t = 1; alpha^2 =
sigmoid(-gamma), sigma^2 = sigmoid(gamma). Its parameters are leaves, to be trained with those of the network.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffusion_jax.process.arguments import number
from diffusion_jax.process.schedule import LOGSNR_LIMIT
from diffusion_jax.typing import Params, Schedule, UserError, pytree_dataclass, static

__all__ = ["LearnedGamma", "Shifted", "learned_gamma"]

Times = Float[Array, "..."]

BISECTIONS = 60


@pytree_dataclass
class Shifted:
    """`base` with sigma / alpha multiplied by `shift` > 0; made by `Shifted(base, shift)`.

    Raises UserError unless shift > 0, and for a base that is neither variance-preserving, nor straight (alpha + sigma =
    1), nor of alpha = 1: there is no one curve to stay on.
    """

    base: Any
    shift: float = static(default=1.0)
    curve: str = static(default="")

    def __post_init__(self) -> None:
        number(shift=self.shift)
        if not self.shift > 0:
            raise UserError(f"shift {self.shift} is not above 0; 1 leaves the schedule as it is")
        if not self.curve:
            object.__setattr__(self, "curve", _curve(self.base))

    @property
    def t_min(self) -> float:
        """The base's."""
        return self.base.t_min

    @property
    def t_max(self) -> float:
        """The base's."""
        return self.base.t_max

    @property
    def clean(self) -> bool | None:
        """As the base; None where it does not say."""
        return getattr(self.base, "clean", None)

    @property
    def pure_noise(self) -> bool | None:
        """As the base; None where it does not say."""
        return getattr(self.base, "pure_noise", None)

    def _pair(self, t: ArrayLike) -> tuple[Array, Array]:
        alpha, sigma = self.base.alpha(t), self.shift * self.base.sigma(t)
        if self.curve == "variance":
            norm = jnp.sqrt(alpha**2 + sigma**2)
        else:
            norm = alpha + sigma if self.curve == "line" else jnp.ones_like(alpha)
        return alpha / norm, sigma / norm

    def alpha(self, t: ArrayLike) -> Times:
        """The share of the data."""
        return self._pair(t)[0]

    def sigma(self, t: ArrayLike) -> Times:
        """The standard deviation of the noise."""
        return self._pair(t)[1]

    def logsnr(self, t: ArrayLike) -> Times:
        """The base's minus 2 log(shift), within [-20, 20]."""
        return jnp.clip(self.base.logsnr(t) - 2.0 * math.log(self.shift), -LOGSNR_LIMIT, LOGSNR_LIMIT)

    def t_from_logsnr(self, logsnr: ArrayLike) -> Times:
        """The base's at logsnr + 2 log(shift)."""
        return self.base.t_from_logsnr(logsnr + 2.0 * math.log(self.shift))


def _curve(base: Schedule) -> str:
    with jax.ensure_compile_time_eval():
        t = jnp.linspace(base.t_min, base.t_max, 5)
        alpha, sigma = base.alpha(t), base.sigma(t)
        for curve, constant in (("variance", alpha**2 + sigma**2), ("line", alpha + sigma), ("unit", alpha)):
            if bool(jnp.all(jnp.abs(constant - 1.0) < 1e-4)):
                return curve
    raise UserError(
        f"{type(base).__name__} cannot be shifted: it neither preserves variance, nor is straight, nor has alpha = 1"
    )


@pytree_dataclass
class LearnedGamma:
    """logsnr(t) = -gamma(t) with gamma a monotone network; made by `learned_gamma`. `params` are leaves.

    At t = 0 the noise of `logsnr_max` is left, so that sampling ends by one evaluation, as under VE.
    """

    params: Any
    logsnr_max: float = static(default=13.3)
    logsnr_min: float = static(default=-5.0)
    t_min: float = static(default=0.0)
    t_max: float = static(default=1.0)
    clean: ClassVar[bool] = False
    pure_noise: ClassVar[bool] = False

    def __post_init__(self) -> None:
        number(logsnr_min=self.logsnr_min, logsnr_max=self.logsnr_max, t_min=self.t_min, t_max=self.t_max)
        if not -LOGSNR_LIMIT <= self.logsnr_min < self.logsnr_max <= LOGSNR_LIMIT:
            raise UserError(f"logsnr_min {self.logsnr_min} and logsnr_max {self.logsnr_max} must rise within [-20, 20]")

    def _raw(self, t: Array) -> Array:
        """The network: slope t + sum_k b_k sigmoid(a_k t + c_k) with positive slope, a and b."""
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, t.dtype), self.params)
        slope, inner, outer = (jax.nn.softplus(params[name]) for name in ("slope", "inner", "outer"))

        def at(t: Array) -> Array:
            return slope * t + jnp.mean(outer * jax.nn.sigmoid(inner * t + params["bias"]))

        return jax.vmap(at)(t.reshape(-1)).reshape(t.shape)

    def logsnr(self, t: ArrayLike) -> Times:
        """Falling from logsnr_max at t = 0 to logsnr_min at t = 1."""
        t = jnp.asarray(t, jnp.result_type(t, jnp.float32))
        first, last = (self._raw(jnp.asarray(end, t.dtype)) for end in (0.0, 1.0))
        share = (self._raw(t) - first) / (last - first)
        return self.logsnr_max + (self.logsnr_min - self.logsnr_max) * share

    def alpha(self, t: ArrayLike) -> Times:
        """sqrt(sigmoid(logsnr))."""
        return jnp.exp(0.5 * jax.nn.log_sigmoid(self.logsnr(t)))

    def sigma(self, t: ArrayLike) -> Times:
        """sqrt(sigmoid(-logsnr))."""
        return jnp.exp(0.5 * jax.nn.log_sigmoid(-self.logsnr(t)))

    def t_from_logsnr(self, logsnr: ArrayLike) -> Times:
        """The time of a logsnr, by bisection; outside [logsnr_min, logsnr_max] it is 1 or 0."""
        logsnr = jnp.asarray(logsnr, jnp.result_type(logsnr, jnp.float32))

        def halve(_: Any, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bounds
            middle = 0.5 * (low + high)
            above = self.logsnr(middle) > logsnr  # too little noise yet
            return jnp.where(above, middle, low), jnp.where(above, high, middle)

        low, high = jax.lax.fori_loop(0, BISECTIONS, halve, (jnp.zeros_like(logsnr), jnp.ones_like(logsnr)))
        return 0.5 * (low + high)


def learned_gamma(
    key: Array, logsnr_max: float = 13.3, logsnr_min: float = -5.0, hidden: int = 64, params: Params | None = None
) -> LearnedGamma:
    """A LearnedGamma with fresh parameters (nearly linear in t), or with `params` as they are.

    `hidden` sigmoids. Raises UserError unless -20 <= logsnr_min < logsnr_max <= 20.
    """
    if params is None:
        inner, bias = jax.random.normal(key, (2, hidden))
        params = {
            "slope": jnp.asarray(1.0),
            "inner": 2.0 + inner,
            "outer": jnp.full((hidden,), -2.0),
            "bias": 3.0 * bias,
        }
    return LearnedGamma(params, logsnr_max, logsnr_min)
