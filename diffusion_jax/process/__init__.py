"""The noising process as pure mathematics: schedules, predictions, denoisers, losses. It knows no network."""

from diffusion_jax.process import exact, loss, prediction, schedule, sde, times
from diffusion_jax.process.denoiser import Denoiser, denoiser, from_x0
from diffusion_jax.process.loss import denoising_loss, simple
from diffusion_jax.process.prediction import from_pair, to_prediction
from diffusion_jax.process.schedule import Cosine, RectifiedFlow, VPLinear

__all__ = [
    "Cosine",
    "Denoiser",
    "RectifiedFlow",
    "VPLinear",
    "denoiser",
    "denoising_loss",
    "exact",
    "from_pair",
    "from_x0",
    "loss",
    "prediction",
    "schedule",
    "sde",
    "simple",
    "times",
    "to_prediction",
]
