"""Measures of models and samples, over plain arrays and callables."""

from diffusion_jax.evals.reader import Reader, fit_reader
from diffusion_jax.evals.retrieval import recall
from diffusion_jax.evals.samples import frechet_distance, mean_pairwise_distance, nearest_distance
from diffusion_jax.evals.two_sample import EnergyTest, energy_distance, energy_test
from diffusion_jax.evals.zero_shot import class_embeddings, classify, topk_accuracy

__all__ = [
    "EnergyTest",
    "Reader",
    "class_embeddings",
    "classify",
    "energy_distance",
    "energy_test",
    "fit_reader",
    "frechet_distance",
    "mean_pairwise_distance",
    "nearest_distance",
    "recall",
    "topk_accuracy",
]
