"""The noising process as pure mathematics: schedules, predictions, denoisers, losses. It knows no network."""

from diffusion_jax.process import (
    bound,
    exact,
    importance,
    loss,
    precondition,
    prediction,
    schedule,
    sde,
    times,
    uncertainty,
    weighting,
)
from diffusion_jax.process.denoiser import Denoiser, denoiser, from_x0
from diffusion_jax.process.discrete import Discrete, beta_table
from diffusion_jax.process.learned import LearnedGamma, Shifted, learned_gamma
from diffusion_jax.process.loss import denoising_loss, simple
from diffusion_jax.process.prediction import from_pair, to_prediction
from diffusion_jax.process.schedule import EDM, VE, Cosine, RectifiedFlow, SubVP, VPLinear
from diffusion_jax.process.truncated import Truncated, from_noise_level

__all__ = [
    "EDM",
    "VE",
    "Cosine",
    "Denoiser",
    "Discrete",
    "LearnedGamma",
    "RectifiedFlow",
    "Shifted",
    "SubVP",
    "Truncated",
    "VPLinear",
    "beta_table",
    "bound",
    "denoiser",
    "denoising_loss",
    "exact",
    "from_noise_level",
    "from_pair",
    "from_x0",
    "importance",
    "learned_gamma",
    "loss",
    "precondition",
    "prediction",
    "schedule",
    "sde",
    "simple",
    "times",
    "to_prediction",
    "uncertainty",
    "weighting",
]
