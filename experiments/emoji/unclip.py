"""The variant `unclip` of the emoji: a prior, and what it and the decoder make of CLIP's space, measured and on the page.

The decoder is the diffusion model, told CLIP's text, CLIP's embedding of the picture, both, or neither. All on examples that
no model was trained on: `pairs` of subject and style never seen together where there are several styles, and subjects of the
test split. Who judges is said in `judging`: the reader of style, 8 x 8 mean colours, and CLIP.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diffusion_jax.metrics import frechet_distance
from diffusion_jax.metrics.psnr import psnr
from diffusion_jax.pipelines.components import components_of
from diffusion_jax.pipelines.unclip import UnCLIP
from experiments.digits.measures import Evaluation
from experiments.emoji import captions as grammar
from experiments.emoji.judging import coarse, unit_pictures, within
from experiments.emoji.measures import AT_ONCE, Samples, judged
from experiments.progress import said_and_timed
from experiments.ways import draw_ways, prior_cosines, put_jumps, ways_between

__all__ = ["evaluate_unclip"]

Say = Callable[[str], None]
STEPS, INVERTED = 32, 50
VARIED = 1.5
"""The decoder's guidance towards an embedding alone, where no caption stands beside it."""
THETA = 0.4
"""How far a text diff turns an embedding, of the angle to the difference of the captions."""
SHOWN_THETAS = (0.0, 0.1, 0.2, 0.3, 0.4)
COUNTS = (1, 2, 4, 8, 16, 32, 64)
SHOWN, VARIATIONS, BETWEEN = 5, 5, 9
STARTS = {"pairs": 110_000, "test": 120_000, "train": 130_000}


def evaluate_unclip(unclip: UnCLIP, shared: Samples, into: Evaluation, *, say: Say = print) -> None:
    """All numbers of the pipeline under `unclip`, and the pictures of its section. `shared.samples` is the most of each."""
    bench = _Bench(unclip, shared)
    for part in (_prior, _ways, _inversion, _variations, _interpolation, _diffs, _components):
        with said_and_timed(f"unclip, {part.__name__[1:]}", say):
            part(bench, into)


