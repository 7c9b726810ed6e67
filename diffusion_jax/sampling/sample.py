"""The one sampling driver: any solver over any grid, under `lax.scan`, in one compiled program.

Randomness is per example: a single key is folded with each example's index in the batch, or the caller gives a key an
example; the result is folded with the step. So a sample depends on neither the batch size nor the number of devices.
The denoiser, its weights, scales and conditions are arguments of the compiled function: changing them does not
recompile. A denoiser that is a plain function, or a schedule that is no pytree, is structure: another one compiles anew.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion_jax.sampling.grids import check_grid
from diffusion_jax.sampling.stochastic import noise_like
from diffusion_jax.typing import (
    DenoiseFn,
    Prediction,
    PyTree,
    Schedule,
    Solver,
    UserError,
    pytree_dataclass,
    static,
)

__all__ = ["Trace", "initial_noise", "sample", "trace"]

_NOISE, _STEPS = 0, 1  # what a key of an example is folded with first


@pytree_dataclass
class Trace:
    """A sample and how it came about, over a grid of n steps.

    `xs` [n + 1, batch, ...] are the states at the grid's times, the first is x1 and the last x0; `x0_hats` [n, batch,
    ...] are the clean data as the denoiser saw them first in each step; `nfe` counts the evaluations of the denoiser,
    an int32 scalar.
    """

    x0: Any
    xs: Any
    x0_hats: Any
    nfe: Any


@pytree_dataclass
class _Static:
    """Something that is no pytree, as structure."""

    value: Any = static()


def _hold(value: Any) -> Any:
    return _Static(value) if jax.tree_util.all_leaves([value]) else value


def _held(value: Any) -> Any:
    return value.value if isinstance(value, _Static) else value


def _example_keys(key: Array, batch: int) -> Array:
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)  # an old-style key of two numbers
    if key.ndim == 0:
        return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))
    if key.shape != (batch,):
        raise UserError(f"key has shape {key.shape} for a batch of {batch}: give one key, or one an example")
    return key


def _fold(keys: Array, data: int | Array) -> Array:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def initial_noise(key: Array, shape: tuple[int, ...], schedule: Schedule | None = None) -> Array:
    """x at t_max for sampling, [batch, ...] = `shape`, float32: standard normal noise times sigma(t_max).

    Without a schedule the noise has variance 1.

    `key` is one key or one an example, the same that `sample` is given: the draws are apart.
    """
    keys = _fold(_example_keys(key, shape[0]), _NOISE)
    noise = noise_like(keys, jnp.zeros(shape, jnp.float32))
    return noise if schedule is None else schedule.sigma(jnp.float32(schedule.t_max)) * noise


def _check(schedule: Schedule, x1: Array, ts: Any, cond: PyTree) -> None:
    if not isinstance(ts, jax.core.Tracer):
        check_grid(np.asarray(ts, np.float64), schedule)
    if not isinstance(x1, jax.core.Tracer) and not bool(jnp.all(jnp.isfinite(x1))):
        raise UserError("x1 holds a value that is not finite")
    for path, leaf in jax.tree_util.tree_leaves_with_path(cond):
        if jnp.shape(leaf)[:1] != x1.shape[:1]:
            raise UserError(
                f"cond{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)} for a batch of {x1.shape[0]}: "
                "its first axis is the batch"
            )


def sample(
    denoise: DenoiseFn,
    schedule: Schedule,
    solver: Solver,
    x1: Array,
    ts: Any,
    key: Array,
    cond: PyTree = None,
) -> Array:
    """x0 [batch, ...] from noise x1 [batch, ...] at ts[0], stepping down the grid `ts` [n + 1] to ts[-1].

    `key` is one key or a [batch] array of them; `cond` a pytree with leading axis batch. The state keeps the dtype of
    x1, float32 at least. Raises UserError for a grid that does not fall or leaves [t_min, t_max] (a last time of 0 is
    allowed where sigma(0) = 0), for x1 that is not finite, and for shapes that do not fit.
    """
    _check(schedule, x1, ts, cond)
    keys = _example_keys(key, x1.shape[0])
    return _sample(_hold(denoise), _hold(schedule), solver, x1, jnp.asarray(ts), keys, cond)


def trace(
    denoise: DenoiseFn,
    schedule: Schedule,
    solver: Solver,
    x1: Array,
    ts: Any,
    key: Array,
    cond: PyTree = None,
) -> Trace:
    """`sample` with its whole path; the same arguments, and the same x0."""
    _check(schedule, x1, ts, cond)
    keys = _example_keys(key, x1.shape[0])
    return _trace(_hold(denoise), _hold(schedule), solver, x1, jnp.asarray(ts), keys, cond)


def _scan(
    denoise: Any, schedule: Schedule, solver: Solver, x1: Array, ts: Array, keys: Array, cond: PyTree, keep: bool
) -> tuple[Array, Any]:
    x1 = x1.astype(jnp.promote_types(x1.dtype, jnp.float32))
    ts = ts.astype(x1.dtype)

    def body(carry: tuple[Array, Any], inputs: tuple[Array, Array, Array]) -> tuple[tuple[Array, Any], Any]:
        (x, state), (index, t, t_next) = carry, inputs
        seen: list[Array] = []

        def bound(x: Array, t: Array) -> Prediction:
            prediction = denoise(x, t, cond)
            seen.append(prediction.x0)
            return prediction

        step_keys = _fold(keys, _STEPS + index)
        x, state = solver.step(bound, schedule, x, t, t_next, step_keys, state)
        x = x.astype(x1.dtype)
        return (x, state), (x, seen[0]) if keep else None

    steps = (jnp.arange(len(ts) - 1), ts[:-1], ts[1:])
    (x0, _), path = jax.lax.scan(body, (x1, solver.init(x1)), steps)
    return x0, path


@functools.partial(jax.jit, static_argnames="solver")
def _sample(denoise: Any, schedule: Any, solver: Any, x1: Array, ts: Array, keys: Array, cond: Any) -> Array:
    return _scan(_held(denoise), _held(schedule), solver, x1, ts, keys, cond, keep=False)[0]


@functools.partial(jax.jit, static_argnames="solver")
def _trace(denoise: Any, schedule: Any, solver: Any, x1: Array, ts: Array, keys: Array, cond: Any) -> Trace:
    denoise, schedule = _held(denoise), _held(schedule)
    x0, (xs, x0_hats) = _scan(denoise, schedule, solver, x1, ts, keys, cond, keep=True)
    return Trace(x0, jnp.concatenate([x1[None].astype(xs.dtype), xs]), x0_hats, _count(solver, schedule, ts))


def _count(solver: Any, schedule: Any, ts: Array) -> Array:
    """The evaluations over a grid: what the solver says by `evaluations(schedule, ts)`, or one a step."""
    if hasattr(solver, "evaluations"):
        return solver.evaluations(schedule, ts)
    return jnp.int32(len(ts) - 1)
