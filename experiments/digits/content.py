"""What the report of the digits demo shows, as plain arrays and numbers.

Images are float32 in [-1, 1], [..., height, width, 1]; accuracies and shares are in [0, 1]; times are seconds; the
noise time of a trajectory runs from 1 (noise) down to 0 (data).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from diffusion_jax.report.making import Making
from diffusion_jax.report.numbers import Number
from diffusion_jax.report.page import Section

__all__ = [
    "Comparison",
    "DigitsContent",
    "Headline",
    "Metric",
    "NegativePrompt",
    "PromptGrid",
    "Similarity",
    "Trajectory",
]

Images = Float[np.ndarray, "n h w 1"]
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Headline:
    """The numbers at the top. Accuracies and shares are in [0, 1]; `diversity` is a ratio, 1 for real scans."""

    zero_shot_accuracy: Number
    digit_accuracy_3: Number
    digit_accuracy_1: Number
    frechet: Number
    frechet_real: Number
    diversity: Number
    thin_without: Number
    thin_with: Number


@dataclass(frozen=True, eq=False)
class PromptGrid:
    """Samples for each prompt at each guidance scale."""

    images: Float[np.ndarray, "prompts scales n h w 1"]
    prompts: Sequence[str]
    scales: Sequence[Number]


@dataclass(frozen=True, eq=False)
class NegativePrompt:
    """The same prompt and seeds without and with a negative prompt, and the share of thin digits among each."""

    prompt: str
    negative: str
    images_without: Images
    images_with: Images
    thin_without: Number
    thin_with: Number


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One sample on its way: times from noise (1) down to data (0), the state at each, and the guess of x0 at all but
    the last.
    """

    prompt: str
    ts: Float[np.ndarray, " times"]
    xs: Float[np.ndarray, "times h w 1"]
    x0_hats: Float[np.ndarray, "steps h w 1"]


@dataclass(frozen=True, eq=False)
class Similarity:
    """CLIP's cosine similarity of every image i with every caption j of a batch."""

    values: Float[np.ndarray, "b b"]
    images: Float[np.ndarray, "b h w 1"]
    captions: Sequence[str]


@dataclass(frozen=True, eq=False)
class Comparison:
    """For each caption a real scan that it was measured on, and a sample drawn from it."""

    captions: Sequence[str]
    real: Images
    generated: Images


@dataclass(frozen=True)
class Metric:
    """A row of the table. `percent` shows a value in [0, 1] as a percentage; `met` is None where nothing was aimed at."""

    name: str
    value: Number | str
    target: str | None
    met: bool | None
    how: str
    percent: bool = False


@dataclass(frozen=True, eq=False)
class DigitsContent:
    """Everything on the page. Rows of losses are {"step", "loss", "val_loss"?, "val_loss_ema"?}; rows of guidance are
    {"guidance", "accuracy", "diversity"}; `during` is (step, samples of the raw weights, samples of the EMA weights).
    """

    headline: Headline
    prompts: PromptGrid
    negative: NegativePrompt
    trajectory: Trajectory
    similarity: Similarity
    clip_losses: Rows
    diffusion_losses: Rows
    during: Sequence[tuple[int, Images, Images]]
    guidance: Rows
    comparison: Comparison
    metrics: Sequence[Metric]
    making: Making
    clip_alone: Section | None = None
    unclip: Section | None = None
