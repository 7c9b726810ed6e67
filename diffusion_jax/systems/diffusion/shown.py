"""What the page of a diffusion run shows of it: samples by request, at several guidance scales, and one sample's way.

All is drawn anew from the run, with one seed: place by place the same noise, whatever is asked and however it is guided.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from diffusion_jax import build
from diffusion_jax.data.examples import to_unit
from diffusion_jax.data.labels import labels_of
from diffusion_jax.sampling import AdaptiveODE, initial_noise, trace
from diffusion_jax.systems.diffusion.drawn import draw, order, pictures, requests
from diffusion_jax.systems.diffusion.loss import example_keys
from diffusion_jax.systems.diffusion.run import DiffusionRun
from diffusion_jax.typing import Source

__all__ = ["SCALES", "Path", "Shown", "named", "show"]

SCALES = (1.0, 2.0, 3.0, 5.0)
GROUPS, EACH, ALONE = 10, 8, 48
"""Requests at most, samples of each, and samples of a model that draws unasked."""
SWEPT, SWEPT_EACH = 4, 4
FRAMES = 8
Images = np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Path:
    """One sample from noise to data: some of its states and of what the model made of them, by their times."""

    name: str
    times: np.ndarray
    states: Images
    guesses: Images


@dataclasses.dataclass(frozen=True, eq=False)
class Shown:
    """Images as the run draws them. `samples` [requests, n, ...] at `scale`, beside `real` ones where classes have them.

    `given` are the pictures that were asked with, None where none were; `sweep` [requests, scales, n, ...] is empty for a
    model that nothing guides.
    """

    names: list[str]
    samples: Images
    scale: float
    real: list[Images]
    given: list[Images]
    sweep_names: list[str]
    scales: tuple[float, ...]
    sweep: Images
    path: Path


def named(run: DiffusionRun, request: Any) -> str:
    """A request as a reader is told it: a class by its name, a text in quotes, several of them together."""
    if isinstance(request, dict):
        told = [named(run, value) for ask, value in request.items() if value is not None and ask != "mask"]
        return ", ".join(told)
    classes = run.class_names
    if isinstance(request, int | np.integer):
        return classes[int(request)] if int(request) < len(classes) else str(request)
    if isinstance(request, str):
        return request if request in classes else f"“{request}”"
    return "" if request is None else "as the picture"


def _asked(run: DiffusionRun, held: Source) -> list[Any]:
    """What the page draws: each class, or the prompts that training showed, or what some held-out examples are."""
    classes = run.class_names
    if run.asks == ("label",) and classes:
        return [classes[i] for i in np.unique(np.linspace(0, len(classes) - 1, min(GROUPS, len(classes))).astype(int))]
    if len(run.asks) == 1 and run.asks != ("image",):
        return _different(run.condition.shown(held, held))[:GROUPS]
    return requests(run, held, order(len(held))[:SWEPT])


def _different(asked: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for one in asked:
        if one not in found:
            found.append(one)
    return found


def _real(run: DiffusionRun, held: Source, asked: Sequence[Any]) -> list[Images]:
    """Held-out examples of each class that is asked for; [] where no classes are."""
    if run.asks != ("label",) or not run.class_names:
        return []
    labels = labels_of(held)
    rows = [np.flatnonzero(labels == run.class_names.index(name))[:EACH] for name in asked]
    return [pictures(run, held, some) for some in rows] if all(map(len, rows)) else []


def _given(run: DiffusionRun, asked: Sequence[Any]) -> list[Images]:
    """The pictures within requests, as the model sees them where it does: reduced, or with a part hidden."""
    parts = [one.get("image") if isinstance(one, dict) else one for one in asked]
    if not all(isinstance(part, np.ndarray) for part in parts):
        return []
    entry = (run.condition.request(asked) or {}).get("image")
    if entry is not None:
        return [np.asarray(one)[None, ..., : run.image[-1]] for one in entry]
    return [np.asarray(to_unit(part))[None] for part in parts]


def _path(run: DiffusionRun, request: Any, scale: float, seed: int) -> Path:
    solver, ts, _ = run.sampler()
    if isinstance(solver, AdaptiveODE):  # it has no grid: DDIM's way is shown
        solver, ts = build.solver("ddim"), build.grid("natural", 20, run.schedule)
    keys = example_keys(seed, 0, 1)
    x1 = initial_noise(keys, (1, *run.shape), run.schedule)
    table = run.condition.request([request])
    cond = table if table is None else run.condition.drawn(table, keys)
    found = trace(run.guided(guidance_scale=scale), run.schedule, solver, x1, ts, keys, cond)
    steps = len(ts) - 1
    chosen = np.unique(np.linspace(0, steps, min(FRAMES, steps + 1)).round().astype(int))
    decode = jax.jit(lambda x: run.space.decode(run.space.frozen, x))
    states = np.stack([np.asarray(decode(found.xs[i]))[0] for i in chosen])
    guesses = np.stack([np.asarray(decode(found.x0_hats[min(i, steps - 1)]))[0] for i in chosen])
    return Path(named(run, request), np.asarray(ts)[chosen], states, guesses)


def show(run: DiffusionRun, held: Source, say: Callable[[str], None], seed: int = 0) -> Shown:
    """Draws it all; `held` are held-out examples, for what is asked and for real ones beside."""
    guides = run.condition.guides
    scale = float(run.config.sampler.guidance_scale) if guides else 1.0
    asked = _asked(run, held) if run.asks else [None]
    each = EACH if run.asks else ALONE
    say(f"drawing {len(asked) * each} samples for the page")
    samples = _tiled(run, asked, each, seed, scale, say)
    swept = asked[:: max(1, -(-len(asked) // SWEPT))][:SWEPT] if run.asks else [None]
    scales = tuple(sorted({*SCALES, scale})) if guides else ()
    sweep = []
    for value in scales:
        say(f"drawing {len(swept) * SWEPT_EACH} at guidance {value:g}")
        sweep.append(_tiled(run, swept, SWEPT_EACH, seed, value, say))
    return Shown(
        [named(run, one) for one in asked], samples, scale, _real(run, held, asked), _given(run, asked),
        [named(run, one) for one in swept], scales, np.stack(sweep, axis=1) if sweep else np.zeros(0),
        _path(run, asked[0], scale, seed),
    )  # fmt: skip


def _tiled(run: DiffusionRun, asked: Sequence[Any], each: int, seed: int, scale: float, say: Any) -> Images:
    """[requests, each, ...]: sample i of every request begins at the noise of `seed` and i."""
    return np.stack([draw(run, [one] * each, seed, say, guidance_scale=scale) for one in asked])
