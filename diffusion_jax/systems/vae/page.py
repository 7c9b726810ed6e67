"""The page of any autoencoder run: held-out pictures beside what comes back of them, what was measured, its latents."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion_jax.data.examples import to_unit
from diffusion_jax.report.curves import loss_chart
from diffusion_jax.report.figures import image_grid, line_chart
from diffusion_jax.report.making import how_it_was_made
from diffusion_jax.report.numbers import number
from diffusion_jax.report.page import Block, Code, Page, Section, Table, Tile, write_page
from diffusion_jax.runs import read_json
from diffusion_jax.systems.making import making_of, trained_by
from diffusion_jax.systems.measuring import NUMBERS
from diffusion_jax.systems.vae.run import VaeRun
from diffusion_jax.train.runlog import read_metrics

__all__ = ["page_of", "write"]

SHOWN, USUAL = 8, "pixels"
METRICS = ("reconstruction", "latents")
Numbers = Mapping[str, Any]
Say = Callable[[str], None]


def write(run: VaeRun, folder: Path, pictures: np.ndarray | None, say: Say) -> Path:
    """`index.html` of `folder`; `pictures` [n, h, w, c] in [-1, 1] are held-out ones, None where there are none."""
    return write_page(folder / "index.html", page_of(run, folder, pictures, say))


def page_of(run: VaeRun, folder: Path, pictures: np.ndarray | None, say: Say) -> Page:
    """The page, with the numbers that lie in `folder`."""
    file = folder / NUMBERS
    numbers: Numbers = read_json(file) if file.is_file() else {}
    taken = {name: one for name, one in numbers.items() if name in METRICS and one.get("weights") == run.fingerprint}
    there, within = taken.get("reconstruction", {}), taken.get("latents", {})
    sections = []
    if pictures is None:
        say("the page has no pictures: it is made of what the run holds")
    else:
        sections.append(Section("There and back", _pictures(run, np.asarray(to_unit(pictures[:SHOWN])))))
    sections += [
        Section("Beside the data", _measured(run, there)),
        Section("What a diffusion model sees", _latents(run, within)),
        Section("Training", _training(run)),
        Section("How it was made", how_it_was_made(making_of(run.path, run.config, _commands(run, taken)))),
    ]
    height, width, channels = run.autoencoder.latent_shape(*run.image[:2])
    count = sum(leaf.size for leaf in jax.tree.leaves(run.params))
    ratio = np.prod(run.image) / (height * width * channels)
    data = run.config.data.get("path", run.config.data.name)
    lead = (
        f"Pictures of {run.image[1]} × {run.image[0]} with {_channels(run.image[2])} become {height} × {width} places of "
        f"{channels} numbers, {ratio:.3g} times fewer, and pictures again. The network ({run.config.model.name}) has {count:,} "
        f"parameters and saw {run.config.steps:,} steps of {run.config.batch_size} examples of “{data}”."
    )
    return Page(
        title=f"{run.path.resolve().name}, an autoencoder", lead=lead, tiles=_tiles(there), sections=tuple(sections),
        foot="Written by diffusion-jax. One file: nothing is loaded from elsewhere.",
    )  # fmt: skip


def _channels(channels: int) -> str:
    return f"{channels} channel{'s' * (channels != 1)}"


def _tiles(found: Numbers) -> tuple[Tile, ...]:
    if not found:
        return ()
    space = f"in {found['features']}, {found['samples']:,} pictures; as many others {number(found['frechet_real'])}"
    return (
        Tile("PSNR of what comes back", f"{found['psnr']:.1f} dB", f"{found['samples']:,} {found['split']} pictures"),
        Tile("SSIM", number(found["ssim"]), f"in windows of {found['window']} pixels"),
        Tile("Frechet distance to the very pictures", number(found["frechet"]), space),
    )


def _pictures(run: VaeRun, given: np.ndarray) -> tuple[Block, ...]:
    made = run.reconstruct(given)
    lost = np.clip(2.0 * np.abs(made - given) - 1.0, -1.0, 1.0).mean(-1, keepdims=True)  # 0 is dark
    maps = np.asarray(run.encode(given)).transpose(3, 0, 1, 2)[..., None]
    for axis in (2, 3):  # each place as large as what it stands for
        maps = maps.repeat(run.factor, axis)
    spread = np.clip(maps / 3.0, -1.0, 1.0)

    def seen(images: np.ndarray) -> np.ndarray:
        grey = images.shape[-1] == 1 and not (run.ink and given.shape[-1] == 1)
        return np.repeat(images, 3, axis=-1) if grey else images

    cells = [[seen(part)] for part in (given, made, lost, *spread)]
    rows = ["Held-out pictures", "What comes back", "What differs", *(f"Latent {i + 1}" for i in range(len(spread)))]
    return (
        image_grid(
            cells, rows, [""], per_line=len(given), widest=80,
            alt=f"{len(given)} held-out pictures, what comes back of each, where they differ, and their latents.",
            caption="By averaged weights and the mean of the latents, without chance. What differs is white where it is half "
            "of the range or more; latents are from -3 standard deviations, black, to 3, white.",
        ),
    )  # fmt: skip


def _measured(run: VaeRun, found: Numbers) -> tuple[Block, ...]:
    if not found:
        return ("Not measured yet:", Code(f"diffusion-jax evaluate --run {shlex.quote(str(run.path))}"))
    rows = (
        (
            "what comes back",
            number(found["frechet"]),
            f"{found['psnr']:.2f}",
            number(found["ssim"]),
            number(found["l1"]),
        ),
        ("as many training pictures", number(found["frechet_real"]), "", "", ""),
        ("the pictures, blurred", number(found["frechet_blurred"]), "", "", ""),
    )
    head = ("beside the very pictures", f"Frechet distance in {found['features']}", "PSNR, dB", "SSIM", "mean |x - x'|")
    said = "An autoencoder whose pictures are worth diffusing lies far below other pictures of the same data, and blurs less."
    return (Table(head, rows, frozenset({1, 2, 3, 4}), said),)


def _latents(run: VaeRun, found: Numbers) -> tuple[Block, ...]:
    known = run.statistics
    told = [("mean, as they are", known.mean), ("deviation, as they are", known.std)]
    told += (
        [("mean, held out and scaled", found["mean"]), ("deviation, held out and scaled", found["std"])]
        if found
        else []
    )
    rows = tuple((name, *(number(float(value)) for value in values)) for name, values in told)
    head = ("", *(f"latent {i + 1}" for i in range(len(known.mean))))
    blocks: list[Block] = [
        f"Measured on {known.examples:,} training pictures; a diffusion model sees each channel with mean 0 and deviation 1.",
        Table(head, rows, frozenset(range(1, len(head)))),
    ]
    if "kl" in found:
        blocks.append(f"The posterior costs {number(found['kl'])} nats a latent.")
    if "used" in found:
        blocks.append(f"{found['used']:.0%} of the codebook is used.")
    return tuple(blocks)


def _training(run: VaeRun) -> tuple[Block, ...]:
    rows = read_metrics(run.path)
    if not any(row.get("loss") is not None for row in rows):
        return ("Nothing was logged.",)
    chart = loss_chart(rows)
    ends = "; ".join(f"{s.name} ends at {number(float(s.y[-1]))}" for s in chart.series if not s.faint and len(s.y))
    start = (run.config.get("adversary") or {}).get("start")
    said = "" if start is None else f" From step {start:,} an adversary counts, and the loss is another."
    return (
        line_chart(
            chart, title="Loss while it was trained", alt=f"Loss while it was trained: {ends}.",
            caption=f"What comes back, how unlike it looks, and the price of the latents, together.{said}",
        ),
    )  # fmt: skip


def _commands(run: VaeRun, taken: Mapping[str, Numbers]) -> list[str]:
    """What trained it, measured what is on the page and made it: both metrics by one command where it is the same for both."""
    where = shlex.quote(str(run.path))
    hows = {name: f" --samples {one['samples']}{_split(one)}" for name, one in taken.items()}
    if (features := taken.get("reconstruction", {}).get("features", USUAL)) != USUAL:
        hows["reconstruction"] += f" --features {shlex.quote(features)}"
    measured = [f"diffusion-jax evaluate --run {where} --metric {name}{how}" for name, how in hows.items()]
    if len(taken) == len(METRICS) and len({(one["samples"], one["split"]) for one in taken.values()}) == 1:
        measured = [f"diffusion-jax evaluate --run {where}{hows['reconstruction']}"]
    return [*trained_by(run.path), *measured, f"diffusion-jax report --run {where}"]


def _split(found: Numbers) -> str:
    return "" if found["split"] == "test" else f" --split {found['split']}"
