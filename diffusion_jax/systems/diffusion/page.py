"""The page of any diffusion run: what it draws, what was measured, how it was trained, in one file.

What is drawn is drawn for the page (`shown`); the numbers, and the samples that are nearest to training pictures, are those
that `evaluate` left in the folder. What there is none of is left out, and the page says which command brings it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.config import to_dict
from diffusion_jax.report.curves import loss_chart
from diffusion_jax.report.figures import Chart, Series, filmstrip, image_grid, line_chart
from diffusion_jax.report.making import Making, how_it_was_made
from diffusion_jax.report.numbers import number
from diffusion_jax.report.page import Block, Code, Columns, Figure, Page, Section, write_page
from diffusion_jax.runs import read_json
from diffusion_jax.systems.diffusion.drawn import held_out, shape_shown
from diffusion_jax.systems.diffusion.run import DiffusionRun
from diffusion_jax.systems.diffusion.scores import bits_table, score_table, score_tiles
from diffusion_jax.systems.diffusion.shown import Shown, show
from diffusion_jax.systems.diffusion.spaces import Pixels
from diffusion_jax.systems.measuring import ARRAYS, NUMBERS, read_arrays
from diffusion_jax.train.runlog import read_metrics

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
    """The page, with the numbers that lie in `folder`."""
    measured, bits = (_numbers(folder / name) for name in (NUMBERS, "bits_per_dim.json"))
    # Scores of before there were features are not those of today, nor numbers of before the run went on.
    measured = {
        name: found
        for name, found in measured.items()
        if (name not in SCORED or "features" in found) and _of(run, found)
    }
    bits = bits if _of(run, bits) else {}
    _, held = held_out(run, "test", say)
    shape = shape_shown(run)
    pictures = len(shape) == 3 and shape[-1] in (1, 3)

    def seen(images: Images) -> Images:
        return images if run.ink or images.shape[-1] == 3 else np.repeat(images, 3, axis=-1)

    sections: list[Section] = []
    if pictures:
        sections += _pictures(run, show(run, held, say), seen)
    sections.append(Section("Beside the data", _scores(run, measured, bits)))
    arrays = read_arrays(folder / ARRAYS)
    if pictures and "nearest_samples" in arrays and "nearest" in measured:
        sections.append(Section("Nearest training pictures", _nearest(arrays, measured["nearest"], seen)))
    sections.append(Section("Training", _training(run, measured.get("loss_by_noise"))))
    sections.append(Section("How it was made", how_it_was_made(_making(run, folder, measured, bits))))
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
    network = f"The network ({run.config.model.name}) has {size:,} parameters and saw {steps} examples of {data}."
    return f"It draws {what}, {asked}. {network}"


def _leaves(tree: Any) -> list[Any]:
    return [leaf for value in tree.values() for leaf in _leaves(value)] if isinstance(tree, Mapping) else [tree]


def _pictures(run: DiffusionRun, made: Shown, seen: Callable[[Images], Images]) -> list[Section]:
    guided = f"guidance {made.scale:g}" if run.condition.guides else "drawn"
    if not run.asks:
        drawn = image_grid(
            [[seen(made.samples[0])]], [], [""], per_line=12, widest=80,
            alt=f"{len(made.samples[0])} samples.", caption="Samples, none of them chosen.",
        )  # fmt: skip
    else:
        heads, cells = [f"samples, {guided}"], [[seen(images)] for images in made.samples]
        if made.real:
            heads, cells = [*heads, "real, held out"], [[*row, seen(real)] for row, real in zip(cells, made.real)]
        if made.given:
            heads, cells = ["asked with", *heads], [[seen(one), *row] for row, one in zip(cells, made.given)]
        drawn = image_grid(
            cells, made.names, heads, per_line=8, widest=72,
            alt=f"Samples for {len(made.names)} requests.",
            caption="Samples, none of them chosen: the same place in each row begins at the same noise.",
        )  # fmt: skip
    found = [Section("What it draws", (drawn,))]
    if made.scales:
        sweep = image_grid(
            [[seen(images) for images in row] for row in made.sweep], made.sweep_names,
            [f"guidance {value:g}" + (" (off)" if value == 1 else "") for value in made.scales], per_line=2, widest=72,
            alt=f"Samples for {len(made.sweep_names)} requests at {len(made.scales)} guidance scales.",
            caption="From left to right the model is pushed harder towards what was asked, from the same noise: what it draws "
            "becomes more certain and less varied, and overdone where the scale is too large.",
        )  # fmt: skip
        found.append(Section("Guidance", (sweep,)))
    path = made.path
    way = filmstrip(
        [
            ("What the sampler holds", list(seen(path.states))),
            ("What the model believes it becomes", list(seen(path.guesses))),
        ],
        [f"{time:.2f}" for time in path.times],
        title=path.name,
        alt=f"One sample at {len(path.times)} times from noise to data.",
        caption="One sample, from the time of pure noise (left) to that of data (right). The lower row begins as a blurred "
        "mean of all that fits, and is decided on the way.",
    )
    return [*found, Section("From noise to a picture", (way,))]


def _scores(run: DiffusionRun, measured: Numbers, bits: Numbers) -> tuple[Block, ...]:
    blocks: list[Block] = []
    if "samples" in measured:
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
            Series(title, levels["logsnr"], levels[name]["v"], colour, marks=True)
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


def _making(run: DiffusionRun, folder: Path, measured: Numbers, bits: Numbers) -> Making:
    file = run.path / "environment.json"
    noted = read_json(file) if file.is_file() else {}
    versions = {"python": noted["python"], **noted["versions"]} if noted else {}
    versions |= {"devices": ", ".join(noted["devices"]), "git commit": noted["git_commit"]} if noted else {}
    where = run.path
    commands = [f"diffusion-jax evaluate --run {where}"] if measured else []
    chosen = measured.get("samples") or measured.get("nearest")
    if chosen:
        features = "" if chosen["features"] == "pixels" else f" --features {chosen['features']}"
        commands[0] += f" --samples {chosen['samples']}{features}"
    commands += [f"diffusion-jax evaluate --run {where} --bits-per-dim"] if bits else []
    commands.append(f"diffusion-jax report --run {where}")
    config = {key: value for key, value in to_dict(run.config).items() if key != "workdir"}
    return Making({}, {name: str(value) for name, value in versions.items() if value}, config, commands)
