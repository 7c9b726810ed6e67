"""Measures of models and samples, over plain arrays and callables."""

from diffusion_jax.metrics.distances import mean_pairwise_distance, nearest_distance
from diffusion_jax.metrics.frechet import frechet_distance
from diffusion_jax.metrics.retrieval import recall
from diffusion_jax.metrics.two_sample import EnergyTest, energy_distance, energy_test
from diffusion_jax.metrics.zero_shot import class_embeddings, classify, topk_accuracy

__all__ = [
    "EnergyTest",
    "class_embeddings",
    "classify",
    "energy_distance",
    "energy_test",
    "frechet_distance",
    "mean_pairwise_distance",
    "nearest_distance",
    "recall",
    "topk_accuracy",
]
