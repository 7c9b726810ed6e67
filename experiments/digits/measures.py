"""How good the runs on digits are: every number of `metrics.json`, and the pictures that the report shows.

Choices are made on the validation split; the test split is read once, by the final evaluation. Samples are judged by an
independent reader (a support vector machine on raw pixels), whose own accuracy on held-out scans stands beside its
verdicts.
"""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion_jax import build
from diffusion_jax.data.sources import digits
from diffusion_jax.data.sources.digits import CLASS_NAMES, PROMPTS, TEMPLATES
from diffusion_jax.files import write_atomic
from diffusion_jax.metrics import (
    class_embeddings,
    classify,
    frechet_distance,
    mean_pairwise_distance,
    nearest_distance,
    recall,
    topk_accuracy,
)
from diffusion_jax.sampling import classifier_free, initial_noise, trace
from diffusion_jax.systems.clip.run import ClipRun
from diffusion_jax.systems.diffusion.loss import example_keys
from diffusion_jax.systems.diffusion.run import DiffusionRun
from diffusion_jax.typing import UserError
from experiments.digits.reader import Reader, fit_reader
from experiments.progress import said_and_timed

__all__ = [
    "Evaluation",
    "evaluate",
    "evaluate_clip",
    "evaluate_diffusion",
    "load_evaluation",
    "measure",
    "save_evaluation",
]

SCALES = (0.0, 1.0, 2.0, 3.0, 5.0, 8.0)
SWEEP = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0)
GRID_PROMPTS = (
    "a bold slanted seven",
    "a thin upright one",
    "a heavy zero",
    "a three leaning left",
    "a thin slanted four",
    "the digit eight, bold and upright",
    "5",
    "a two",
)
NEGATIVE = "a thin digit"
AT_ONCE = 100
"""Images drawn at once: of one size the sampler is compiled once for all of these numbers."""

Say = Callable[[str], None]


@dataclasses.dataclass
class Evaluation:
    """Numbers by nested name (`metrics`), arrays of pictures (`arrays`), and what belongs to these (`notes`)."""

    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)

    def put(self, name: str, value: Any) -> None:
        """Stores a number under a dotted name."""
        *groups, last = name.split(".")
        node = self.metrics
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = value


def measure(
    run: ClipRun | DiffusionRun, folder: Path, split: str, *, samples: int = 500, seed: int = 0, say: Say = print
) -> None:
    """Measures a run, prints its numbers as JSON, and writes them and the pictures of its page into `folder`.

    Printed first: numbers of an hour are not lost to a disk that is full by now. UserError where it cannot be written.
    """
    evaluation = evaluate(run, split, samples=samples, seed=seed, say=say)
    print(json.dumps(evaluation.metrics, indent=2), flush=True)
    save_evaluation(folder, evaluation)


def evaluate(
    run: ClipRun | DiffusionRun, split: str, *, samples: int = 500, seed: int = 0, say: Say = print
) -> Evaluation:
    """All numbers and pictures of a run on the scans of a split, the CLIP run of a diffusion run included.

    `samples` and `seed` are of what a diffusion run draws.
    """
    evaluation = Evaluation()
    clip = run.clip if isinstance(run, DiffusionRun) else run
    say(f"evaluating {clip.path} on the {split} scans")
    evaluate_clip(clip, split, evaluation)
    if isinstance(run, DiffusionRun):
        say(f"evaluating {run.path} on the {split} scans, {samples} samples")
        evaluate_diffusion(run, split, evaluation, samples=samples, seed=seed, say=say)
    return evaluation


def evaluate_clip(run: ClipRun, split: str, into: Evaluation) -> None:
    """Zero-shot accuracy, retrieval in both directions, and the similarity matrix of a small batch."""
    data = build.source(run.config.data, split)
    columns = data.columns()
    captions = [item["captions"][0] for item in data]
    images, texts = run.encode_image(columns["image"]), run.encode_text(captions)
    classes = class_embeddings(run.encode_text, CLASS_NAMES, TEMPLATES)
    ranked = classify(images, classes)
    into.put("clip.zero_shot_accuracy", topk_accuracy(ranked, columns["label"]))
    into.put("clip.retrieval", recall(images, texts, identity=captions))
    into.put("clip.retrieval.pairs", len(captions))
    into.put("clip.retrieval.distinct_captions", len(set(captions)))
    shown = _one_of_each(columns["label"], 2)
    into.arrays["similarity"] = images[shown] @ texts[shown].T
    into.arrays["similarity_images"] = columns["image"][shown]
    into.notes["similarity_captions"] = [captions[i] for i in shown]


