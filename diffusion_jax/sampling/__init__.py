"""Sampling: solvers, grids, guidance and the one driver. It sees a DenoiseFn and a Schedule, never a network."""

from diffusion_jax.sampling.editing.dps import DPS
from diffusion_jax.sampling.editing.img2img import img2img
from diffusion_jax.sampling.editing.inpainting import Inpaint
from diffusion_jax.sampling.editing.interpolation import interpolate, lerp, slerp
from diffusion_jax.sampling.editing.inversion import invert
from diffusion_jax.sampling.editing.pigdm import pigdm
from diffusion_jax.sampling.grids import discrete, karras, logsnr_uniform, quadratic, uniform
from diffusion_jax.sampling.guidance.apg import apg
from diffusion_jax.sampling.guidance.autoguidance import autoguidance
from diffusion_jax.sampling.guidance.cfg_plus_plus import cfg_plus_plus
from diffusion_jax.sampling.guidance.cfg_zero import cfg_zero
from diffusion_jax.sampling.guidance.classifier_free import classifier_free
from diffusion_jax.sampling.guidance.composition import compose
from diffusion_jax.sampling.guidance.gradients import classifier_guidance, clip_guidance
from diffusion_jax.sampling.guidance.limits import clip_x0, dynamic_threshold, interval
from diffusion_jax.sampling.guidance.rescale import rescale
from diffusion_jax.sampling.likelihood import bits_per_dimension, log_likelihood
from diffusion_jax.sampling.natural import natural
from diffusion_jax.sampling.sample import Trace, initial_noise, sample, trace
from diffusion_jax.sampling.solvers.adaptive_ode import AdaptiveODE
from diffusion_jax.sampling.solvers.ancestral import Ancestral
from diffusion_jax.sampling.solvers.consistency import ConsistencyMultistep
from diffusion_jax.sampling.solvers.ddim import DDIM
from diffusion_jax.sampling.solvers.ddpm import DDPM
from diffusion_jax.sampling.solvers.deis import DEIS
from diffusion_jax.sampling.solvers.dpm_solver import DPMSolver
from diffusion_jax.sampling.solvers.dpm_solver_pp import DPMSolverPP
from diffusion_jax.sampling.solvers.edm import EDMStochastic
from diffusion_jax.sampling.solvers.euler import Euler
from diffusion_jax.sampling.solvers.euler_ancestral import EulerAncestral
from diffusion_jax.sampling.solvers.euler_maruyama import EulerMaruyama
from diffusion_jax.sampling.solvers.exponential_euler import ExponentialEuler
from diffusion_jax.sampling.solvers.heun import Heun
from diffusion_jax.sampling.solvers.ipndm import IPNDM
from diffusion_jax.sampling.solvers.lms import LMS
from diffusion_jax.sampling.solvers.pndm import PNDM
from diffusion_jax.sampling.solvers.predictor_corrector import PredictorCorrector
from diffusion_jax.sampling.solvers.restart import Restart
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
    "Ancestral",
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