class _Bench:
    """The pipeline and the held-out pictures that the parts share."""

    def __init__(self, unclip: UnCLIP, shared: Samples) -> None:
        self.unclip, self.shared, self.seed = unclip, shared, shared.seed
        self.splits = [name for name in ("pairs", "test") if name in shared.data]
        self.rows = shared.chosen("test", max(SHOWN, shared.samples // 2))

    @functools.cached_property
    def images(self) -> np.ndarray:
        """Pictures of subjects never seen, in [-1, 1]."""
        return unit_pictures(self.shared.real("test", self.rows))

    @functools.cached_property
    def noise(self) -> np.ndarray:
        """What the decoder's ODE turns them into, each under its own embedding."""
        return self.unclip.decoder.invert(self.images, self.unclip.decoder.embed(self.images), **_plain())


def _plain(scale: float = 1.0, steps: int = INVERTED) -> dict[str, Any]:
    return {"num_steps": steps, "guidance_scale": scale}


def _prior(b: _Bench, into: Evaluation) -> None:
    """Cosines in CLIP's space, of pairs never seen together (or of subjects never seen, where there is one style)."""
    for split in b.splits:
        rows = b.shared.chosen(split)
        true = b.unclip.decoder.embed(b.shared.real(split, rows))
        found = prior_cosines(b.unclip, b.shared.told(split, rows), true, seed=b.seed)
        into.put(f"unclip.cosines.{split}", found)
    for name, value in into.metrics["unclip"]["cosines"][b.splits[0]].items():
        into.put(f"unclip.{name}", value)


def _ways(b: _Bench, into: Evaluation) -> None:
    """Style, subject and Frechet distance of each way from a caption to a picture, at the run's guidance and solver."""
    shown: dict[str, list[np.ndarray]] = {}
    for split in b.splits:
        rows = b.shared.chosen(split, max(16, b.shared.samples // 2))
        captions, real = b.shared.told(split, rows), b.shared.features(b.shared.real(split, rows))
        options = {"guidance_scale": b.shared.scale, "batch_size": AT_ONCE}
        by_way = draw_ways(b.unclip, captions, seed=b.seed, start=STARTS[split], options=[options])
        for way, (drawn,) in by_way.items():
            found = judged(b.shared, split, rows, drawn) | {"frechet": frechet_distance(b.shared.features(drawn), real)}
            into.put(f"unclip.ways.{way}.{split}", found)
            shown.setdefault(way, []).append(drawn[:SHOWN])
        into.notes.setdefault("unclip_captions", []).extend(captions[:SHOWN])
        into.arrays[f"unclip_real_{split}"] = unit_pictures(b.shared.real(split, rows[:SHOWN]))
    into.arrays["unclip_ways"] = np.stack([np.concatenate(pictures) for pictures in shown.values()])
    into.notes["unclip_splits"] = b.splits


def _inversion(b: _Bench, into: Evaluation) -> None:
    """How near a picture comes back through 50 steps of DDIM up and down."""
    back = b.unclip.variations(b.images, 1, eta=0.0, seed=b.seed, noise=b.noise, options=_plain())[:, 0]
    into.put("unclip.inversion_psnr", float(np.mean(psnr(back, b.images))))


def _variations(b: _Bench, into: Evaluation) -> None:
    """Whether variations keep style and subject, and how far off they are, beside how far others of the style are."""
    options = _plain(VARIED, STEPS)
    varied = b.unclip.variations(b.images, 1, seed=b.seed, noise=b.noise, options=options)[:, 0]
    found = judged(b.shared, "test", b.rows, varied)
    into.put("unclip.variations", found)
    styles, rng = b.shared.data["test"].labels[b.rows], np.random.default_rng(b.seed)
    other = [rng.choice(np.flatnonzero(styles == style)) for style in styles]
    away, apart = (
        np.sqrt(np.square(pictures - b.images).mean(axis=(1, 2, 3))) for pictures in (varied, b.images[other])
    )
    into.put("unclip.variation_distance", float(away.mean() / apart[apart > 0].mean()))
    first: dict[str, Any] = {"seed": b.seed + 1, "noise": b.noise[:SHOWN], "options": options}
    more = b.unclip.variations(b.images[:SHOWN], VARIATIONS, **first)
    into.arrays["unclip_variations"] = np.concatenate([b.images[:SHOWN][:, None], more], axis=1)


def _interpolation(b: _Bench, into: Evaluation) -> None:
    """The largest step over the mean one between neighbours of a way from picture to picture, in CLIP's space."""
    ways = [
        ways_between(b.unclip, b.images[place], b.images[place + 1], BETWEEN, seed=b.seed, options=_plain())
        for place in range(SHOWN - 1)
    ]
    put_jumps(b.unclip, ways, into)


def _diffs(b: _Bench, into: Evaluation) -> None:
    """Pictures moved from their style towards another: how many are read as that one, and still as their subject by colour."""
    names = b.shared.data["test"].class_names
    if len(names) < 2:
        return
    styles, words = b.shared.data["test"].labels[b.rows], b.shared.data["test"].all.words
    subjects = b.shared.data["test"].subjects[b.rows]
    target = (styles + 1) % len(names)
    source, wanted = (
        [grammar.full(words[subject], "", names[style]) for subject, style in zip(subjects, of_each, strict=True)]
        for of_each in (styles, target)
    )

    def moved(count: int, thetas: Sequence[float]) -> np.ndarray:
        given: dict[str, Any] = {"seed": b.seed, "noise": b.noise[:count], "options": _plain(VARIED)}
        return b.unclip.text_diffs(b.images[:count], source[:count], wanted[:count], thetas, **given)

    pictures, texts = moved(len(styles), (THETA,))[:, 0], b.shared.told("test", b.rows)
    kept = within(coarse(pictures), coarse(b.images), styles, texts)
    into.put("unclip.diff_turned", b.shared.styled(pictures, target))
    into.put("unclip.diff_kept", kept["image_to_text"])
    shown = moved(SHOWN, SHOWN_THETAS)
    into.arrays["unclip_diffs"] = np.concatenate([b.images[:SHOWN][:, None], shown], axis=1)
    pairs = zip(styles[:SHOWN], target[:SHOWN], strict=True)
    into.notes |= {
        "unclip_thetas": list(SHOWN_THETAS),
        "unclip_turns": [f"{names[before]} to {names[after]}" for before, after in pairs],
    }


def _components(b: _Bench, into: Evaluation) -> None:
    """What is drawn of more and more principal components of an embedding, and whether its picture is the nearest by colour."""
    space = components_of(b.unclip.decoder.embed_all(b.shared.data["train"]))  # type: ignore[attr-defined]
    size = len(space.mean)
    counts = [count for count in COUNTS if count < size] + [size]
    rows = slice(0, max(SHOWN, b.shared.samples // 4))
    drawn = b.unclip.components(b.images[rows], space, counts, seed=b.seed, options=_plain(VARIED, STEPS))
    styles, texts = b.shared.data["test"].labels[b.rows[rows]], b.shared.told("test", b.rows[rows])
    found = {}
    for place, count in enumerate(counts):
        near = within(coarse(drawn[:, place]), coarse(b.images[rows]), styles, texts)
        found[str(count)] = {
            "variance": space.share(count),
            "style_right": b.shared.styled(drawn[:, place], styles),
            "recall": near["image_to_text"],
            "chance": near["chance"],
        }
    into.put("unclip.components", found)
    into.arrays["unclip_components"] = np.concatenate([b.images[:SHOWN][:, None], drawn[:SHOWN]], axis=1)
    into.notes["unclip_components"] = counts