def _one_of_each(labels: np.ndarray, count: int) -> list[int]:
    """The first `count` rows of every label, in the order of the labels."""
    return [int(i) for label in np.unique(labels) for i in np.flatnonzero(labels == label)[:count]]


@dataclasses.dataclass(frozen=True)
class _Samples:
    """The run, the reader and the real scans that the parts of the evaluation share."""

    run: DiffusionRun
    reader: Reader
    train: Mapping[str, np.ndarray]
    held_out: Mapping[str, np.ndarray]
    captions: Sequence[str]
    seed: int

    def draw(self, prompts: Sequence[str], scale: float, start: int = 0, **options: Any) -> np.ndarray:
        return self.run.generate(
            prompts, guidance_scale=scale, seed=self.seed, start=start, num_steps=options.pop("num_steps", 20),
            solver="ddim", batch_size=AT_ONCE, **options,
        )  # fmt: skip


def _pixels(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)


def evaluate_diffusion(
    run: DiffusionRun, split: str, into: Evaluation, *, samples: int = 500, seed: int = 0, say: Say = print
) -> None:
    """Everything about the samples: see the functions below, one a kind of number."""
    train, held_out = (build.source(run.config.data, name) for name in ("train", split))
    scans, real = train.columns(), held_out.columns()
    reader = fit_reader(scans["image"], scans["label"])
    into.put("classifier.accuracy", reader.accuracy(real["image"], real["label"]))
    phrasings = [item["captions"] for item in held_out]
    rows = np.arange(samples) % len(phrasings)
    captions = [phrasings[row][(i // len(phrasings)) % len(phrasings[row])] for i, row in enumerate(rows)]
    shared = _Samples(run, reader, scans, real, captions, seed)
    into.notes["samples"] = samples
    for part in (_quality, _diversity, _negative, _sweep, _pictures):
        with said_and_timed(part.__name__[1:], say):
            part(shared, rows, into)


def _quality(s: _Samples, rows: np.ndarray, into: Evaluation) -> None:
    """Digit accuracy, Frechet distance with its scale, distance to the training scans."""
    asked = s.held_out["label"][rows]
    plain = s.draw(s.captions, 1.0)
    for name, images in {
        "guidance_1": plain,
        "guidance_3": s.draw(s.captions, 3.0),
        "guidance_1_steps_8": s.draw(s.captions, 1.0, num_steps=8),
        "guidance_3_steps_8": s.draw(s.captions, 3.0, num_steps=8),
    }.items():
        into.put(f"diffusion.digit_accuracy.{name}", s.reader.accuracy(images, asked))
    real = _pixels(s.held_out["image"])
    copies = np.random.default_rng(0).choice(
        len(s.train["image"]), min(len(rows), len(s.train["image"])), replace=False
    )
    untrained = s.draw(s.captions, 1.0, denoise=s.run.denoiser(s.run.network.init(jax.random.key(s.seed))))
    into.put("diffusion.frechet", frechet_distance(_pixels(plain), real))
    into.put("diffusion.frechet_real", frechet_distance(_pixels(s.train["image"])[copies], real))
    into.put("diffusion.frechet_untrained", frechet_distance(_pixels(untrained), real))
    scans = _pixels(s.train["image"])
    near, near_real = nearest_distance(_pixels(plain), scans).mean(), nearest_distance(real, scans).mean()
    into.put("diffusion.nearest_training.samples", float(near))
    into.put("diffusion.nearest_training.held_out", float(near_real))
    into.put("diffusion.nearest_training.ratio", float(near / near_real))
    shown = _one_of_each(s.held_out["label"], 1)
    into.arrays["real"], into.arrays["generated"] = s.held_out["image"][shown], plain[shown]
    into.notes["real_captions"] = [s.captions[i] for i in shown]


def _spread(s: _Samples, digit: int, scale: float, count: int = 100) -> float:
    """Mean pairwise distance of samples of one prompt over the same of the real training scans of that digit."""
    images = s.draw([PROMPTS[digit]] * count, scale, start=10_000 + 1_000 * digit)
    real = s.train["image"][s.train["label"] == digit]
    return mean_pairwise_distance(_pixels(images)) / mean_pairwise_distance(_pixels(real))


def _diversity(s: _Samples, rows: np.ndarray, into: Evaluation) -> None:
    """How various the samples of one prompt are beside real scans of that digit (1) and one repeated image (0)."""
    ratios = [_spread(s, digit, 1.0) for digit in range(len(CLASS_NAMES))]
    into.put("diffusion.diversity", ratios[7])
    into.put("diffusion.diversity_by_digit", ratios)


def _negative(s: _Samples, rows: np.ndarray, into: Evaluation) -> None:
    """The share of thin digits with and without a negative prompt, at guidance 3 from the same noise."""
    labels = np.arange(300) % len(CLASS_NAMES)
    prompts = [PROMPTS[label] for label in labels]
    without, with_it = s.draw(prompts, 3.0, 20_000), s.draw(prompts, 3.0, 20_000, negative=NEGATIVE)
    thin = digits.WEIGHTS.index("thin")
    shares = [float((digits.classify(images, labels)["weight"] == thin).mean()) for images in (without, with_it)]
    into.put(
        "diffusion.negative_prompt",
        {
            "prompt": "a <digit>",
            "negative": NEGATIVE,
            "guidance_scale": 3.0,
            "thin_without": shares[0],
            "thin_with": shares[1],
            "ratio": shares[1] / shares[0] if shares[0] else None,
            "digit_accuracy_without": s.reader.accuracy(without, labels),
            "digit_accuracy_with": s.reader.accuracy(with_it, labels),
        },
    )
    sevens, label = ["a seven"] * 100, np.full(100, 7)
    pictures = s.draw(sevens, 3.0, 30_000), s.draw(sevens, 3.0, 30_000, negative=NEGATIVE)
    into.notes["negative_prompt"] = {
        "prompt": sevens[0],
        "shares": [float((digits.classify(images, label)["weight"] == thin).mean()) for images in pictures],
    }
    into.arrays["negative_without"], into.arrays["negative_with"] = (images[:12] for images in pictures)


def _sweep(s: _Samples, rows: np.ndarray, into: Evaluation) -> None:
    """Accuracy (300 samples) and diversity (100 sevens) against the guidance scale."""
    few = rows[:300]
    into.notes["sweep"] = [
        {
            "guidance": scale,
            "accuracy": s.reader.accuracy(s.draw(s.captions[: len(few)], scale), s.held_out["label"][few]),
            "diversity": _spread(s, 7, scale),
        }
        for scale in SWEEP
    ]


def _pictures(s: _Samples, rows: np.ndarray, into: Evaluation) -> None:
    """The prompt x guidance grid, and the trajectory of one sample."""
    each = 4
    prompts = [prompt for prompt in GRID_PROMPTS for _ in range(each)]
    columns = [s.draw(prompts, scale, 40_000) for scale in SCALES]
    shape = (len(GRID_PROMPTS), each, *s.run.shape)
    into.arrays["grid"] = np.stack([column.reshape(shape) for column in columns], axis=1)
    into.notes |= {"grid_prompts": list(GRID_PROMPTS), "grid_scales": list(SCALES)}
    ts = build.grid("natural", 20, s.run.schedule)
    keys = example_keys(s.seed, 40_000, 1)
    x1 = initial_noise(keys, (1, *s.run.shape), s.run.schedule)
    guided = classifier_free(s.run.denoise, s.run.null, 3.0)
    path = trace(guided, s.run.schedule, build.solver("ddim"), x1, ts, keys, s.run.encode_text(GRID_PROMPTS[:1]))
    into.arrays |= {
        "trajectory_ts": ts,
        "trajectory_xs": np.asarray(path.xs)[:, 0],
        "trajectory_x0_hats": np.asarray(path.x0_hats)[:, 0],
    }
    into.notes["trajectory_prompt"] = GRID_PROMPTS[0]


def save_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Writes `metrics.json` and, for the page, `evaluation.npz`. UserError where the disk refuses."""
    stored: dict[str, Any] = {"notes": np.array(json.dumps(evaluation.notes)), **evaluation.arrays}
    whole = io.BytesIO()
    np.savez(whole, **stored)
    write_atomic(folder / "evaluation.npz", whole.getvalue())
    write_atomic(folder / "metrics.json", (json.dumps(evaluation.metrics, indent=2) + "\n").encode())


def load_evaluation(folder: Path) -> Evaluation | None:
    """What `save_evaluation` wrote, or None where there is nothing. UserError where a file is damaged."""
    numbers, pictures = folder / "metrics.json", folder / "evaluation.npz"
    if not (numbers.is_file() and pictures.is_file()):
        return None
    try:
        with pictures.open("rb") as file, np.load(file) as stored:
            arrays = {name: stored[name] for name in stored.files}
        notes = json.loads(str(arrays.pop("notes")))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{pictures} is damaged ({error}): evaluate the run again") from error
    try:
        return Evaluation(json.loads(numbers.read_text()), arrays, notes)
    except (OSError, ValueError) as error:
        raise UserError(f"{numbers} is not readable as JSON ({error}): evaluate the run again") from error
