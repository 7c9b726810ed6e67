"""DPM-Solver as diffusers publishes it, where that differs from the paper: the third order.

The second derivative of a prediction is twice its second divided difference. diffusers leaves out the 2, so that its "third
order" is of second order; and its stochastic form has -1/2 - phi_2 where 1/2 - phi_2 belongs. A folder that asks for
solver_order 3 is given what it was tuned with; `DPMSolverPP(3)` is the paper's.
"""

from __future__ import annotations

import dataclasses

from jaxtyping import Array

from diffusion_jax.sampling.solvers.dpm_solver import DPMSolver
from diffusion_jax.sampling.solvers.dpm_solver_pp import DPMSolverPP

__all__ = ["PublishedDPM", "PublishedDPMPP"]


@dataclasses.dataclass(frozen=True)
class PublishedDPM(DPMSolver):
    """DPMSolver with diffusers' third multi-step order."""

    def _curvature(self, reach: Array, phi_2: Array, phi_3: Array) -> Array:
        return reach * phi_3


@dataclasses.dataclass(frozen=True)
class PublishedDPMPP(DPMSolverPP):
    """DPMSolverPP with diffusers' third multi-step order."""

    def _curvature(self, reach: Array, phi_2: Array, phi_3: Array) -> Array:
        return -0.5 - phi_2 if self.sde else reach * phi_3
