"""The held-out loss by noise level: where on the way from noise to data a model is good, and what a condition tells it there.

At a fixed grid of logsnr, the middles of equal bins over what the schedule has between -10 and 10, each example is noised once,
by a noise of its own that is the same at every level, and the mean squared error of x0-hat is taken over all entries. Two
numbers put it in proportion: with no knowledge of x0 but its mean the error is the data's variance, and an example's own noisy
version, sigma / alpha eps away from it, is in error by e^-logsnr. `v` is the same error as the v-space loss counts it, times
((alpha^2 + sigma^2) / sigma)^2: near 1 is nothing learned, for data of unit variance.

The bound on the likelihood weighs these errors by half the derivative of e^logsnr (arXiv 2107.00630, equation 12).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.process.loss import loss_at
from diffusion_jax.sampling.sample import held, hold
from diffusion_jax.systems.diffusion.drawn import held_out, order, x0_of
from diffusion_jax.systems.diffusion.loss import example_keys
from diffusion_jax.systems.diffusion.run import DiffusionRun
from diffusion_jax.typing import PyTree, Schedule

__all__ = ["LEVELS", "MOST", "levels_of", "loss_by_noise"]

LEVELS, LIMIT = 12, 10.0
MOST = 1000
"""Examples at most: the error of a mean over thousands of pixels of so many is small."""
BATCH = 100
Say = Callable[[str], None]


def levels_of(schedule: Schedule) -> tuple[np.ndarray, np.ndarray]:
    """(logsnr, t), both [LEVELS], from noise to data: the middles of equal bins of what the schedule has within +-10."""
    ends = [float(schedule.logsnr(jnp.asarray(t, jnp.float32))) for t in (schedule.t_max, schedule.t_min)]
    low, high = (float(np.clip(end, -LIMIT, LIMIT)) for end in ends)
    middles = low + (high - low) * (np.arange(LEVELS) + 0.5) / LEVELS
    times = np.asarray(jax.vmap(schedule.t_from_logsnr)(jnp.asarray(middles, jnp.float32)))
    return middles, np.clip(times, schedule.t_min, schedule.t_max)


def loss_by_noise(
    run: DiffusionRun,
    *,
    split: str,
    seed: int = 0,
    say: Say = print,
    most: int = MOST,
    shared: dict[Any, Any] | None = None,
) -> dict[str, Any]:
    """{"split", "examples", "logsnr": [levels], "told" and, where there is a null, "null": {"x0": [levels], "v": [levels]}}.

    `told` are the errors given an example's own condition, `null` given nothing; `variance` is that of the data's entries
    round the mean example. The first `most` examples of the split in a fixed order.
    """
    name, data = held_out(run, split, say, shared)
    rows = order(len(data))[:most]
    examples = [data[int(row)] for row in rows]
    logsnr, times = levels_of(run.schedule)
    keys = example_keys(seed, 0, len(rows))
    errors: dict[str, list[np.ndarray]] = {}
    seen: list[np.ndarray] = []
    for start in range(0, len(rows), BATCH):
        part = slice(start, min(start + BATCH, len(rows)))
        some = examples[part]
        images = np.stack([np.asarray(example["image"]) for example in some])
        x0 = x0_of(run, images)
        seen.append(np.asarray(x0))
        given = {"told": run.told(some, images)}
        if run.condition.guides:
            given["null"] = jax.tree.map(lambda leaf: np.repeat(leaf, len(some), axis=0), run.null)  # noqa: B023
        for which, cond in given.items():
            found = _errors(hold(run.denoise), hold(run.schedule), x0, cond, keys[part], jnp.asarray(times))
            errors.setdefault(which, []).append(np.asarray(found, np.float64))
        if part.stop < len(rows) and (start // BATCH) % 3 == 2:
            say(f"  loss by noise level: {part.stop} of {len(rows)} examples")
    # v is off by (alpha^2 + sigma^2) / sigma times what x0 is, with the other sign.
    alpha, sigma = (
        np.asarray(jax.vmap(f)(jnp.asarray(times)), np.float64) for f in (run.schedule.alpha, run.schedule.sigma)
    )
    factor = ((alpha**2 + sigma**2) / sigma) ** 2
    numbers: dict[str, Any] = {
        "split": name,
        "examples": len(rows),
        "weights": run.fingerprint,
        "logsnr": [round(float(value), 4) for value in logsnr],
        "variance": float(np.concatenate(seen).astype(np.float64).var(axis=0).mean()),
    }
    for which, parts in errors.items():
        x0_error = np.concatenate(parts, axis=1).mean(axis=1)
        numbers[which] = {"x0": x0_error.tolist(), "v": (factor * x0_error).tolist()}
    return numbers


@jax.jit
def _errors(denoise: Any, schedule: Any, x0: Any, cond: PyTree, keys: Any, times: Any) -> Any:
    """The mean squared error of x0-hat, [levels, batch]."""
    eps = jax.vmap(lambda key: jax.random.normal(key, x0.shape[1:]))(keys)

    def at(t: Any) -> Any:
        ts = jnp.broadcast_to(t, x0.shape[:1])
        return loss_at(held(denoise), held(schedule), x0, eps, ts, cond, space="x0")

    return jax.lax.map(at, times)
