"""Exponential moving averages of the parameters, by how the share d that is kept follows from the step.

After step n (from 0) the average is ema + (1 - d)(params - ema).

**`Ema`**: d is `decay`, with warm-up min(decay, (1 + n) / (10 + n)), so that the first averages follow the parameters closely
instead of remembering the random start; d reaches .999 after about 9,000 steps. Without warm-up,
ema_N = decay^N p_0 + (1 - decay) sum_n decay^(N - 1 - n) p_(n + 1).

**`HalfLife`** (EDM, arXiv 2206.00364, appendix F.1, and its recipe): d = 2^(-batch / h), where h is `images`, at first no more
than `ramp` times the images seen, so that a share of the past is forgotten and not a number.

**`PowerFunction`** (EDM2, arXiv 2312.02696, section 3.1): d = (1 - 1/t)^(g + 1) with t = n + 1, which weighs the parameters of
step s of t in proportion to (s/t)^g: the average has the same shape at every length of training, and forgets its start by
itself. `width` is its relative standard deviation sqrt(g + 1) / ((g + 2) sqrt(g + 3)), from which g follows as the largest root
of g^3 + 7 g^2 + (16 - width^-2) g + 12 - width^-2 (eq. 127): 0.05 is g = 16.97, 0.1 is 6.94.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.typing import Array, Params, UserError

__all__ = ["Average", "Ema", "HalfLife", "PowerFunction", "power_of_width"]


@runtime_checkable
class Average(Protocol):
    """What averages the parameters."""

    def update(self, ema: Params, params: Params, step: Array | int) -> Params:
        """The average after step `step` (from 0), given the parameters that the step ended with."""
        ...


def _moved(ema: Params, params: Params, keep: Array) -> Params:
    return jax.tree.map(lambda e, p: e + (1 - keep).astype(e.dtype) * (p - e), ema, params)


@dataclasses.dataclass(frozen=True)
class Ema:
    """An average that keeps the share `decay` in [0, 1) of itself each step."""

    decay: float = 0.999
    warmup: bool = True

    def __post_init__(self) -> None:
        if not (self.decay >= 0.0 and np.float32(self.decay) < 1):  # in float32 1 - 1e-8 is 1, and nothing would move
            raise UserError(f"ema decay {self.decay} is not in [0, 1); usual: 0.999 or 0.9999")

    def decay_at(self, step: Array | int) -> Array:
        """The decay used after step `step` (a scalar, from 0): a float32 scalar."""
        step = jnp.asarray(step, jnp.float32)
        decay = jnp.full_like(step, self.decay)
        return jnp.minimum(decay, (1 + step) / (10 + step)) if self.warmup else decay

    def update(self, ema: Params, params: Params, step: Array | int) -> Params:
        """The average after step `step`, given the parameters that the step ended with."""
        return _moved(ema, params, self.decay_at(step))


@dataclasses.dataclass(frozen=True)
class HalfLife:
    """An average that halves what it remembers every `images` images, of `batch_size` a step; `ramp` 0 has no ramp."""

    batch_size: int
    images: float = 500_000.0
    ramp: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.images < math.inf:
            raise UserError(f"ema images {self.images} is not a finite number above 0; usual: 500000")
        if not 0 <= self.ramp < math.inf:
            raise UserError(f"ema ramp {self.ramp} is not a finite number of at least 0; usual: 0.05")
        if self.batch_size < 1:
            raise UserError(f"ema batch_size {self.batch_size} is not at least 1")

    def decay_at(self, step: Array | int) -> Array:
        """As `Ema.decay_at`; 0 after the first step where there is a ramp."""
        step = jnp.asarray(step, jnp.float32)
        life = jnp.full_like(step, self.images)
        if self.ramp:
            life = jnp.minimum(life, step * self.batch_size * self.ramp)
        return jnp.where(life > 0, jnp.exp2(-self.batch_size / jnp.maximum(life, 1e-6)), 0.0)

    def update(self, ema: Params, params: Params, step: Array | int) -> Params:
        """As `Ema.update`."""
        return _moved(ema, params, self.decay_at(step))


@functools.cache
def power_of_width(width: float) -> float:
    """g of the power function of a relative standard deviation `width` in (0, 0.288...), which is that of g = 0.

    UserError outside.
    """
    widest = 1 / (2 * math.sqrt(3))
    if not 0 < width <= widest:
        raise UserError(f"ema width {width} is not in (0, {widest:.3f}]; usual: 0.05 or 0.1")
    square = width**-2
    return float(np.roots([1.0, 7.0, 16.0 - square, 12.0 - square]).real.max())


@dataclasses.dataclass(frozen=True)
class PowerFunction:
    """An average of relative `width` in (0, 0.288], the same share of training whatever its length."""

    width: float = 0.1

    def __post_init__(self) -> None:
        power_of_width(self.width)

    def decay_at(self, step: Array | int) -> Array:
        """As `Ema.decay_at`; 0 after the first step."""
        t = jnp.asarray(step, jnp.float32) + 1
        # (1 - 1/t)^(g + 1) by logarithms, which keep the digits that 1 - 1/t loses.
        return jnp.where(t > 1, jnp.exp((power_of_width(self.width) + 1) * jnp.log1p(-1 / jnp.maximum(t, 1.5))), 0.0)

    def update(self, ema: Params, params: Params, step: Array | int) -> Params:
        """As `Ema.update`."""
        return _moved(ema, params, self.decay_at(step))
