"""What unCLIP makes of the scans: the numbers under `unclip` in `metrics.json`, and the pictures of its section.

All on held-out scans. The prior is measured by cosines in CLIP's space, pictures by the reader that shares nothing with the
models, strokes by what `data.sources.digits` measures on scans. Four ways from a caption to a picture are compared at equal
guidance and seeds: the prior's embedding beside the caption (unCLIP), the prior's embedding alone, the caption's own embedding
in the place of the prior's, and the caption alone, which is guided diffusion as everywhere else in this report.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diffusion_jax.data.sources import digits
from diffusion_jax.data.sources.digits import CLASS_NAMES, PROMPTS, SLANTS, WEIGHTS, with_article
from diffusion_jax.metrics import frechet_distance, mean_pairwise_distance
from diffusion_jax.metrics.psnr import psnr
from diffusion_jax.pipelines.components import components_of
from diffusion_jax.pipelines.unclip import UnCLIP
from experiments.digits.measures import AT_ONCE, Evaluation
from experiments.digits.reader import Reader, fit_reader
from experiments.progress import said_and_timed
from experiments.ways import CANDIDATES, WAYS, draw_ways, prior_cosines, put_jumps, ways_between

__all__ = ["evaluate_unclip"]

Say = Callable[[str], None]
GUIDANCE = 3.0
VARIED = 2.0
"""The decoder's guidance towards an embedding alone, in variations and text diffs."""
STEPS, INVERTED = 20, 50
THETA = 0.4
"""How far a text diff turns an embedding, of the angle to the difference of the captions."""
SHOWN_THETAS = (0.0, 0.1, 0.2, 0.3, 0.4)


