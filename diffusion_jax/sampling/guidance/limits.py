"""Limits to guidance: where in the noise it acts, and how far it may take the clean data.

- **Interval** (arXiv 2404.07724): guidance where low <= sigma / alpha <= high, the plain denoiser elsewhere. Guidance does
  harm at high noise, where it decides too much, and nothing at low noise.
- **Static clipping**: x0 is clipped to [low, high].
- **Dynamic thresholding** (Imagen, arXiv 2205.11487, section 2.3): with s the percentile of |x0| over an example's entries,
  but at least `limit`, x0 is clipped to [-s, s] and divided by s / limit. So saturated pixels come back from the limit.

Whoever alters x0 alters eps with it, so that the pair still adds up to xt.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from diffusion_jax.process.arguments import check_schedule
from diffusion_jax.process.asking import AnyTime
from diffusion_jax.process.sde import expand
from diffusion_jax.sampling.guidance.steered import (
    Steered,
    fitted,
    memory_of,
    remembering,
    setting,
    structured,
    with_x0,
)
from diffusion_jax.sampling.steps import relative_sigma
from diffusion_jax.typing import DenoiseFn, Prediction, PyTree, Schedule, UserError, pytree_dataclass

__all__ = ["Clipped", "Interval", "Thresholded", "clip_x0", "dynamic_threshold", "interval"]


@pytree_dataclass
class Interval(Steered, AnyTime):
    """`guided` within an interval of noise levels, `plain` elsewhere; made by `interval`."""

    guided: Any
    plain: Any
    schedule: Any
    low: Any
    high: Any

    def start(self, xt: Array) -> PyTree:
        """The memories of both."""
        return memory_of(self.guided, xt), memory_of(self.plain, xt)

    def step(self, xt: Array, t: ArrayLike, cond: PyTree, memory: PyTree) -> tuple[Prediction, PyTree]:
        """The pair of either; neither is evaluated where no example of the batch needs it."""
        level = jnp.broadcast_to(relative_sigma(self.schedule, jnp.asarray(t, jnp.float32)), xt.shape[:1])
        low, high = (fitted(n, v, xt[:, :0]).reshape(-1) for n, v in (("low", self.low), ("high", self.high)))
        inside = (level >= low) & (level <= high)

        def asked(denoise: DenoiseFn, wanted: Array, own: PyTree) -> tuple[Prediction, PyTree]:
            def evaluate() -> tuple[Prediction, PyTree]:
                return remembering(denoise, xt, t, cond, own)

            shape = jax.eval_shape(evaluate)[0]
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape)
            return jax.lax.cond(jnp.any(wanted), evaluate, lambda: (zeros, own))

        guided, first = asked(self.guided, inside, memory[0])
        plain, second = asked(self.plain, ~inside, memory[1])
        return jax.tree.map(lambda g, p: jnp.where(expand(inside, g) != 0, g, p), guided, plain), (first, second)


def interval(
    guided: DenoiseFn, plain: DenoiseFn, schedule: Schedule, low: ArrayLike = 0.0, high: ArrayLike = float("inf")
) -> Interval:
    """`guided` where low <= sigma(t) / alpha(t) <= high, else `plain`, usually the denoiser that was guided.

    low and high are numbers, or one an example; other values do not recompile. Raises UserError for an interval upside
    down or below 0.
    """
    check_schedule(schedule)
    low, high = setting("low", low, 0.0), setting("high", high, 0.0)
    if not any(isinstance(end, jax.core.Tracer) for end in (low, high)) and bool(np.any(low > high)):
        wrong = np.flatnonzero(np.broadcast_to(np.asarray(low > high), np.broadcast_shapes(low.shape, high.shape)))[0]
        ends = [
            float(np.broadcast_to(np.asarray(end), max(low.shape, high.shape)).reshape(-1)[wrong])
            for end in (low, high)
        ]
        raise UserError(
            f"the guidance interval [{ends[0]:g}, {ends[1]:g}] is upside down; nearest: [{ends[1]:g}, {ends[0]:g}]"
        )
    return Interval(structured(guided, "guided"), structured(plain, "plain"), schedule, low, high)


@pytree_dataclass
class Clipped(Steered, AnyTime):
    """x0 within [low, high]; made by `clip_x0`."""

    denoise: Any
    schedule: Any
    low: Any
    high: Any

    def start(self, xt: Array) -> PyTree:
        """The memory of the denoiser."""
        return memory_of(self.denoise, xt)

    def step(self, xt: Array, t: ArrayLike, cond: PyTree, memory: PyTree) -> tuple[Prediction, PyTree]:
        """The pair with x0 clipped."""
        pair, memory = remembering(self.denoise, xt, t, cond, memory)
        low, high = (fitted(name, value, pair.x0) for name, value in (("low", self.low), ("high", self.high)))
        return with_x0(pair, jnp.clip(pair.x0, low, high), t, self.schedule), memory


def clip_x0(denoise: DenoiseFn, schedule: Schedule, low: ArrayLike = -1.0, high: ArrayLike = 1.0) -> Clipped:
    """`denoise` with x0 clipped to [low, high], numbers or one an example; +-inf leaves it.

    Raises UserError where low is above high.
    """
    check_schedule(schedule)
    low, high = setting("low", low), setting("high", high)
    if not any(isinstance(end, jax.core.Tracer) for end in (low, high)) and bool(np.any(low > high)):
        raise UserError(f"the range of x0 from {np.max(low):g} to {np.min(high):g} is upside down")
    return Clipped(structured(denoise), schedule, low, high)


@pytree_dataclass
class Thresholded(Steered, AnyTime):
    """x0 within its own percentile, scaled back to the limit; made by `dynamic_threshold`."""

    denoise: Any
    schedule: Any
    percentile: Any
    limit: Any

    def start(self, xt: Array) -> PyTree:
        """The memory of the denoiser."""
        return memory_of(self.denoise, xt)

    def step(self, xt: Array, t: ArrayLike, cond: PyTree, memory: PyTree) -> tuple[Prediction, PyTree]:
        """The pair with x0 thresholded."""
        pair, memory = remembering(self.denoise, xt, t, cond, memory)
        limit = fitted("limit", self.limit, pair.x0)
        share = fitted("percentile", self.percentile, pair.x0).reshape(-1)
        flat = jnp.abs(pair.x0).reshape(pair.x0.shape[0], -1)
        quantile = jax.vmap(jnp.quantile)(flat, jnp.broadcast_to(share, flat.shape[:1]))
        beyond = expand(quantile, pair.x0) > limit
        s = jnp.where(beyond, expand(quantile, pair.x0), limit)
        # No division where nothing is beyond the limit, which may then be infinite.
        x0 = jnp.clip(pair.x0, -s, s) * jnp.where(beyond, limit / jnp.where(beyond, s, 1.0), 1.0)
        return with_x0(pair, x0, t, self.schedule), memory


def dynamic_threshold(
    denoise: DenoiseFn, schedule: Schedule, percentile: ArrayLike = 0.995, limit: ArrayLike = 1.0
) -> Thresholded:
    """`denoise` with x0 clipped at its `percentile` (a share in [0, 1]) where that is beyond `limit`, and scaled to it.

    Numbers, or one an example. `limit` is the end of the data's range; infinite, it leaves x0. Raises UserError for a
    percentile outside [0, 1] and a limit below 0.
    """
    check_schedule(schedule)
    share, limit = setting("percentile", percentile, 0.0, 1.0), setting("limit", limit, 0.0)
    return Thresholded(structured(denoise), schedule, share, limit)
