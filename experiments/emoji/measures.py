"""How good the runs on emoji are: every number of `metrics.json`, and the pictures that the page shows.

Nothing is chosen here: guidance, solver and steps are the config's, which says by what they were. For who judges, see
`judging`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax import build
from diffusion_jax.metrics import class_embeddings, classify, frechet_distance, topk_accuracy
from diffusion_jax.sampling import classifier_free, initial_noise, trace
from diffusion_jax.systems.clip.run import ClipRun
from diffusion_jax.systems.diffusion.loss import example_keys
from diffusion_jax.systems.diffusion.run import DiffusionRun
from experiments.digits.measures import Evaluation
from experiments.emoji import captions as grammar
from experiments.emoji.judging import coarse, in_blocks, style_reader, unit_pictures, within
from experiments.emoji.latent import evaluate_autoencoder
from experiments.emoji.reader import StyleReader
from experiments.emoji.source import Emoji
from experiments.progress import said_and_timed

__all__ = ["AT_ONCE", "Samples", "evaluate", "evaluate_clip", "judged", "samples_of", "splits"]

SWEEP = (1.0, 1.5, 2.0, 3.0, 5.0)
GRID_SCALES = (1.0, 1.5, 3.0)
EACH = 3  # samples in a cell of the grid
# {0} .. {4} are the styles, the first again where there are fewer.
PROMPTS = (
    "a grinning cat, {0} style",
    "a red heart, {1} style",
    "a green heart, {4} style",
    "a blue car, {2} style",
    "a slice of pizza, {3} style",
    "a face with sunglasses, {1} style",
    "a person with red hair, dark skin tone, {2} style",
    "a tree",
)
SHOWN = 12
AT_ONCE = 40  # one size for all, which is compiled once
SHOWY = ("animals & nature", "food & drink", "objects", "travel & places", "activities", "smileys & emotion", "")

Say = Callable[[str], None]


def evaluate(shared: Samples, *, say: Say = print) -> Evaluation:
    """All numbers and pictures of a diffusion run on emoji and of the CLIP run that it is told by."""
    evaluation = Evaluation()
    run, data, reader = shared.run, shared.data, shared.reader
    with said_and_timed("clip", say):
        evaluate_clip(run.clip, data["test"], evaluation)
    if reader is not None:
        held = [data[name].columns() for name in ("test", "pairs") if name in data]
        pictures, styles = (np.concatenate([columns[name] for columns in held]) for name in ("image", "label"))
        evaluation.put("reader.accuracy", reader.accuracy(pictures, styles))
        evaluation.put("reader.pictures", len(styles))
    evaluation.notes |= {"samples": shared.samples, "styles": list(data["train"].class_names)}
    evaluation.notes["credits"] = list(data["train"].all.credits)
    with said_and_timed("autoencoder", say):
        evaluate_autoencoder(run, data, shared.features, shared.styled, evaluation)
    for part in (_seen, _pairs, _unseen, _sweep, _negative, _grid, _matrix, _trajectory):
        with said_and_timed(part.__name__[1:], say):
            part(shared, evaluation)
    return evaluation


def samples_of(run: DiffusionRun, folder: Path, *, samples: int, seed: int, say: Say) -> Samples:
    """What the parts of an evaluation share: `samples` is the most that each number is of.

    The reader of style is in `folder`, or fitted and kept there.
    """
    data = splits(run)
    reader = None
    if len(data["train"].class_names) > 1:
        with said_and_timed("reader", say):
            reader = style_reader(data["train"], folder, say=say)
    return Samples(run, reader, data, samples, seed)


def splits(run: ClipRun | DiffusionRun) -> dict[str, Emoji]:
    """ "train", "validation", "test" and, where there are several styles, "pairs" of a run's data."""
    spec = run.config.data
    several = len(build.source(spec, "train").class_names) > 1 and spec.get("pairs", 0.3) > 0
    return {name: build.source(spec, name) for name in ("train", "validation", "test", *(["pairs"] if several else []))}


