"""Euler's ancestral sampler (k-diffusion): an ODE step in rho = sigma / alpha to less noise than asked for, and the rest added.

With rho_up = eta rho_s sqrt(1 - r^2), r as in `ddim`, this is in (alpha, sigma) DDIM's family, for every eta.
"""

from __future__ import annotations

import dataclasses

from diffusion_jax.sampling.solvers.ddim import Family

__all__ = ["EulerAncestral"]


@dataclasses.dataclass(frozen=True)
class EulerAncestral(Family):
    """k-diffusion's ancestral Euler for every schedule, one evaluation a step; eta in [0, 1], DDIM's with the same eta."""

    eta: float = 1.0