@dataclasses.dataclass(frozen=True, eq=False)
class _Bench:
    """The pipeline, the reader and the scans that the parts share."""

    unclip: UnCLIP
    reader: Reader
    train: Any
    held_out: Any
    seed: int
    samples: int

    @property
    def images(self) -> np.ndarray:
        return self.held_out.columns()["image"]

    @functools.cached_property
    def noise(self) -> np.ndarray:
        """What the decoder's ODE turns the held-out scans into, each under its own embedding."""
        return self.unclip.decoder.invert(self.images, self.unclip.decoder.embed(self.images), **_options(1.0))

    @property
    def labels(self) -> np.ndarray:
        return self.held_out.columns()["label"]

    def captions(self) -> tuple[list[str], np.ndarray]:
        """Captions of as many samples as are drawn, and the rows that they are of."""
        phrasings = [item["captions"] for item in self.held_out]
        rows = np.arange(self.samples) % len(phrasings)
        return [phrasings[row][(i // len(phrasings)) % len(phrasings[row])] for i, row in enumerate(rows)], rows

    def options(self, scale: float) -> dict[str, Any]:
        """The decoder's, where nothing is inverted."""
        return {"guidance_scale": scale, "num_steps": STEPS, "solver": "ddim", "batch_size": AT_ONCE}

    def draw(self, prompts: Sequence[str], scales: Sequence[float], start: int = 0) -> dict[str, list[np.ndarray]]:
        """Pictures of prompts by each of the four ways, at each of the guidance scales."""
        options = [self.options(scale) for scale in scales]
        return draw_ways(self.unclip, prompts, seed=self.seed, start=start, options=options)


def evaluate_unclip(
    unclip: UnCLIP, train: Any, held_out: Any, into: Evaluation, *, samples: int = 360, seed: int = 0, say: Say = print
) -> None:
    """All numbers of the pipeline on the held-out scans, those of `train` beside them."""
    scans = train.columns()
    reader = fit_reader(scans["image"], scans["label"])
    bench = _Bench(unclip, reader, train, held_out, seed, samples)
    into.notes["unclip_samples"] = samples
    for part in (_prior, _ways, _strokes, _inversion, _variations, _interpolation, _diffs, _components):
        with said_and_timed(f"unclip, {part.__name__[1:]}", say):
            part(bench, into)


def _prior(b: _Bench, into: Evaluation) -> None:
    """Cosines to the embedding of the scan that a caption is of: the prior's one draw, the best of two, the caption's own."""
    captions = [item["captions"][0] for item in b.held_out]
    true = b.unclip.decoder.embed(b.images)
    for name, value in prior_cosines(b.unclip, captions, true, seed=b.seed).items():
        into.put(f"unclip.{name}", value)


def _ways(b: _Bench, into: Evaluation) -> None:
    """The digit asked for, the Frechet distance and the diversity of each way, at guidance 1 and 3."""
    captions, rows = b.captions()
    asked, real = b.labels[rows], b.images.reshape(len(b.images), -1)
    sevens = b.train.columns()["image"][b.train.columns()["label"] == 7]
    spread = mean_pairwise_distance(sevens.reshape(len(sevens), -1))
    scales = (1.0, GUIDANCE)
    drawn, alike = b.draw(captions, scales), b.draw([PROMPTS[7]] * 100, scales, start=10_000)
    for way in WAYS:
        of_way = {
            f"guidance_{scale:g}": {
                "digit_accuracy": b.reader.accuracy(images, asked),
                "frechet": frechet_distance(images.reshape(len(images), -1), real),
                "diversity": mean_pairwise_distance(same.reshape(len(same), -1)) / spread,
            }
            for scale, images, same in zip(scales, drawn[way], alike[way], strict=True)
        }
        into.put(f"unclip.ways.{way}", of_way)
    into.put(
        "unclip.digit_accuracy", into.metrics["unclip"]["ways"]["prior"][f"guidance_{GUIDANCE:g}"]["digit_accuracy"]
    )
    shown = b.draw(PROMPTS, (GUIDANCE,), start=20_000)
    into.arrays["unclip_ways"] = np.stack([shown[way][0] for way in WAYS])
    into.notes["unclip_ways"] = list(PROMPTS)


def _strokes(b: _Bench, into: Evaluation) -> None:
    """Whether ink and slant follow the words: the share of digits whose mean moves the right way, and by how much."""
    labels = np.repeat(np.arange(len(CLASS_NAMES)), 10)
    for name, words, measured in (
        ("weight", (WEIGHTS[0], WEIGHTS[2]), "ink"),
        ("slant", (SLANTS[0], SLANTS[2]), "slant"),
    ):
        low, high = (
            digits.measure(
                b.unclip.generate(
                    [with_article(f"a {word} {CLASS_NAMES[label]}") for label in labels],
                    candidates=CANDIDATES,
                    seed=b.seed,
                    start=30_000,
                    options=b.options(GUIDANCE),
                )
            )[measured]
            for word in words
        )
        means = [(low[labels == label].mean(), high[labels == label].mean()) for label in np.unique(labels)]
        into.put(f"unclip.{name}_moves", float(np.mean([after > before for before, after in means])))
        into.put(f"unclip.{name}_from_to", [float(low.mean()), float(high.mean())])


def _options(scale: float, steps: int = INVERTED) -> dict[str, Any]:
    return {"num_steps": steps, "guidance_scale": scale}


def _inversion(b: _Bench, into: Evaluation) -> None:
    """How near a scan comes back through 50 steps of DDIM up and down."""
    back = b.unclip.variations(b.images, 1, eta=0.0, seed=b.seed, noise=b.noise, options=_options(1.0))[:, 0]
    into.put("unclip.inversion_psnr", float(np.mean(psnr(back, b.images))))


def _variations(b: _Bench, into: Evaluation) -> None:
    """Whether variations keep the digit, and how far they are from the scan beside how far scans of a digit are."""
    varied = b.unclip.variations(b.images, 2, seed=b.seed, noise=b.noise, options=_options(VARIED, STEPS))
    labels = np.repeat(b.labels, 2)
    flat = varied.reshape(-1, *varied.shape[2:])
    into.put("unclip.variation_accuracy", b.reader.accuracy(flat, labels))
    apart = np.sqrt(np.square(varied - b.images[:, None]).mean(axis=(2, 3, 4)))
    rng = np.random.default_rng(b.seed)
    other = [rng.choice(np.flatnonzero(b.labels == label)) for label in b.labels]
    of_a_digit = np.sqrt(np.square(b.images[other] - b.images).mean(axis=(1, 2, 3)))
    into.put("unclip.variation_distance", float(apart.mean() / of_a_digit[of_a_digit > 0].mean()))
    shown = [int(np.flatnonzero(b.labels == label)[0]) for label in (2, 4, 5, 7, 9)]
    more = b.unclip.variations(b.images[shown], 6, seed=b.seed, noise=b.noise[shown], options=_options(VARIED, STEPS))
    into.arrays["unclip_variations"] = np.concatenate([b.images[shown][:, None], more], axis=1)


def _interpolation(b: _Bench, into: Evaluation) -> None:
    """The largest step over the mean one between neighbours of a way from scan to scan, in CLIP's space.

    Of pictures at equal distances of the way, and at equal angles.
    """
    pairs = [
        (int(np.flatnonzero(b.labels == one)[1]), int(np.flatnonzero(b.labels == two)[1]))
        for one, two in ((1, 7), (3, 8), (0, 6), (4, 9), (5, 3))
    ]
    ways = [
        ways_between(b.unclip, b.images[first], b.images[second], 9, seed=b.seed, options=_options(1.0))
        for first, second in pairs
    ]
    put_jumps(b.unclip, ways, into)


def _diffs(b: _Bench, into: Evaluation) -> None:
    """Thin scans moved towards bold and bold ones towards thin: how many are then so, and are the digit that they were."""
    classes = digits.classify(b.images, b.labels)["weight"]
    thin, bold = 0, 2  # places in WEIGHTS
    rows = np.flatnonzero((classes == thin) | (classes == bold))
    labels, wanted = b.labels[rows], np.where(classes[rows] == thin, bold, thin)
    moved = _moved(b, rows, (THETA,))[:, 0]
    into.put("unclip.diff_turned", float((digits.classify(moved, labels)["weight"] == wanted).mean()))
    into.put("unclip.diff_kept", float((b.reader.read(moved) == labels).mean()))
    shown = np.array([np.flatnonzero((b.labels == label) & (classes == thin))[0] for label in (2, 3, 7)])
    into.arrays["unclip_diffs"] = np.concatenate([b.images[shown][:, None], _moved(b, shown, SHOWN_THETAS)], axis=1)
    into.notes["unclip_thetas"] = list(SHOWN_THETAS)


def _moved(b: _Bench, rows: np.ndarray, thetas: Sequence[float]) -> np.ndarray:
    """Scans [rows, thetas] turned from thin towards bold, and those that are bold towards thin."""
    thin = digits.classify(b.images[rows], b.labels[rows])["weight"] == 0
    ends, names = {True: WEIGHTS[0], False: WEIGHTS[2]}, [CLASS_NAMES[label] for label in b.labels[rows]]
    source, target = (
        [with_article(f"a {ends[weight]} {name}") for weight, name in zip(of_each.tolist(), names, strict=True)]
        for of_each in (thin, ~thin)
    )
    given: dict[str, Any] = {"seed": b.seed, "noise": b.noise[rows], "options": _options(VARIED)}
    return b.unclip.text_diffs(b.images[rows], source, target, thetas, **given)


def _components(b: _Bench, into: Evaluation) -> None:
    """The digit that is read from scans decoded from more and more principal components of their embeddings."""
    space = components_of(b.unclip.decoder.embed(b.train.columns()["image"]))
    size = len(space.mean)
    counts = [count for count in (1, 2, 4, 8, 16, 32) if count < size] + [size]
    rows = np.arange(min(100, len(b.images)))
    drawn = b.unclip.components(b.images[rows], space, counts, seed=b.seed, options=_options(VARIED, STEPS))
    into.put(
        "unclip.components",
        {
            str(count): {
                "variance": space.share(count),
                "digit_accuracy": b.reader.accuracy(drawn[:, i], b.labels[rows]),
            }
            for i, count in enumerate(counts)
        },
    )
    shown = [int(np.flatnonzero(b.labels[rows] == label)[0]) for label in (0, 3, 6, 8)]
    into.arrays["unclip_components"] = np.concatenate([b.images[shown][:, None], drawn[shown]], axis=1)
    into.notes["unclip_components"] = counts