def evaluate_clip(clip: ClipRun, test: Emoji, into: Evaluation) -> None:
    """Retrieval among subjects that CLIP never saw, within a style and over all; the style said by its name."""
    rows = test.plain()
    images, styles = test.columns()["image"][rows], test.labels[rows]
    texts = [test.full_caption(row) for row in rows]
    image, text = clip.encode_image(images), clip.encode_text(texts)
    into.put("clip.held_out", within(image, text, styles, texts))
    into.put("clip.held_out_all_styles", within(image, text, np.zeros_like(styles), texts))
    if len(test.class_names) > 1:
        classes = class_embeddings(clip.encode_text, test.class_names, ("{} style", "an emoji in {} style"))
        into.put("clip.style_accuracy", topk_accuracy(classify(image, classes), styles))


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """What the parts of the evaluation share."""

    run: DiffusionRun
    reader: StyleReader | None
    data: dict[str, Emoji]
    samples: int
    seed: int

    @property
    def scale(self) -> float:
        """Guidance as the config has it."""
        return float(self.run.config.sampler.guidance_scale)

    def draw(self, prompts: Sequence[str], start: int, scale: float | None = None, **options: Any) -> np.ndarray:
        """Pictures of prompts, in [-1, 1]."""
        return self.run.generate(
            list(prompts), guidance_scale=self.scale if scale is None else scale, seed=self.seed, start=start,
            batch_size=AT_ONCE, **options,
        )  # fmt: skip

    def chosen(self, split: str, count: int | None = None) -> np.ndarray:
        """At most `count` examples of a split without a skin tone, by chance, the same always."""
        plain = self.data[split].plain()
        return np.random.default_rng(0).permutation(plain)[: count or self.samples]

    def told(self, split: str, rows: np.ndarray) -> list[str]:
        """What says all of these examples."""
        return [self.data[split].full_caption(int(row)) for row in rows]

    def real(self, split: str, rows: np.ndarray) -> np.ndarray:
        """Their pictures, uint8."""
        return self.data[split].columns()["image"][rows]

    def subjects(self, split: str, rows: np.ndarray, pictures: np.ndarray) -> dict[str, float]:
        """Whether CLIP finds the captions of these examples by `pictures` of them."""
        texts = self.told(split, rows)
        image, text = self.run.clip.encode_image(unit_pictures(pictures)), self.run.clip.encode_text(texts)
        return within(image, text, self.data[split].labels[rows], texts)

    def styled(self, pictures: np.ndarray, styles: np.ndarray) -> float | None:
        """The share that the reader reads as the style asked for; None where there is one style."""
        return None if self.reader is None else self.reader.accuracy(pictures, styles)

    def features(self, pictures: np.ndarray) -> np.ndarray:
        """Of a Frechet distance: the reader's, or coarse pixels where there is no reader."""
        return coarse(pictures) if self.reader is None else self.reader.features(pictures)

    @functools.cached_property
    def seen(self) -> tuple[np.ndarray, np.ndarray]:
        """(training examples, what is drawn of their captions)."""
        rows = self.chosen("train")
        return rows, self.draw(self.told("train", rows), 0)


def judged(s: Samples, split: str, rows: np.ndarray, drawn: np.ndarray) -> dict[str, Any]:
    """Style, subject by CLIP and subject by pixels of what is drawn of examples, and what CLIP says of the real pictures."""
    source = s.data[split]
    real, styles, texts = s.real(split, rows), source.labels[rows], s.told(split, rows)
    pixels = within(coarse(drawn), coarse(real), styles, texts)
    return {
        "pictures": len(rows),
        "style_right": s.styled(drawn, styles),
        "subject_clip": s.subjects(split, rows, drawn),
        "subject_clip_real": s.subjects(split, rows, real),
        "subject_pixels": {
            "recall": pixels["image_to_text"],
            "chance": pixels["chance"],
            "ratio": pixels["image_to_text"] / pixels["chance"],
        },
    }


