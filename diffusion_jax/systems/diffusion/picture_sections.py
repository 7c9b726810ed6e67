"""The pictures of a diffusion run's page: what it draws, under guidance, on its way; or what it drew while it was trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from diffusion_jax.report.figures import filmstrip, image_grid
from diffusion_jax.report.page import Figure, Section
from diffusion_jax.systems.diffusion.run import DiffusionRun
from diffusion_jax.systems.diffusion.shown import Shown

__all__ = ["picture_sections", "saved_samples"]

Images = np.ndarray
WIDE, WIDER = 72, 96
"""CSS pixels of an image at most, beside names and where it has the width of the page."""


def picture_sections(run: DiffusionRun, made: Shown, seen: Callable[[Images], Images]) -> list[Section]:
    """Three sections, or two of a model that nothing guides; `seen(images)` is how the page shows them."""
    found = [Section("What it draws", (_drawn(run, made, seen),))]
    if made.scales:
        found.append(Section("Guidance", (_guidance(made, seen),)))
    return [*found, Section("From noise to a picture", (_way(made, seen),))]


def _drawn(run: DiffusionRun, made: Shown, seen: Callable[[Images], Images]) -> Figure:
    heads = [*made.told, f"samples, guidance {made.scale:g}" if run.condition.guides else "samples"]
    cells = [[*(seen(of[row]) for of in made.told.values()), seen(images)] for row, images in enumerate(made.samples)]
    if made.real:
        heads, cells = [*heads, "real, held out"], [[*row, seen(real)] for row, real in zip(cells, made.real)]
    if not run.asks:
        return image_grid(
            cells, [], heads, per_line=6, widest=WIDER,
            alt=f"{len(made.samples[0])} samples.", caption="Samples, none of them chosen.",
        )  # fmt: skip
    named = any(made.names)
    return image_grid(
        cells, made.names if named else [], heads, per_line=8, widest=WIDE if named else WIDER,
        alt=f"Samples for {len(made.names)} requests.",
        caption="Samples, none of them chosen: the same place in each row begins at the same noise." + _said_of(made),
    )  # fmt: skip


def _said_of(made: Shown) -> str:
    """What the pictures before the samples are, in a sentence."""
    if "real" in made.told:
        return " Each row was asked for with what is left of a real, held-out picture, which stands beside it whole."
    return " Each row was asked for with a real, held-out picture." if made.told else ""


def _guidance(made: Shown, seen: Callable[[Images], Images]) -> Figure:
    cells = [
        [*(seen(of[row]) for of in made.told.values()), *(seen(images) for images in line)]
        for row, line in zip(made.swept, made.sweep, strict=True)
    ]
    scales = [f"guidance {value:g}" + (" (off)" if value == 1 else "") for value in made.scales]
    names = [made.names[row] for row in made.swept]
    return image_grid(
        cells, names if any(names) else [], [*made.told, *scales], per_line=2, widest=WIDE if any(names) else WIDER,
        alt=f"Samples for {len(names)} requests at {len(scales)} guidance scales.",
        caption="From left to right the model is pushed harder towards what was asked, from the same noise: what it draws "
        "becomes more certain and less varied, and overdone where the scale is too large.",
    )  # fmt: skip


def _way(made: Shown, seen: Callable[[Images], Images]) -> Figure:
    path = made.path
    strips: list[tuple[str, Sequence[Images | None]]] = [
        ("What the sampler holds", list(seen(path.states))),
        ("What the model believes it becomes", list(seen(path.guesses))),
    ]
    if made.told:
        frames: list[Images | None] = [seen(of[0])[0] for of in made.told.values()]
        frames += [None] * (len(path.times) - len(frames))
        strips.insert(0, (", then ".join(made.told).capitalize(), frames))
    return filmstrip(
        strips,
        [f"{time:.2f}" for time in path.times],
        title=path.name,
        alt=f"One sample at {len(path.times)} times from noise to data.",
        caption="One sample, from the time of pure noise (left) to that of data (right). The lower row begins as a blurred "
        "mean of all that fits, and is decided on the way.",
    )


def saved_samples(run: DiffusionRun, seen: Callable[[Images], Images]) -> list[Section]:
    """What the run drew when it was last measured in training, as its folder keeps it; [] where there is nothing."""
    files = sorted((run.path / "samples").glob("step_*.npz"))
    if not files:
        return []
    with np.load(files[-1]) as kept:
        cells = [[seen(kept["raw"].astype(np.float32)), seen(kept["ema"].astype(np.float32))]]
    step = int(files[-1].stem.partition("_")[2])
    grid = image_grid(
        cells, [], ["raw weights", "averaged weights"], per_line=4, widest=WIDER,
        alt=f"{len(cells[0][0])} samples of step {step:,} under raw weights and under averaged ones.",
        caption=f"Samples of step {step:,} from the same noise, as training left them.",
    )  # fmt: skip
    return [Section("What it drew in training", (grid,))]
