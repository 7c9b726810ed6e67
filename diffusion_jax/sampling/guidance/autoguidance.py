"""Autoguidance (arXiv 2406.02507): a good model led away from a weaker one of the same data, under one condition.

The prediction is u + w (c - u) with c of the good model, u of the weak one and w the guidance scale.
"""

from __future__ import annotations

from jax.typing import ArrayLike

from diffusion_jax.sampling.guidance.classifier_free import Linear
from diffusion_jax.sampling.guidance.contrast import Guided, Models, scale_of
from diffusion_jax.sampling.guidance.steered import (
    structured,
)
from diffusion_jax.typing import (
    DenoiseFn,
)

__all__ = ["autoguidance"]


def autoguidance(denoise: DenoiseFn, weak: DenoiseFn, guidance_scale: ArrayLike = 2.0) -> Guided:
    """`denoise` led away from `weak`, a smaller or less trained model of the same data and conditions.

    The condition may be None. For guidance towards a condition besides, give both models guided. Raises UserError for a
    negative scale.
    """
    return Guided(Models(structured(denoise), structured(weak, "weak")), Linear(scale_of(guidance_scale, None)))
