"""Several prompts at once (composable diffusion, arXiv 2206.01714, eq. 11 and 12).

With predictions c_i under the prompts and u under the null condition, guided = u + sum_i w_i (c_i - u). If the prompts
were independent given the image, and all w_i = 1, this is the field of their conjunction: p(x | c_1, ..., c_n) is
proportional to p(x) prod_i p(c_i | x), and at each noise level the same is assumed. A negative w_i keeps away from a
prompt. All predictions come from one call on a batch of (n + 1) B.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from diffusion_jax.process.arguments import check_condition, described, floats, known
from diffusion_jax.process.asking import AnyTime
from diffusion_jax.process.sde import expand
from diffusion_jax.sampling.guidance.contrast import interleave, predict_all
from diffusion_jax.sampling.guidance.steered import Steered, memory_of, structured
from diffusion_jax.typing import DenoiseFn, Prediction, PyTree, UserError, pytree_dataclass

__all__ = ["Composition", "compose"]


@pytree_dataclass
class Composition(Steered, AnyTime):
    """u + sum_i w_i (c_i - u) as a DenoiseFn that holds its own prompts; made by `compose`."""

    denoise: Any
    null: Any
    conds: Any
    scales: Any

    def start(self, xt: Array) -> PyTree:
        """The memory of the denoiser."""
        return memory_of(self.denoise, interleave([xt] * (len(self.conds) + 1)))

    def step(self, xt: Array, t: ArrayLike, cond: PyTree, memory: PyTree) -> tuple[Prediction, PyTree]:
        """The pair of the composition. The condition must be None: the prompts are in the composition."""
        if cond is not None:
            raise UserError("a composition holds its own prompts: sample it with cond=None")
        batch = xt.shape[0]
        if self.scales.ndim == 2 and self.scales.shape[0] != batch:
            raise UserError(f"scales have shape {self.scales.shape} for a batch of {batch}")
        null = jax.tree.map(lambda leaf: _spread(leaf, batch), self.null)
        (u, *found), memory = predict_all(self.denoise, xt, t, null, list(self.conds), memory)
        x0, eps = u.x0, u.eps
        for i, c in enumerate(found):
            scale = expand(self.scales[..., i], u.x0)
            x0, eps = x0 + scale * (c.x0 - u.x0), eps + scale * (c.eps - u.eps)
        return Prediction(x0, eps, u.variance), memory


def _spread(leaf: Any, batch: int) -> Array:
    leaf = jnp.asarray(leaf)
    if leaf.shape[:1] not in ((1,), (batch,)):
        raise UserError(
            f"the null condition has shape {leaf.shape} for a batch of {batch}: its first axis is 1 or that"
        )
    return jnp.broadcast_to(leaf, (batch, *leaf.shape[1:]))


def compose(
    denoise: DenoiseFn, null: PyTree, conds: Sequence[PyTree], scales: ArrayLike | Sequence[Any]
) -> Composition:
    """`denoise` under all of `conds` at once, each a condition with leading axis 1 or batch, as null.

    `scales` [prompts] or [batch, prompts] weigh them; a negative one keeps away from its prompt. A learned variance is
    that under the null condition. Raises UserError without prompts, and where prompts and scales are not equally many.
    """
    if isinstance(conds, str | dict) or not isinstance(conds, Sequence):
        raise UserError(f"conds is {described(conds)}, not a list of conditions, one a prompt")
    conds = tuple(conds)
    if not conds:
        raise UserError("a composition needs at least one prompt")
    check_condition("null", null)
    for i, tree in enumerate(conds):
        check_condition(f"conds[{i}]", tree)
    weights = floats("scales", scales, "numbers, one a prompt")
    if known(weights) and not np.isfinite(np.asarray(weights)).all():
        raise UserError(f"scales {np.asarray(weights).tolist()} are not all finite")
    if weights.ndim not in (1, 2) or weights.shape[-1] != len(conds):
        raise UserError(f"scales have shape {weights.shape} for {len(conds)} prompts: give one a prompt")
    return Composition(structured(denoise), null, conds, jnp.asarray(weights))