def _seen(s: Samples, into: Evaluation) -> None:
    """Pictures that were trained on, drawn from their captions; the Frechet distance, beside that of real and blurred ones."""
    rows, drawn = s.seen
    into.put("seen", judged(s, "train", rows, drawn))
    others = np.setdiff1d(s.data["train"].plain(), rows)
    others = np.random.default_rng(1).permutation(others)[: len(rows)]
    reference = s.features(s.real("train", others))
    real = unit_pictures(s.real("train", rows))
    for name, pictures in (("drawn", drawn), ("real", real), ("blurred", in_blocks(real))):
        into.put(f"frechet.{name}", frechet_distance(s.features(pictures), reference))
    into.put("frechet.features", "coarse pixels" if s.reader is None else "the reader's")
    into.put("frechet.pictures", len(rows))


def _pairs(s: Samples, into: Evaluation) -> None:
    """Pairs of subject and style of which each was seen and the two never together."""
    if "pairs" not in s.data:
        return
    rows = s.chosen("pairs")
    drawn = s.draw(s.told("pairs", rows), 10_000)
    into.put("pairs", judged(s, "pairs", rows, drawn))
    if s.reader is not None:
        read, asked = s.reader.read(drawn), s.data["pairs"].labels[rows]
        names = s.data["pairs"].class_names
        shares = {name: float((read[asked == i] == i).mean()) for i, name in enumerate(names) if (asked == i).any()}
        into.put("pairs.style_right_by_style", shares)


def _unseen(s: Samples, into: Evaluation) -> None:
    """Subjects that were seen in no style: what the words alone give."""
    rows = s.chosen("test")
    drawn = s.draw(s.told("test", rows), 20_000)
    into.put("unseen_subjects", judged(s, "test", rows, drawn))
    into.arrays["unseen"], into.arrays["unseen_real"] = drawn[:SHOWN], unit_pictures(s.real("test", rows[:SHOWN]))
    into.notes["unseen_captions"] = s.told("test", rows[:SHOWN])


