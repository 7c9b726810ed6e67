"""The page of a run on Fashion-MNIST: what an independent reader says of it, then the page of any run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.report.figures import Chart, Series, image_grid, line_chart
from diffusion_jax.report.making import Making, how_it_was_made
from diffusion_jax.report.numbers import number, percent
from diffusion_jax.report.page import Block, Section, Table, Tile, write_page
from diffusion_jax.systems.diffusion.page import page_of
from diffusion_jax.systems.diffusion.run import DiffusionRun
from experiments.fashion.latent import sections as sections_of_latents
from experiments.latents import PSNR

__all__ = ["AIMS", "write"]

TITLES = {
    "": "Fashion-MNIST, drawn by its class",
    "unconditional": "Fashion-MNIST, unasked",
    "text": "Fashion-MNIST, drawn by its caption",
    "unet": "Fashion-MNIST, drawn by its class with a U-Net",
    "latent": "Fashion-MNIST, drawn by its class in latents",
}
AIMS = {"reader": 0.91, "behind": 0.07, "right": 0.95}
"""The reader on real pictures at least; class right at guidance 1 at most so far behind it; at some guidance at least."""


def write(
    run: DiffusionRun,
    found: Mapping[str, Any],
    report: Path,
    say: Callable[[str], None],
    there_and_back: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """`index.html` of `report`; `there_and_back` are the pictures of a latent model's autoencoder (`latent.prepared`)."""
    page = page_of(run, report, say)
    with np.load(report / "samples.npz") as kept:
        pictures = {scale: kept[scale] for scale in kept.files}
    title = TITLES[found["variant"]]
    made = Section("Time", how_it_was_made(Making(found["seconds"], {}, {}, [found["command"]])))
    latent = () if there_and_back is None else sections_of_latents(found, there_and_back, report)
    sections = (Section("By an independent reader", _read(found, pictures)), *latent, *page.sections, made)
    page = dataclasses.replace(page, title=title, tiles=_tiles(found), sections=sections)
    return write_page(report / "index.html", page)


def _tiles(found: Mapping[str, Any]) -> tuple[Tile, ...]:
    reader, first = found["reader_accuracy"], found["guidance"]["1"]
    tiles = [
        Tile(
            "the reader, on real test pictures",
            percent(reader),
            f"aimed at {percent(AIMS['reader'])}",
            reader >= AIMS["reader"],
        )
    ]
    if "right" in first:
        scale, best = max(found["guidance"].items(), key=lambda item: item[1]["right"])
        behind = reader - first["right"]
        tiles += [
            Tile(
                "class right at guidance 1", percent(first["right"]),
                f"{100 * behind:.1f} points behind the reader; aimed at 7 at most", behind <= AIMS["behind"],
            ),
            Tile(
                f"class right at guidance {scale}", percent(best["right"]), f"aimed at {percent(AIMS['right'])}",
                best["right"] >= AIMS["right"],
            ),
        ]  # fmt: skip
    if "autoencoder" in found:
        back = found["autoencoder"]["psnr"]
        note = f"of test pictures; aimed at {PSNR:g} or more"
        tiles.append(Tile("the autoencoder, there and back", f"{back:.1f} dB", note, back >= PSNR))
    real, blur = found["real"]["frechet"], found["blurred"]["frechet"]
    note = f"at {first['samples']:,} samples; real against real {number(real)}, blurred {number(blur)}"
    return (*tiles, Tile("Fréchet distance, guidance 1", number(first["frechet"]), note))


def _read(found: Mapping[str, Any], pictures: Mapping[str, np.ndarray]) -> tuple[Block, ...]:
    classes, guided = found["classes"], found["guidance"]
    rows: list[tuple[str, ...]] = []
    for name, numbers in [("real training pictures", found["real"]), ("real test pictures, blurred", found["blurred"])]:
        rows.append(_row(name, numbers, found))
    for scale, numbers in guided.items():
        rows.append(_row(f"drawn, guidance {scale}" if len(guided) > 1 else "drawn", numbers, found))
    blocks: list[Block] = [
        "The reader is a small convolutional network trained on the real training pictures; it shares nothing with the model. "
        "Distances are between its features and those of the real test pictures. A Fréchet distance grows as the number of "
        f"samples falls: as many real training pictures as a sweep draws are at {number(found['real_at_sweep'])}.",
        Table(
            ("", "read as asked", "Fréchet", "samples", "diversity"), tuple(rows), numeric=frozenset({1, 2, 3, 4}),
            caption="Diversity: the mean distance between two pictures of one class, over that of real test pictures.",
        ),
    ]  # fmt: skip
    if len(guided) > 1:
        scales = [float(scale) for scale in guided]
        right = Series("drawn", scales, [each["right"] for each in guided.values()], marks=True)
        ceiling = Series("the reader on real ones", scales, [found["reader_accuracy"]] * len(scales), "s3", dashed=True)
        chart = Chart((right, ceiling), "guidance scale", "class right", percent=True)
        blocks.append(
            line_chart(
                chart,
                title="Guidance and class",
                alt="; ".join(f"guidance {scale}: {percent(each['right'])}" for scale, each in guided.items()),
                caption="Guidance draws what a class has and the others have not: beyond real pictures' own ambiguity.",
            )
        )
        shown = [scale for scale in ("1", "2", "5") if scale in pictures]
        blocks.append(
            image_grid(
                [[_of(pictures[scale], row, len(classes)) for scale in shown] for row in range(len(classes))],
                classes, [f"guidance {scale}" for scale in shown], per_line=5, widest=56,
                alt=f"Ten pictures of each of {len(classes)} classes at guidance {', '.join(shown)}.",
                caption="None of them chosen. The same place begins at the same noise.",
            )
        )  # fmt: skip
        worst = int(np.argmin(guided["1"]["right_by_class"]))
        blocks.append(
            f"At guidance 1 the class that is taken for another most often is “{classes[worst]}”: "
            f"{percent(guided['1']['right_by_class'][worst])} are read as asked, of real training pictures "
            f"{percent(found['real']['right_by_class'][worst])}."
        )
    return tuple(blocks)


def _row(name: str, numbers: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[str, ...]:
    right = percent(numbers["right"]) if "right" in numbers else ""
    return name, right, number(numbers["frechet"]), f"{numbers['samples']:,}", number(numbers["diversity"])


def _of(images: np.ndarray, label: int, classes: int) -> np.ndarray:
    """Ten of a class, grey as three channels: pictures, not ink."""
    return np.repeat(images[label::classes][:10], 3, axis=-1)
