"""Sampling: solvers, grids, guidance and the one driver. It sees a DenoiseFn and a Schedule, never a network."""

from diffusion_jax.sampling.editing.inpainting import Inpaint
from diffusion_jax.sampling.editing.inversion import img2img, interpolate, invert, lerp, slerp
from diffusion_jax.sampling.editing.posterior import DPS, pigdm
from diffusion_jax.sampling.grids import discrete, karras, logsnr_uniform, quadratic, uniform
from diffusion_jax.sampling.guidance.classifier_free import (
    apg,
    autoguidance,
    cfg_plus_plus,
    cfg_zero,
    classifier_free,
    rescale,
)
from diffusion_jax.sampling.guidance.composition import compose
from diffusion_jax.sampling.guidance.gradients import classifier_guidance, clip_guidance
from diffusion_jax.sampling.guidance.limits import clip_x0, dynamic_threshold, interval
from diffusion_jax.sampling.likelihood import bits_per_dimension, log_likelihood
from diffusion_jax.sampling.natural import natural
from diffusion_jax.sampling.sample import Trace, initial_noise, sample, trace
from diffusion_jax.sampling.solvers.adaptive_ode import AdaptiveODE
from diffusion_jax.sampling.solvers.consistency import ConsistencyMultistep
from diffusion_jax.sampling.solvers.ddim import DDIM, DDPM, EulerAncestral
from diffusion_jax.sampling.solvers.deis import DEIS, IPNDM, LMS, PNDM
from diffusion_jax.sampling.solvers.dpm_solver import DPMSolver, DPMSolverPP, ExponentialEuler
from diffusion_jax.sampling.solvers.edm import EDMStochastic, Restart
from diffusion_jax.sampling.solvers.euler import Euler, Heun
from diffusion_jax.sampling.solvers.euler_maruyama import EulerMaruyama, PredictorCorrector
from diffusion_jax.sampling.solvers.sa_solver import SASolver
from diffusion_jax.sampling.solvers.unipc import UniPC

__all__ = [
    "DDIM",
    "DDPM",
    "DEIS",
    "DPS",
    "IPNDM",
    "LMS",
    "PNDM",
    "AdaptiveODE",
    "ConsistencyMultistep",
    "DPMSolver",
    "DPMSolverPP",
    "EDMStochastic",
    "Euler",
    "EulerAncestral",
    "EulerMaruyama",
    "ExponentialEuler",
    "Heun",
    "Inpaint",
    "PredictorCorrector",
    "Restart",
    "SASolver",
    "Trace",
    "UniPC",
    "apg",
    "autoguidance",
    "bits_per_dimension",
    "cfg_plus_plus",
    "cfg_zero",
    "classifier_free",
    "classifier_guidance",
    "clip_guidance",
    "clip_x0",
    "compose",
    "discrete",
    "dynamic_threshold",
    "img2img",
    "initial_noise",
    "interpolate",
    "interval",
    "invert",
    "karras",
    "lerp",
    "log_likelihood",
    "logsnr_uniform",
    "natural",
    "pigdm",
    "quadratic",
    "rescale",
    "sample",
    "slerp",
    "trace",
    "uniform",
]
