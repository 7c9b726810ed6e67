"""Sampling: solvers, grids, guidance and the one driver. It sees a DenoiseFn and a Schedule, never a network."""

from diffusion_jax.sampling.grids import logsnr_uniform, uniform
from diffusion_jax.sampling.guidance import classifier_free
from diffusion_jax.sampling.ode import Euler, Heun
from diffusion_jax.sampling.sample import Trace, initial_noise, sample, trace
from diffusion_jax.sampling.stochastic import DDIM, DDPM

__all__ = [
    "DDIM",
    "DDPM",
    "Euler",
    "Heun",
    "Trace",
    "classifier_free",
    "initial_noise",
    "logsnr_uniform",
    "sample",
    "trace",
    "uniform",
]
