"""The variant `latent` of the emoji: its autoencoder, measured, and the sections of the page on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax.report.numbers import number, percent
from diffusion_jax.report.page import Block, Section, Table
from diffusion_jax.systems.diffusion.latents import Latents
from diffusion_jax.systems.diffusion.run import DiffusionRun
from diffusion_jax.systems.vae.run import load_vae_run
from diffusion_jax.training import train_run
from experiments.digits.measures import Evaluation
from experiments.emoji.judging import in_blocks, unit_pictures
from experiments.emoji.source import Emoji
from experiments.latents import SHOWN, WORST, cost_table, costs, encoded, reconstruction_blocks, there_and_back
from experiments.progress import Clock

__all__ = ["evaluate_autoencoder", "latent_sections", "prepared"]

Say = Callable[[str], None]
COMPARED: dict[str, tuple[str, Callable[[Any], str]]] = {
    "pairs.style_right": ("unseen pairs in the style asked for", percent),
    "seen.style_right": ("trained ones in the style asked for", percent),
    "unseen_subjects.style_right": ("subjects never seen in the style asked for", percent),
    "pairs.subject_pixels.recall": ("unseen pairs: their own real picture among the five nearest", percent),
    "frechet.drawn": ("Fréchet distance to real emoji", number),
}


def prepared(
    config: ConfigDict, pixels: ConfigDict, vae: ConfigDict, clock: Clock, say: Say, fresh: bool
) -> dict[str, int]:
    """What training costs (`latents.costs`): trains the autoencoder and has its latents on disk, to which `config` is set.

    `pixels` is the config of the model that the latent one stands beside. With `fresh` all is done anew.
    """
    with clock("autoencoder"):
        train_run(vae, overwrite=fresh, say=say)
    run = load_vae_run(vae.workdir)
    config.space.autoencoder = str(vae.workdir)
    folder = Path(vae.workdir).parent / "latents"
    with clock("encoding"):
        encoded(config, folder, say)
    with config.unlocked():
        config.space.cache = str(folder)
    return costs(pixels, config, vae, run, len(run.examples("train")))


def evaluate_autoencoder(
    run: DiffusionRun,
    data: Mapping[str, Emoji],
    features: Callable[[np.ndarray], np.ndarray],
    read: Callable[[np.ndarray, np.ndarray], float | None],
    into: Evaluation,
) -> None:
    """What comes back of the pictures of subjects never seen, by the autoencoder of a run in latents; of another run nothing.

    `read(pictures, styles)`: the share that a reader takes for these styles.
    """
    if not isinstance(run.space, Latents):
        return
    test, train = data["test"], data["train"]
    rows, others = test.plain(), np.random.default_rng(0).permutation(train.plain())
    others = others[: len(rows)]
    real, styles = test.columns()["image"][rows], test.labels[rows]
    known = train.columns()["image"][others]
    soft = in_blocks(real)
    found, made, each = there_and_back(load_vae_run(run.space.autoencoder.path), features, real, known, soft)
    for ending, pictures, told in (
        ("", made, styles),
        ("_blurred", soft, styles),
        ("_real", known, train.labels[others]),
    ):
        share = read(pictures, told)
        if share is not None:
            found[f"right{ending}"] = share
    firsts = np.concatenate([np.flatnonzero(styles == style)[:SHOWN] for style in np.unique(styles)])
    worst = np.argsort(each)[:WORST]
    given = unit_pictures(real)
    for name, places in (("back", firsts), ("worst", worst)):
        into.arrays |= {f"{name}_given": given[places], f"{name}_made": made[places]}
    into.arrays["back_styles"] = styles[firsts]
    into.put("autoencoder", found)


def latent_sections(e: Evaluation, pixels: Path) -> tuple[Section, ...]:
    """Of the page: the autoencoder, and the model beside that of pixels, whose numbers lie in a file; of another run none."""
    if "autoencoder" not in e.metrics:
        return ()
    arrays = e.arrays
    groups = [
        (name, *(arrays[f"back_{which}"][arrays["back_styles"] == style] for which in ("given", "made")))
        for style, name in enumerate(e.notes["styles"])
    ]
    worst = arrays["worst_given"], arrays["worst_made"]
    blocks = [*_beside(e.metrics, pixels)]
    if "costs" in e.metrics:
        blocks.append(cost_table(e.metrics["costs"], e.metrics.get("seconds", {})))
    return (
        Section("Beside the model of pixels", tuple(blocks)),
        Section("The autoencoder", reconstruction_blocks(e.metrics["autoencoder"], groups, worst)),
    )


def _beside(metrics: Mapping[str, Any], file: Path) -> tuple[Block, ...]:
    if not file.is_file():
        return (
            "No pixel model was measured beside this one: make emoji, without VARIANT and in the same folder, brings it.",
        )
    pixels = json.loads(file.read_text())
    rows = [
        (said, *(shown(value) for value in values))
        for name, (said, shown) in COMPARED.items()
        if None not in (values := [_at(each, name) for each in (pixels, metrics)])
    ]
    return (Table(("", "pixels", "latents"), tuple(rows), numeric=frozenset({1, 2})),)


def _at(metrics: Mapping[str, Any], name: str) -> Any:
    found: Any = metrics
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
