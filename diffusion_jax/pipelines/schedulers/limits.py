"""What diffusers' schedulers do to x0 before a step: limits, and the ends of a consistency model.

Clipping to a range, or dynamic thresholding (Imagen, arXiv 2205.11487, section 2.3) with s, the quantile of |x0|, kept within
[1, most]: x0 is clipped to [-s, s] and divided by s. eps follows x0, so that the pair adds up to xt, but not in DDIM, which
takes x0 as it was limited and eps as the network said it.

A latent consistency model (arXiv 2310.04378, section 4.1) is c_skip x + c_out x0 with c_skip = .25 / (u^2 + .25) and c_out =
u / sqrt(u^2 + .25), u a multiple of the timestep.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from diffusion_jax.process.asking import AnyTime
from diffusion_jax.process.network_time import TIME_INPUTS
from diffusion_jax.process.sde import expand
from diffusion_jax.sampling.guidance.steered import Steered, memory_of, remembering, structured, with_x0
from diffusion_jax.typing import DenoiseFn, Prediction, PyTree, Schedule, pytree_dataclass, static

__all__ = ["Consistency", "Limited", "limited"]


@pytree_dataclass
class Limited(Steered, AnyTime):
    """`denoise` with x0 clipped to [-bound, bound], or thresholded at its quantile `ratio` within [1, bound]."""

    denoise: Any
    schedule: Any
    bound: float = static()
    ratio: float | None = static(default=None)
    keeps_eps: bool = static(default=False)

    def start(self, xt: Array) -> PyTree:
        """The memory of the denoiser."""
        return memory_of(self.denoise, xt)

    def step(self, xt: Array, t: ArrayLike, cond: PyTree, memory: PyTree) -> tuple[Prediction, PyTree]:
        """The pair with x0 limited."""
        pair, memory = remembering(self.denoise, xt, t, cond, memory)
        if self.ratio is None:
            x0 = jnp.clip(pair.x0, -self.bound, self.bound)
        else:
            flat = jnp.abs(pair.x0).reshape(pair.x0.shape[0], -1)
            quantile = jnp.quantile(flat, jnp.float32(self.ratio), axis=1)
            s = expand(jnp.minimum(jnp.maximum(quantile, 1.0), self.bound), pair.x0)
            x0 = jnp.clip(pair.x0, -s, s) / s
        if self.keeps_eps:
            return Prediction(x0, pair.eps, pair.variance), memory
        return with_x0(pair, x0, t, self.schedule), memory


@pytree_dataclass
class Consistency(Steered, AnyTime):
    """`denoise` as a consistency function, whose x0 is the clean end; `scaling` multiplies the timestep."""

    denoise: Any
    schedule: Any
    scaling: float = static(default=10.0)

    def start(self, xt: Array) -> PyTree:
        """The memory of the denoiser."""
        return memory_of(self.denoise, xt)

    def step(self, xt: Array, t: ArrayLike, cond: PyTree, memory: PyTree) -> tuple[Prediction, PyTree]:
        """The pair with x0 the clean end."""
        pair, memory = remembering(self.denoise, xt, t, cond, memory)
        u = self.scaling * TIME_INPUTS["index"](self.schedule, jnp.asarray(t, pair.x0.dtype))
        skip, out = 0.25 / (u**2 + 0.25), u / jnp.sqrt(u**2 + 0.25)
        return with_x0(pair, expand(out, xt) * pair.x0 + expand(skip, xt) * xt, t, self.schedule), memory


def limited(
    denoise: DenoiseFn, schedule: Schedule, bound: float, ratio: float | None = None, keeps_eps: bool = False
) -> Limited:
    """`denoise` with x0 limited, see `Limited`."""
    return Limited(structured(denoise), schedule, bound, ratio, keeps_eps)