def _sweep(s: Samples, into: Evaluation) -> None:
    """Style and subject against guidance, on pairs where there are some, with the same noise at each scale."""
    split = "pairs" if "pairs" in s.data else "train"
    rows = s.chosen(split, max(16, s.samples // 2))
    texts, styles = s.told(split, rows), s.data[split].labels[rows]
    told = []
    for scale in SWEEP:
        drawn = s.draw(texts, 30_000, scale)
        told.append(
            {
                "guidance": scale,
                "style_right": s.styled(drawn, styles),
                "subject_clip": s.subjects(split, rows, drawn)["image_to_text"],
                "frechet": frechet_distance(s.features(drawn), s.features(s.real(split, rows))),
            }
        )
    into.notes["sweep"] = {"split": split, "pictures": len(rows), "rows": told}


def _negative(s: Samples, into: Evaluation) -> None:
    """Subjects asked for without a style: how often the commonest style is drawn, and with that style as negative prompt."""
    rows = s.chosen("train", max(16, s.samples // 2))
    prompts = [s.data["train"].subject_caption(int(row)) for row in rows]
    plain = s.draw(prompts, 40_000)
    names = s.data["train"].class_names
    if s.reader is None:
        prompts, negative = ["a heart"] * 8, "a red heart"
        plain = s.draw(prompts, 40_000)
        left_out = s.draw(prompts, 40_000, negative=negative)
        shares = None
    else:
        read = s.reader.read(plain)
        common = int(np.bincount(read, minlength=len(names)).argmax())
        negative = f"{names[common]} style"
        left_out = s.draw(prompts, 40_000, negative=negative)
        shares = [float((found == common).mean()) for found in (read, s.reader.read(left_out))]
    into.put("negative_prompt", {"negative": negative, "pictures": len(prompts), "guidance_scale": s.scale})
    if shares is not None:
        into.put("negative_prompt.style_without", shares[0])
        into.put("negative_prompt.style_with", shares[1])
    into.arrays["negative_without"], into.arrays["negative_with"] = plain[:8], left_out[:8]
    into.notes["negative_prompts"] = prompts[:8]


def _grid(s: Samples, into: Evaluation) -> None:
    """Prompts at several guidance scales."""
    names = s.data["train"].class_names
    prompts = [text.format(*(names[i % len(names)] for i in range(5))) for text in PROMPTS]
    asked = [prompt for prompt in prompts for _ in range(EACH)]
    columns = [s.draw(asked, 50_000, scale).reshape(len(prompts), EACH, *s.run.image) for scale in GRID_SCALES]
    into.arrays["grid"] = np.stack(columns, axis=1)
    into.notes |= {"grid_prompts": prompts, "grid_scales": list(GRID_SCALES)}


def shown_subjects(train: Emoji, pairs: Emoji, most: int = 8) -> list[str]:
    """Subjects that are there in every style, one of them held out: as many of each style held out as can be."""
    styles = len(train.class_names)
    has = {subject: set(train.labels[train.subjects == subject]) for subject in dict.fromkeys(pairs.subjects)}
    showy = [
        (int(pairs.labels[i]), subject)
        for i, subject in enumerate(pairs.subjects)
        if pairs.tones[i] == 0 and len(has[subject]) == styles - 1 and pairs.all.words[subject].group in SHOWY
    ]
    order = np.random.default_rng(0).permutation(len(showy))
    by_style: dict[int, list[str]] = {}
    for place in order:
        by_style.setdefault(showy[place][0], []).append(showy[place][1])
    turns = [queue[turn] for turn in range(most) for _, queue in sorted(by_style.items()) if turn < len(queue)]
    return turns[:most]


def _matrix(s: Samples, into: Evaluation) -> None:
    """Subjects in every style, real and drawn, and which of the pairs was held out."""
    if "pairs" not in s.data:
        return
    train, pairs = s.data["train"], s.data["pairs"]
    subjects = shown_subjects(train, pairs)
    if not subjects:
        return
    words, names = train.all.words, train.class_names
    prompts = [grammar.full(words[subject], "", style) for subject in subjects for style in names]
    drawn = s.draw(prompts, 60_000)
    real, held = [], []
    for subject in subjects:
        for style in range(len(names)):
            at = (train.all.subjects == subject) & (train.all.styles == style) & (train.all.tones == 0)
            real.append(train.all.images[at][0])
        held.append(int(pairs.labels[pairs.subjects == subject][0]))
    shape = (len(subjects), len(names), *s.run.image)
    into.arrays |= {
        "matrix": drawn.reshape(shape),
        "matrix_real": unit_pictures(np.stack(real)).reshape(shape),
        "matrix_held": np.array(held),
    }
    into.notes["matrix_subjects"] = [grammar.named(words[subject]) for subject in subjects]


def _trajectory(s: Samples, into: Evaluation) -> None:
    """One sample on its way from noise, decoded at each step where the model works in latents."""
    prompt = into.notes["grid_prompts"][0]
    steps = int(s.run.config.sampler.num_steps)
    ts = build.grid("natural", steps, s.run.schedule)
    keys = example_keys(s.seed, 50_000, 1)
    x1 = initial_noise(keys, (1, *s.run.shape), s.run.schedule)
    guided = classifier_free(s.run.denoise, s.run.null, s.scale)
    path = trace(guided, s.run.schedule, build.solver("ddim"), x1, ts, keys, s.run.encode_text([prompt]))
    xs, hats = (np.asarray(s.run.space.decode(s.run.space.frozen, x[:, 0])) for x in (path.xs, path.x0_hats))
    into.arrays |= {"trajectory_ts": ts, "trajectory_xs": xs, "trajectory_x0_hats": hats}
    into.notes["trajectory_prompt"] = prompt
