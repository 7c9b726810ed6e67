"""What the page of a diffusion run shows of it: samples by request, at several guidance scales, and one sample's way.

All is drawn anew from the run, with one seed: place by place the same noise, whatever is asked and however it is guided.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from diffusion_jax import build
from diffusion_jax.data.examples import raw, to_unit
from diffusion_jax.data.labels import labels_of
from diffusion_jax.sampling import AdaptiveODE, initial_noise, trace
from diffusion_jax.systems.diffusion.drawn import draw, order, pictures, requests, shape_shown
from diffusion_jax.systems.diffusion.loss import example_keys
from diffusion_jax.systems.diffusion.run import DiffusionRun
from diffusion_jax.typing import Source

__all__ = ["SCALES", "Path", "Shown", "can_show", "named", "show"]

SCALES = (1.0, 2.0, 3.0, 5.0)
GROUPS, EACH, ALONE = 10, 8, 36
"""Requests at most, samples of each, and samples of a model that draws unasked."""
SWEPT, SWEPT_EACH = 4, 4
FRAMES = 8
LOOKED_AT = 2000
"""Held-out examples at most among whose captions those that are asked for are sought."""
PAUSE = 5.0
"""Seconds between two lines of progress."""
Images = np.ndarray
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Path:
    """One sample from noise to data: some of its states and of what the model made of them, by their times."""

    name: str
    times: np.ndarray
    states: Images
    guesses: Images


@dataclasses.dataclass(frozen=True, eq=False)
class Shown:
    """Images as the run draws them. `samples` [requests, n, ...] at `scale`, beside `real` ones of the same class or caption,
    or of all for a model that draws unasked; a group of `real` may be empty, and there is none where nothing corresponds.

    `names` are the requests as texts, "" for pictures alone. `told` are the pictures within them, by what each is: "asked
    with", as the model sees it where it does, and "real" where that is less than the whole; {} where none are. `sweep` [rows,
    scales, n, ...], of the requests `swept`, is empty for a model that nothing guides.
    """

    names: list[str]
    samples: Images
    scale: float
    real: list[Images]
    told: Mapping[str, list[Images]]
    swept: list[int]
    scales: tuple[float, ...]
    sweep: Images
    path: Path


def named(run: DiffusionRun, request: Any) -> str:
    """A request as a reader is told it: a class by its name, a text in quotes, several together; "" of pictures."""
    if isinstance(request, dict):
        return ", ".join(name for value in request.values() if (name := named(run, value)))
    classes = run.class_names
    if isinstance(request, int | np.integer):
        return classes[int(request)] if int(request) < len(classes) else str(request)
    if isinstance(request, str):
        return request if request in classes else f"“{request}”"
    return ""


def can_show(run: DiffusionRun, held: Source | None) -> bool:
    """Whether there is something to ask for: of captions and of pictures it takes held-out examples."""
    return held is not None or not run.asks or (run.asks == ("label",) and bool(run.class_names))


def _asked(run: DiffusionRun, held: Source | None) -> list[Any]:
    """What the page draws: each class, or the prompts that training showed, or what some held-out examples are."""
    classes = run.class_names
    if not run.asks:
        return [None]
    if run.asks == ("label",) and classes:
        return [classes[i] for i in np.unique(np.linspace(0, len(classes) - 1, min(GROUPS, len(classes))).astype(int))]
    assert held is not None
    if len(run.asks) == 1 and run.asks != ("image",):
        return _different(run.condition.shown(held, held))[:GROUPS]
    return requests(run, held, order(len(held))[:SWEPT])


def _different(asked: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for one in asked:
        if one not in found:
            found.append(one)
    return found


def _real(run: DiffusionRun, held: Source | None, asked: Sequence[Any]) -> list[Images]:
    """Held-out examples of each class or caption that is asked for, and some of all of a model that draws unasked."""
    if held is None:
        return []
    if not run.asks:
        rows = [order(len(held))[:ALONE]]
    elif run.asks == ("label",) and run.class_names:
        labels = labels_of(held)
        rows = [np.flatnonzero(labels == run.class_names.index(name))[:EACH] for name in asked]
    elif run.asks == ("prompt",):
        source = raw(held)
        texts = [set(source[i].get("captions") or ()) for i in range(min(len(source), LOOKED_AT))]
        rows = [np.flatnonzero([prompt in told for told in texts])[:EACH] for prompt in asked]
    else:
        rows = []
    none = np.zeros((0, *shape_shown(run)), np.float32)
    found = [pictures(run, held, some) if len(some) else none for some in rows]
    return found if any(map(len, found)) else []


def _told(run: DiffusionRun, asked: Sequence[Any]) -> dict[str, list[Images]]:
    """The pictures within requests: as the model sees them where it does, reduced or with a part hidden, and whole."""
    parts = [one.get("image") if isinstance(one, dict) else one for one in asked]
    if not all(isinstance(part, np.ndarray) for part in parts):
        return {}
    whole = [np.asarray(to_unit(part))[None] for part in parts]
    entry = (run.condition.request(asked) or {}).get("image")
    if entry is None:
        return {"asked with": whole}
    return {"asked with": [np.asarray(one)[None, ..., : run.image[-1]] for one in entry], "real": whole}


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


def show(run: DiffusionRun, held: Source | None, say: Say, seed: int = 0) -> Shown:
    """Draws it all; `held` are held-out examples, for what is asked and for real ones beside, None where there are none."""
    guides = run.condition.guides
    scale = float(run.config.sampler.guidance_scale) if guides else 1.0
    asked = _asked(run, held)
    each = EACH if run.asks else ALONE
    swept = list(range(0, len(asked), max(1, -(-len(asked) // SWEPT))))[:SWEPT]
    scales = tuple(sorted({*SCALES, scale})) if guides else ()
    total = len(asked) * each + len(scales) * len(swept) * SWEPT_EACH
    say(f"drawing {total} samples for the page")
    drawer = _Drawer(run, seed, total, say)
    samples = drawer(asked, each, scale)
    sweep = [drawer([asked[row] for row in swept], SWEPT_EACH, value) for value in scales]
    return Shown(
        [named(run, one) for one in asked], samples, scale, _real(run, held, asked), _told(run, asked),
        swept, scales, np.stack(sweep, axis=1) if sweep else np.zeros(0), _path(run, asked[0], scale, seed),
    )  # fmt: skip


@dataclasses.dataclass
class _Drawer:
    """Draws [requests, each, ...]: sample i of every request begins at the noise of `seed` and i. Says how far it is."""

    run: DiffusionRun
    seed: int
    total: int
    say: Say
    done: int = 0
    said: float = dataclasses.field(default_factory=time.monotonic)

    def __call__(self, asked: Sequence[Any], each: int, scale: float) -> Images:
        found = []
        for one in asked:
            found.append(draw(self.run, [one] * each, self.seed, self.say, guidance_scale=scale))
            self.done += each
            if time.monotonic() - self.said >= PAUSE and self.done < self.total:
                self.said = time.monotonic()
                self.say(f"  drawn: {self.done} of {self.total} samples")
        return np.stack(found)
