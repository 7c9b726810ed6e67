"""What is measured of a diffusion model of Fashion-MNIST, by a reader that shares nothing with it.

Class right: the share of pictures that the reader takes for what was asked for, beside its accuracy on real test pictures,
which is the most it can say. Frechet distance (arXiv 1706.08500, eq. 6) in the reader's features, beside as many real training
pictures (the floor) and the real test pictures blurred. Diversity: the mean distance between two pictures of one class in these
features, over that of real test pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy.ndimage import gaussian_filter

from diffusion_jax.metrics import frechet_distance, mean_pairwise_distance
from diffusion_jax.systems.diffusion.drawn import draw
from experiments.cnn_reader import TrainedReader

__all__ = ["GUIDANCE", "blurred", "diversity", "judged", "measure"]

GUIDANCE = (1.0, 1.5, 2.0, 3.0, 5.0)
BLUR = 1.0
Pictures = Float[np.ndarray, "n h w c"] | UInt8[np.ndarray, "n h w c"]


def blurred(pictures: UInt8[np.ndarray, "n h w c"], sigma: float = BLUR) -> UInt8[np.ndarray, "n h w c"]:
    """Each picture under a Gaussian of `sigma` pixels."""
    return gaussian_filter(pictures.astype(np.float32), (0, sigma, sigma, 0)).round().astype(np.uint8)


def diversity(features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], most: int = 500) -> float:
    """The mean distance between two rows of one class, the mean over the classes; of the first `most` of each."""
    groups = [features[labels == label][:most] for label in np.unique(labels)]
    return float(np.mean([mean_pairwise_distance(group) for group in groups if len(group) > 1]))


def judged(
    reader: TrainedReader,
    drawn: Pictures,
    asked: Int[np.ndarray, " n"],
    real: Float[np.ndarray, "m d"],
    within: float,
) -> dict[str, Any]:
    """What the reader says of pictures `drawn` as classes `asked`; `real`: features of real ones, `within`: their diversity."""
    features, read = reader.features(drawn), reader.read(drawn)
    classes = np.unique(asked)
    return {
        "samples": len(drawn),
        "right": float((read == asked).mean()),
        "right_by_class": [float((read[asked == label] == label).mean()) for label in classes],
        "frechet": frechet_distance(features, real),
        "diversity": diversity(features, asked) / within,
    }


def measure(
    run: Any,
    reader: TrainedReader,
    train: Any,
    test: Any,
    *,
    samples: int,
    sweep: int,
    seed: int,
    solver: dict[str, Any],
    scales: Sequence[float] = GUIDANCE,
    say: Callable[[str], None] = print,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(numbers, pictures): `samples` at guidance 1 and `sweep` at every scale, the classes in turn.

    `train` and `test` have `columns()` of uint8 pictures and labels. A run that is not told classes is asked nothing: its
    pictures are judged by distance alone.
    """
    known, real = train.columns(), test.columns()
    features = reader.features(real["image"])
    within = diversity(features, real["label"])
    some = np.random.default_rng(seed).permutation(len(known["image"]))[: len(real["image"])]
    found: dict[str, Any] = {
        "reader_accuracy": float((reader.read(real["image"]) == real["label"]).mean()),
        "real": judged(reader, known["image"][some], known["label"][some], features, within),
        "blurred": judged(reader, blurred(real["image"]), real["label"], features, within),
        "blur": BLUR,
        "test": len(real["image"]),
        "solver": {key: str(value) for key, value in solver.items()},
    }
    say(f"  the reader is right on {found['reader_accuracy']:.1%} of {len(real['image'])} real test pictures")
    classes = len(test.class_names)

    def drawn(count: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
        asked = np.arange(count) % classes
        wanted = _asked(run, test, asked) if run.asks else [None] * count
        return draw(run, wanted, seed, say, guidance_scale=scale, **solver), asked

    pictures: dict[str, np.ndarray] = {}
    found["guidance"] = {}
    for scale in scales if run.asks else (1.0,):
        images, asked = drawn(samples if scale == 1.0 else sweep, scale)
        numbers = judged(reader, images, asked, features, within)
        if scale == 1.0 and sweep < samples:
            # Beside the other scales stands a distance of as many.
            numbers["frechet_of_sweep"] = frechet_distance(reader.features(images[:sweep]), features)
        if not run.asks:
            numbers.pop("right"), numbers.pop("right_by_class")
        found["guidance"][f"{scale:g}"] = numbers
        pictures[f"{scale:g}"] = images[: 10 * classes]
        right = f"{numbers['right']:.1%} right, " if "right" in numbers else ""
        say(f"  guidance {scale:g}: {right}Frechet {numbers['frechet']:.2f} at {len(images)}")
    found["real_at_sweep"] = frechet_distance(reader.features(known["image"][some[:sweep]]), features)
    return found, pictures


def _asked(run: Any, data: Any, asked: np.ndarray) -> list[Any]:
    """The requests for classes: numbers, or a caption of each."""
    if run.asks == ("label",):
        return [int(label) for label in asked]
    return [data.captions[label][0] for label in asked]
