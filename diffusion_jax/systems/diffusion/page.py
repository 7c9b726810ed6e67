"""The page of any diffusion run: what it draws, what was measured, how it was trained, in one file.

What is drawn is drawn for the page (`shown`); the numbers, and the samples that are nearest to training pictures, are those
that `evaluate` left in the folder. What there is none of is left out, and the page says which command brings it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.report.curves import loss_chart
from diffusion_jax.report.figures import Chart, Series, filmstrip, line_chart
from diffusion_jax.report.making import how_it_was_made
from diffusion_jax.report.numbers import number
from diffusion_jax.report.page import Block, Code, Columns, Figure, Page, Section, write_page
from diffusion_jax.runs import read_json
from diffusion_jax.systems.diffusion.drawn import held_out, shape_shown
from diffusion_jax.systems.diffusion.picture_sections import picture_sections, saved_samples
from diffusion_jax.systems.diffusion.run import DiffusionRun
from diffusion_jax.systems.diffusion.scores import bits_table, doubts, score_table, score_tiles
from diffusion_jax.systems.diffusion.shown import can_show, show
from diffusion_jax.systems.diffusion.spaces import Pixels
from diffusion_jax.systems.making import making_of, trained_by
from diffusion_jax.systems.measuring import ARRAYS, NUMBERS, read_arrays
from diffusion_jax.train.runlog import read_metrics
from diffusion_jax.typing import UserError

__all__ = ["page_of", "write"]

Say = Callable[[str], None]
Numbers = Mapping[str, Any]
Images = np.ndarray
SCORED = ("samples", "nearest")
"""The metrics that compare in features."""


def write(run: DiffusionRun, folder: Path, say: Say) -> Path:
    """Draws what the page shows and writes it as `index.html` of `folder`; UserError where it cannot be written."""
    return write_page(folder / "index.html", page_of(run, folder, say))


def page_of(run: DiffusionRun, folder: Path, say: Say) -> Page:
    """The page, with the numbers that lie in `folder`; without real pictures, and saying so, where the data are not there."""
    measured, bits = (_numbers(folder / name) for name in (NUMBERS, "bits_per_dim.json"))
    # Scores of before there were features are not those of today, nor numbers of before the run went on.
    measured = {
        name: found
        for name, found in measured.items()
        if (name not in SCORED or "features" in found) and _of(run, found)
    }
    bits = bits if _of(run, bits) else {}
    held, lost = None, ""
    try:
        held = held_out(run, "test", say)[1]
    except UserError as error:
        lost = f"There are no held-out pictures to show: {error}."
        say(f"the page is made of what the run holds: {error}")
    shape = shape_shown(run)
    pictures = len(shape) == 3 and shape[-1] in (1, 3)

    def seen(images: Images) -> Images:
        return images if run.ink or images.shape[-1] == 3 else np.repeat(images, 3, axis=-1)

    sections: list[Section] = []
    if pictures and can_show(run, held):
        sections += picture_sections(run, show(run, held, say), seen)
    elif pictures:
        sections += saved_samples(run, seen)
    if lost and sections:
        sections[0] = Section(sections[0].heading, (lost, *sections[0].blocks))
    sections.append(Section("Beside the data", _scores(run, measured, bits)))
    arrays = read_arrays(folder / ARRAYS)
    if pictures and "nearest_samples" in arrays and "nearest" in measured:
        sections.append(Section("Nearest training pictures", _nearest(arrays, measured["nearest"], seen)))
    sections.append(Section("Training", _training(run, measured.get("loss_by_noise"))))
    sections.append(
        Section("How it was made", how_it_was_made(making_of(run.path, run.config, _commands(run, measured, bits))))
    )
    return Page(
        title=f"{run.path.resolve().name}, a diffusion model",
        lead=_lead(run, shape, pictures),
        tiles=score_tiles(measured, bits),
        sections=tuple(sections),
        foot="Written by diffusion-jax. One file: nothing is loaded from elsewhere.",
    )


def _of(run: DiffusionRun, numbers: Numbers) -> bool:
    """Whether numbers are of the weights that the run has now; older ones do not say."""
    return numbers.get("weights", run.fingerprint) == run.fingerprint


def _numbers(file: Path) -> Numbers:
    return read_json(file) if file.is_file() else {}


def _lead(run: DiffusionRun, shape: tuple[int, ...], pictures: bool) -> str:
    told = " and ".join(f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in run.asks)
    what = f"pictures of {shape[1]} × {shape[0]} pixels" if pictures else f"arrays of shape {shape}"
    size = sum(int(np.size(leaf)) for leaf in _leaves(run.params))
    steps = f"{run.config.steps:,} steps of {run.config.batch_size}"
    asked = f"asked with {told}" if told else "asked for nothing"
    data = run.config.data.get("path", run.config.data.name)
    network = f"The network ({run.config.model.name}) has {size:,} parameters and saw {steps} examples of “{data}”."
    return f"It draws {what}, {asked}. {network}"


def _leaves(tree: Any) -> list[Any]:
    return [leaf for value in tree.values() for leaf in _leaves(value)] if isinstance(tree, Mapping) else [tree]


def _scores(run: DiffusionRun, measured: Numbers, bits: Numbers) -> tuple[Block, ...]:
    blocks: list[Block] = []
    if "samples" in measured:
        blocks += _how_compared(run, measured["samples"])
        blocks.append(score_table(measured["samples"], measured.get("nearest")))
    if bits:
        blocks.append(bits_table(bits))
    missing = [
        f"evaluate --run {run.path}{option}"
        for there, option in (
            ("samples" in measured, ""),
            (bool(bits) or not isinstance(run.space, Pixels), " --bits-per-dim"),  # of other spaces there are none
        )
        if not there
    ]
    if missing:
        blocks += ["Not measured yet:", Code("\n".join(f"diffusion-jax {command}" for command in missing))]
    return tuple(blocks)


def _how_compared(run: DiffusionRun, scores: Numbers) -> list[str]:
    """Paragraphs of what the numbers are of that a reader would not guess: the guidance, the features, how few there are."""
    said = []
    shown = float(run.config.sampler.guidance_scale) if run.condition.guides else scores["guidance_scale"]
    if shown != scores["guidance_scale"]:
        said.append(
            f"These numbers are of samples at guidance {scores['guidance_scale']:g}, and the pictures above are at {shown:g}."
        )
    if scores["features"] == "pixels":
        said.append(
            "Pictures are compared pixel by pixel, which says little of what they show and takes blurred ones for precise: "
            "evaluate --features lite0, or with the folder of a CLIP, compares what they show."
        )
    return [" ".join(part) for part in (said, doubts(scores)) if part]


def _nearest(arrays: Mapping[str, Images], numbers: Numbers, seen: Callable[[Images], Images]) -> tuple[Block, ...]:
    made, known, far = (arrays[f"nearest_{name}"] for name in ("samples", "training", "distances"))
    places = ("nearest", "second", "third")[: known.shape[1]]
    strips = [("Samples", list(seen(made)))]
    strips += [(f"The {place} training picture", list(seen(known[:, i]))) for i, place in enumerate(places)]
    ratio = numbers.get("ratio")
    said = (
        ""
        if ratio is None
        else f" In the mean samples are {number(ratio)} times as far from the training as held-out pictures are."
    )
    return (
        filmstrip(
            strips,
            [number(float(one[0])) for one in far],
            alt=f"{len(made)} samples, each above the training pictures that are nearest to it.",
            caption=f"Of {numbers['samples']:,} samples the {len(made)} that are nearest to a training picture, with their "
            f"distance in {numbers['features']}: where the model copies, it is here.{said}",
        ),
    )


def _training(run: DiffusionRun, levels: Numbers | None) -> tuple[Block, ...]:
    rows = read_metrics(run.path)
    figures: list[Figure] = []
    if any(row.get("loss") is not None for row in rows):
        chart = loss_chart(rows)
        ends = "; ".join(f"{s.name} ends at {number(float(s.y[-1]))}" for s in chart.series if not s.faint and len(s.y))
        figures.append(
            line_chart(
                chart,
                title="Loss while it was trained",
                alt=f"Loss while it was trained: {ends}.",
                caption="The floor is not zero: noise hides what no one can know. Validation should fall with training; "
                "where it turns up, the model begins to learn its examples by heart.",
            )
        )
    if levels:
        names = (("told", "given its condition" if run.asks else "held out", "s1"), ("null", "given nothing", "s2"))
        series = tuple(
            Series(title, levels["logsnr"], levels[name]["v"], colour, dashed=name == "null", marks=True)
            for name, title, colour in names
            if name in levels
        )
        ends = "; ".join(f"{line.name} from {number(line.y[0])} to {number(line.y[-1])}" for line in series)
        figures.append(
            line_chart(
                Chart(series, "log signal to noise, from noise to data", "error in v"),
                title="Held-out loss by noise level",
                alt=f"Held-out loss by noise level: {ends}.",
                caption=f"The squared error on {levels['examples']:,} {levels['split']} examples at fixed noise levels. Left "
                "there is noise alone, and what there is to know is the mean; right the picture is almost clean.",
            )
        )
    return (Columns(tuple(figures)),) if figures else ("Nothing was logged.",)


def _commands(run: DiffusionRun, measured: Numbers, bits: Numbers) -> list[str]:
    """What makes it all again: the training by the words that began it, the numbers with the options that they are of."""

    def line(command: str, *flags: str, **options: Any) -> str:
        given = [f"--{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in options.items()]
        return " ".join(["diffusion-jax", command, "--run", shlex.quote(str(run.path)), *flags, *given])

    found = trained_by(run.path)
    if measured:
        chosen: Numbers = measured.get("samples") or measured.get("nearest") or {}
        split = next((one["split"] for one in measured.values() if "split" in one), "test")
        options = {"split": split} if split != "test" else {}
        options |= {"samples": chosen["samples"]} if chosen else {}
        options |= {"seed": chosen["seed"]} if chosen.get("seed") else {}
        options |= {"features": chosen["features"]} if chosen.get("features", "pixels") != "pixels" else {}
        found.append(line("evaluate", **options))
    if bits:
        options = {"split": bits["split"]} if bits["split"] != "test" else {}
        options |= {"scans": bits["scans"]} if "scans" in bits else {}
        found.append(line("evaluate", "--bits-per-dim", **options))
    return [*found, line("report")]
