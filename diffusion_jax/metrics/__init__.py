"""Measures of models and samples, over plain arrays and callables."""

from diffusion_jax.metrics.distances import Nearest, mean_pairwise_distance, nearest, nearest_distance
from diffusion_jax.metrics.frechet import frechet_distance
from diffusion_jax.metrics.kernel_distance import KernelDistance, kernel_distance
from diffusion_jax.metrics.lpips import lpips
from diffusion_jax.metrics.precision_recall import PrecisionRecall, precision_recall
from diffusion_jax.metrics.psnr import psnr
from diffusion_jax.metrics.retrieval import recall
from diffusion_jax.metrics.ssim import ssim
from diffusion_jax.metrics.two_sample import EnergyTest, energy_distance, energy_test
from diffusion_jax.metrics.zero_shot import class_embeddings, classify, topk_accuracy

__all__ = [
    "EnergyTest",
    "KernelDistance",
    "Nearest",
    "PrecisionRecall",
    "class_embeddings",
    "classify",
    "energy_distance",
    "energy_test",
    "frechet_distance",
    "kernel_distance",
    "lpips",
    "mean_pairwise_distance",
    "nearest",
    "nearest_distance",
    "precision_recall",
    "psnr",
    "recall",
    "ssim",
    "topk_accuracy",
]
