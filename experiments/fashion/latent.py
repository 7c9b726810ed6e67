"""The variant `latent` of the Fashion-MNIST experiment: its autoencoder, and the sections of the page on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax.data.examples import to_unit
from diffusion_jax.report.numbers import number, percent
from diffusion_jax.report.page import Block, Section, Table
from diffusion_jax.runs import fingerprint
from diffusion_jax.systems.vae.run import VaeRun, load_vae_run
from diffusion_jax.training import train_run
from experiments.cnn_reader import TrainedReader
from experiments.fashion.measures import blurred
from experiments.latents import (
    SHOWN,
    WORST,
    cost_table,
    costs,
    encoded,
    kept,
    reconstruction_blocks,
    there_and_back,
)
from experiments.progress import Clock

__all__ = ["beside_pixels", "prepared", "sections"]

Say = Callable[[str], None]
Arrays = Mapping[str, np.ndarray]


def prepared(
    config: ConfigDict,
    pixels: ConfigDict,
    vae: ConfigDict,
    reader: TrainedReader,
    train: Any,
    test: Any,
    clock: Clock,
    say: Say,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(numbers, pictures) of the autoencoder of the config `vae`: trained, measured, its latents on disk.

    `config`, the latent model's, is set to these latents; `pixels` is that of the model that it stands beside.
    """  # fmt: skip
    say("    an autoencoder")
    with clock("autoencoder"):
        train_run(vae, say=say)
    run = load_vae_run(vae.workdir)
    config.space.autoencoder = str(vae.workdir)
    key = f"{run.fingerprint}-{fingerprint(reader.params)}-{len(test)}"

    def measured() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        with clock("reconstruction"):
            return _measured(run, reader, train, test)

    found, pictures = kept(Path(vae.workdir) / "report", key, measured)
    say(
        f"    {found['psnr']:.1f} dB, Frechet {found['frechet']:.2f} of {found['pictures']} test pictures there and back "
        f"(other real ones {found['frechet_real']:.2f}, blurred {found['frechet_blurred']:.2f})"
    )
    folder = Path(vae.workdir).parent / "latents"
    with clock("encoding"):
        encoded(config, folder, say)
    with config.unlocked():
        config.space.cache = str(folder)
    found["costs"] = costs(pixels, config, vae, run, len(train))
    return found, pictures


def _measured(
    run: VaeRun, reader: TrainedReader, train: Any, test: Any
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    known, real = train.columns(), test.columns()
    some = np.random.default_rng(0).permutation(len(known["image"]))[: len(real["image"])]
    soft = blurred(real["image"])
    found, made, each = there_and_back(run, reader.features, real["image"], known["image"][some], soft)
    for ending, images, labels in (
        ("", made, real["label"]),
        ("_blurred", soft, real["label"]),
        ("_real", known["image"][some], known["label"][some]),
    ):
        found[f"right{ending}"] = reader.accuracy(images, labels)
    firsts = np.concatenate([np.flatnonzero(real["label"] == label)[:SHOWN] for label in np.unique(real["label"])])
    worst = np.argsort(each)[:WORST]
    pictures = {}
    for name, rows in (("shown", firsts), ("worst", worst)):
        pictures[f"{name}_given"], pictures[f"{name}_made"] = np.asarray(to_unit(real["image"][rows])), made[rows]
    return found | {"shown_labels": real["label"][firsts].tolist()}, pictures


def sections(found: Mapping[str, Any], pictures: Arrays, report: Path) -> tuple[Section, ...]:
    """Of the page: the autoencoder, and the model beside that of pixels."""
    labels, classes = np.asarray(found["autoencoder"]["shown_labels"]), found["classes"]
    grey = {name: np.repeat(images, 3, axis=-1) for name, images in pictures.items()}
    groups = [
        (name, grey["shown_given"][labels == label], grey["shown_made"][labels == label])
        for label, name in enumerate(classes)
    ]
    worst = grey["worst_given"], grey["worst_made"]
    pixels = beside_pixels(found, report.parents[1] / "diffusion" / "report" / "metrics.json")
    cost = cost_table(found["autoencoder"]["costs"], found["seconds"])
    return (
        Section("Beside the model of pixels", (*pixels, cost)),
        Section("The autoencoder", reconstruction_blocks(found["autoencoder"], groups, worst)),
    )


def beside_pixels(found: Mapping[str, Any], file: Path) -> tuple[Block, ...]:
    """The numbers of this run beside those of the pixel model's in `file`; where there are none, what brings them."""
    if not file.is_file():
        return (
            "No pixel model was measured beside this one: make fashion, without VARIANT and in the same folder, brings it, and "
            "this page compares the two by one reader. configs/fashion_mnist.py has its numbers by a reader of its own.",
        )  # fmt: skip
    pixels = json.loads(file.read_text())
    rows = []
    for scale, mine in found["guidance"].items():
        theirs = pixels["guidance"].get(scale)
        if theirs is not None:
            same = theirs["samples"] == mine["samples"]
            rows.append(
                (f"guidance {scale}", *(one for each in (theirs, mine) for one in _cells(each, same)))
            )  # fmt: skip
    first, other = found["guidance"]["1"], pixels["guidance"]["1"]
    said = (
        f"At guidance 1 the latent model draws what was asked in {percent(first['right'])} and the pixel model in "
        f"{percent(other['right'])}; Fréchet distances are {number(first['frechet'])} and {number(other['frechet'])}."
    )
    if pixels["key"].split("-")[1] != found["key"].split("-")[1]:
        said += " Another reader judged the pixel model: the numbers are of two measures."
    head = ("", "pixels: read as asked", "Fréchet", "diversity", "latents: read as asked", "Fréchet", "diversity")
    return said, Table(head, tuple(rows), numeric=frozenset(range(1, 7)))


def _cells(each: Mapping[str, Any], same: bool) -> tuple[str, str, str]:
    count = "" if same else f" ({each['samples']:,})"
    return percent(each["right"]), f"{number(each['frechet'])}{count}", number(each["diversity"])
