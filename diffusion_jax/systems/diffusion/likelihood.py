"""Bits per dimension of held-out pictures under a diffusion run: the ODE's number, and the variational bound beside it.

Three numbers of each picture, given what the model is told of it and given nothing. `ode`: uniformly dequantised, by the
probability-flow ODE (`sampling.likelihood`). `vlb`: the variational bound (`process.bound`) for the same dequantised picture
as data with a density, which is looser. `levels`: the bound for the grey levels themselves, with the model's own decoder and
without dequantisation. All begin at the noise level of a cell, 2 / (levels - 1) / sqrt(12): below it the model was asked about
grey levels alone in training, and has no density in between.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.data.examples import to_unit
from diffusion_jax.process import bound, from_noise_level
from diffusion_jax.sampling.likelihood import DIVERGENCES, dequantise, log_likelihood
from diffusion_jax.sampling.sample import held, hold
from diffusion_jax.systems.diffusion.conditions.augmented import AUGMENT
from diffusion_jax.systems.diffusion.drawn import held_out
from diffusion_jax.systems.diffusion.run import DiffusionRun
from diffusion_jax.systems.diffusion.spaces import Pixels
from diffusion_jax.typing import UserError, one_of

__all__ = ["bits_per_dim"]

ROUNDS = 16
"""Estimates of the bound an example, each at one time."""


def bits_per_dim(
    run: DiffusionRun,
    split: str = "test",
    *,
    scans: int | None = None,
    divergence: str = "rademacher",
    num_probes: int = 4,
    seed: int = 0,
    batch_size: int = 90,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """{"captioned" or "told", "null"}: {"ode", "vlb", "levels", each with "_error", one standard error; "nfe"}, and settings.

    What it is told of an example, of a text its first caption, and nothing where it may be told nothing. The first `scans` of
    the split, all by default; `divergence` and `num_probes` as in `sampling.log_likelihood`. Raises UserError for a run in
    another space than pixels, for data whose source does not say its grey levels, and for settings out of range.
    """
    one_of("divergence", divergence, DIVERGENCES)
    if not isinstance(run.space, Pixels):
        raise UserError(
            f"bits per dimension are of pixels, and the run in {str(run.path)!r} works in the space "
            f"{run.config.space.name!r}"
        )
    split, data = held_out(run, split, say)
    levels = getattr(data, "levels", None)
    if levels is None:
        raise UserError(
            f"the data {run.config.data.name!r} do not say how many grey levels they have: no bits per dimension"
        )
    total = len(data) if scans is None else scans
    if not 1 <= total <= len(data):
        raise UserError(f"scans {total} are not from 1 to the {len(data)} of the {split} split")
    if batch_size < 1:
        raise UserError(f"batch_size {batch_size} is not at least 1")
    cell = 2.0 / (levels - 1)
    schedule = from_noise_level(run.schedule, cell / math.sqrt(12.0))
    found: dict[str, Any] = {
        "split": split, "scans": total, "grey_levels": levels, "uniform": math.log2(levels), "t_min": schedule.t_min,
        "divergence": divergence, "num_probes": num_probes, "seed": seed,
        "weights": run.fingerprint,
    }  # fmt: skip
    size, offset = min(batch_size, total), -math.log2(cell)
    told = "captioned" if run.asks == ("prompt",) else "told"
    has = set(run.condition.entries) - {AUGMENT}  # the labels of the augmentation say nothing of a picture
    for name in ([told] if has else []) + (["null"] if run.condition.guides or not run.asks else []):
        columns: dict[str, list[np.ndarray]] = {key: [] for key in ("ode", "vlb", "levels", "nfe")}
        for start in range(0, total, size):
            # The last batch goes on from the beginning, so that all have one shape.
            rows = (start + np.arange(size)) % total
            count = min(size, total - start)
            some = [data[int(row)] for row in rows]
            exact = to_unit(np.stack([example["image"] for example in some]))
            null = jax.tree.map(lambda leaf: np.repeat(leaf, size, axis=0), run.null)
            cond = null if name == "null" else run.told(some, exact)
            keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jnp.asarray(rows))
            x = dequantise(exact, keys, levels)
            ode = log_likelihood(
                run.denoise, schedule, x, key=keys, cond=cond, divergence=divergence, num_probes=num_probes,
                rtol=1e-4, atol=1e-4,
            )  # fmt: skip
            key = jax.random.fold_in(jax.random.key(seed), start)
            parts = {
                "ode": -ode.log_prob,
                "vlb": _bound(run.denoise, schedule, x, cond, key),
                "levels": _bound(run.denoise, schedule, exact, cond, key, levels),
            }
            entries = math.prod(exact.shape[1:])
            for part, nats in parts.items():
                bits = np.asarray(bound.bits_per_dim(nats, entries)) + (0.0 if part == "levels" else offset)
                columns[part].append(bits[:count])
            columns["nfe"].append(np.asarray(ode.nfe)[:count])
            say(f"  bits per dimension, {name}: {start + count} of {total} scans")
        joined = {part: np.concatenate(values) for part, values in columns.items()}
        found[name] = {part: float(values.mean()) for part, values in joined.items()}
        for part in ("ode", "vlb", "levels"):
            found[name][f"{part}_error"] = float(joined[part].std() / math.sqrt(total))
    return found


def _bound(denoise: Any, schedule: Any, x: Any, cond: Any, key: Any, levels: int | None = None) -> Any:
    """The bound in nats [batch], the mean of ROUNDS estimates."""
    return _estimates(hold(denoise), hold(schedule), x, cond, jax.random.split(key, ROUNDS), levels)


@functools.partial(jax.jit, static_argnames=("levels",))
def _estimates(denoise: Any, schedule: Any, x: Any, cond: Any, keys: Any, levels: int | None) -> Any:
    def one(key: Any) -> Any:
        return bound.variational_bound(held(denoise), held(schedule), x, cond, key, levels=levels).total

    return jnp.mean(jax.lax.map(one, keys), axis=0)
