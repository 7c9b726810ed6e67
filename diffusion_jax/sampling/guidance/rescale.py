"""The rescaling of a guided prediction to the spread of the conditional one (arXiv 2305.08891, section 3.4).

The guided prediction g, in the form in which the network was trained, becomes phi (std c / std g) g + (1 - phi) g, with
standard deviations over an example's entries.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from diffusion_jax.process.arguments import check_schedule
from diffusion_jax.process.prediction import KINDS, from_pair, to_prediction
from diffusion_jax.sampling.guidance.contrast import Guided, Rule
from diffusion_jax.sampling.guidance.steered import (
    fitted,
    setting,
)
from diffusion_jax.sampling.norms import std
from diffusion_jax.typing import (
    DenoiseFn,
    Prediction,
    PyTree,
    Schedule,
    UserError,
    one_of,
    pytree_dataclass,
    static,
)

__all__ = ["rescale"]


@pytree_dataclass
class _Rescaled(Rule):
    rule: Any
    phi: Any
    schedule: Any
    prediction: str = static()

    def start(self, xt: Array) -> PyTree:
        return self.rule.start(xt)

    def join(self, c: Prediction, u: Prediction, xt: Array, t: ArrayLike, memory: PyTree) -> tuple[Prediction, PyTree]:
        pair, memory = self.rule.join(c, u, xt, t, memory)
        guided, plain = (from_pair(self.prediction, p.x0, p.eps, t, self.schedule) for p in (pair, c))
        phi, spread = fitted("rescale", self.phi, guided), std(guided)
        ratio = jnp.where(spread > 0, std(plain) / jnp.where(spread > 0, spread, 1.0), 1.0)
        # From the guided pair on, so that phi = 0 leaves it as it is.
        change = phi * (ratio - 1.0)
        moved = to_prediction(self.prediction, guided + change * guided, xt, t, self.schedule)
        kept = change == 0
        return Prediction(
            jnp.where(kept, pair.x0, moved.x0), jnp.where(kept, pair.eps, moved.eps), pair.variance
        ), memory


def rescale(guided: DenoiseFn, schedule: Schedule, prediction: str, phi: ArrayLike = 0.7) -> Guided:
    """`guided` with its prediction scaled to the spread of the conditional one by the share phi in [0, 1]; 0 leaves it.

    `prediction` is what the network was trained to give. Raises UserError for another kind, for phi outside [0, 1], and
    for a denoiser that is not guided by contrast.
    """
    if not isinstance(guided, Guided):
        raise UserError(f"rescale acts on a guided denoiser, as classifier_free makes, not on {type(guided).__name__}")
    check_schedule(schedule)
    one_of("prediction", prediction, KINDS)
    rule = _Rescaled(guided.rule, setting("rescale", phi, 0.0, 1.0), schedule, prediction)
    return Guided(guided.contrast, rule)
