"""Exponential moving average of the parameters.

After step n (from 0) the average is ema + (1 - d)(params - ema). With warm-up d = min(decay, (1 + n) / (10 + n)), so
that the first averages follow the parameters closely instead of remembering the random start; d reaches .999 after
about 9,000 steps. Without warm-up, ema_N = decay^N p_0 + (1 - decay) sum_n decay^(N - 1 - n) p_(n + 1).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.typing import Array, Params, UserError

__all__ = ["Ema"]


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
        keep = self.decay_at(step)
        return jax.tree.map(lambda e, p: e + (1 - keep).astype(e.dtype) * (p - e), ema, params)
