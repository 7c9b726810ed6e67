"""The one sampling driver: any solver over any grid, under `lax.scan`, in one compiled program.

Randomness is per example: a single key is folded with each example's index in the batch, or the caller gives a key an
example; the result is folded with the step. So a sample depends on neither the batch size nor the number of devices.
The denoiser, its weights, scales and conditions are arguments of the compiled function: changing them does not
recompile. A denoiser that is a plain function, or a schedule or solver that is no pytree, is structure: another one
compiles anew.

t = 0 is clean data under every schedule. Where noise is left at t = 0 (VE, a learned gamma), a grid that ends there ends
by one more evaluation, whose x0 is the sample.

What a solver may have beside `init` and `step` is told by `typing.Solver`. A denoiser with a memory
(`sampling.guidance.steered`: guidance with momentum) has it carried from the beginning of each step to the next.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion_jax.process.arguments import check_schedule, described, known, typed_key
from diffusion_jax.sampling import optional
from diffusion_jax.sampling.arguments import ORDER, check_solver, checked
from diffusion_jax.sampling.carried import carried, rounded
from diffusion_jax.sampling.guidance.steered import memory_of, remembering
from diffusion_jax.sampling.steps import noise_like
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
    ...] are the clean data as the denoiser sees them from each state but the last; `nfe` counts the evaluations that made
    x0, an int32 scalar, or [batch] under an adaptive solver.
    """

    x0: Any
    xs: Any
    x0_hats: Any
    nfe: Any


@pytree_dataclass
class _Static:
    """Something that is no pytree, as structure."""

    value: Any = static()


def hold(value: Any) -> Any:
    return _Static(value) if jax.tree_util.all_leaves([value]) else value


def held(value: Any) -> Any:
    return value.value if isinstance(value, _Static) else value


def keys_by_example(key: Any, batch: int) -> Array:
    key = typed_key(key)
    if key.ndim == 0:
        return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))
    if key.shape != (batch,):
        raise UserError(f"key has shape {key.shape} for a batch of {batch}: give one key, or one an example")
    return key


def fold(keys: Array, data: int | Array) -> Array:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def initial_noise(key: Array, shape: tuple[int, ...], schedule: Schedule | None = None) -> Array:
    """x at t_max for sampling, [batch, ...] = `shape`, float32: standard normal noise times sigma(t_max).

    Without a schedule the noise has variance 1.

    `key` is one key or one an example, the same that `sample` is given: the draws are apart.
    """
    if (
        not isinstance(shape, tuple | list)
        or not shape
        or not all(isinstance(n, int | np.integer) and n > 0 for n in shape)
    ):
        shown = shape if isinstance(shape, tuple | list) else described(shape)
        raise UserError(f"shape {shown!s:.60} is not (batch, ...) in whole numbers of at least 1")
    if schedule is not None:
        check_schedule(schedule)
    keys = fold(keys_by_example(key, shape[0]), _NOISE)
    noise = noise_like(keys, jnp.zeros(shape, jnp.float32))
    return noise if schedule is None else schedule.sigma(jnp.float32(schedule.t_max)) * noise


def ends_in_noise_at(schedule: Schedule, ts: Any) -> bool | None:
    """Whether the grid goes down to t = 0 and finds noise there; None where that is not known before it runs."""
    if not known(schedule, ts):
        return None
    with jax.ensure_compile_time_eval():
        return bool(np.asarray(ts)[-1] == 0 and schedule.sigma(jnp.float32(0)) > 0)


def _run(made: Any, denoise: Any, schedule: Any, solver: Any, x1: Any, ts: Any, key: Any, cond: Any) -> Any:
    x1, ts = checked(denoise, schedule, "x1", x1, ts, cond, clean=False, order=ORDER)
    check_solver(solver)
    if known(schedule, ts):
        with jax.ensure_compile_time_eval():
            optional.check(solver, schedule, float(np.asarray(ts)[0]))
    if hasattr(solver, "check_batch"):
        solver.check_batch(x1)
    keys = keys_by_example(key, x1.shape[0])
    ends_in_noise = ends_in_noise_at(schedule, ts)
    if known(ts):
        times = rounded(ts, x1)
        denoise, ts = carried(denoise, ts, times), times
    ts = jnp.asarray(ts)
    solver = optional.over(solver, len(ts) - 1)
    return made(hold(denoise), hold(schedule), hold(solver), x1, ts, keys, cond, ends_in_noise)


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
    allowed where sigma(0) = 0), for x1 that is not finite, for shapes that do not fit, and for what is no denoiser, schedule,
    solver or key.
    """
    return _run(_sample, denoise, schedule, solver, x1, ts, key, cond)


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
    return _run(_trace, denoise, schedule, solver, x1, ts, key, cond)


def _scan(
    denoise: Any,
    schedule: Schedule,
    solver: Solver,
    x1: Array,
    ts: Array,
    keys: Array,
    cond: PyTree,
    ends_in_noise: bool | None,
    keep: bool,
) -> tuple[Array, Any, Any]:
    """(x0, the solver's last state, the path when `keep`)."""
    x1 = x1.astype(jnp.promote_types(x1.dtype, jnp.float32))
    ts = ts.astype(x1.dtype)

    def bound(x: Array, t: Array, memory: Any) -> tuple[Prediction, Any]:
        pair, memory = remembering(denoise, x, t, cond, memory)
        # A network of lower precision does not lower that of the state.
        return jax.tree.map(lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, x1.dtype)), pair), memory

    def body(carry: tuple[Array, Any, Any], inputs: tuple[Array, Array, Array]) -> tuple[tuple[Array, Any, Any], Any]:
        (x, state, memory), (index, t, t_next) = carry, inputs
        seen, after = bound(x, t, memory) if looks else (None, memory)

        def asked(y: Array, s: Array) -> Prediction:
            # A solver that begins at (x, t) itself, as most do, is given what was seen there.
            return seen if seen is not None and y is x and s is t else bound(y, s, memory)[0]

        step_keys = fold(keys, _STEPS + index)
        moved, state = solver.step(asked, schedule, x, t, t_next, step_keys, state)
        moved = moved.astype(x1.dtype)
        return (moved, state, after), (moved, seen.x0) if keep and seen is not None else None

    # A memory advances once a step, by what is seen at its beginning, whatever the solver's stages and loops.
    memory = memory_of(denoise, x1)
    looks = keep or bool(jax.tree.leaves(memory))
    steps = (jnp.arange(len(ts) - 1), ts[:-1], ts[1:])
    (x0, state, memory), path = jax.lax.scan(body, (x1, solver.init(x1), memory), steps)

    def finish(x: Array) -> Array:
        return bound(x, ts[-1], memory)[0].x0.astype(x.dtype)

    if ends_in_noise:
        x0 = finish(x0)
    elif ends_in_noise is None:
        noise_left = (ts[-1] == 0) & (schedule.sigma(jnp.zeros((), x1.dtype)) > 0)
        x0 = jax.lax.cond(noise_left, finish, lambda x: x, x0)
    if hasattr(solver, "finish"):
        x0 = solver.finish(x0)
    if keep:
        path = (path[0].at[-1].set(x0), path[1])
    return x0, state, path


@functools.partial(jax.jit, static_argnames=("ends_in_noise",))
def _sample(
    denoise: Any, schedule: Any, solver: Any, x1: Array, ts: Array, keys: Array, cond: Any, ends_in_noise: bool | None
) -> Array:
    return _scan(held(denoise), held(schedule), held(solver), x1, ts, keys, cond, ends_in_noise, keep=False)[0]


@functools.partial(jax.jit, static_argnames=("ends_in_noise",))
def _trace(
    denoise: Any, schedule: Any, solver: Any, x1: Array, ts: Array, keys: Array, cond: Any, ends_in_noise: bool | None
) -> Trace:
    denoise, schedule, solver = held(denoise), held(schedule), held(solver)
    x0, state, (xs, x0_hats) = _scan(denoise, schedule, solver, x1, ts, keys, cond, ends_in_noise, keep=True)
    nfe = _count(solver, schedule, ts, state)
    if ends_in_noise is None:
        nfe = nfe + ((ts[-1] == 0) & (schedule.sigma(jnp.zeros((), ts.dtype)) > 0)).astype(jnp.int32)
    elif ends_in_noise:
        nfe = nfe + 1
    return Trace(x0, jnp.concatenate([x1[None].astype(xs.dtype), xs]), x0_hats, nfe)


def _count(solver: Any, schedule: Any, ts: Array, state: Any) -> Array:
    """The evaluations over a grid, as the solver says, or one a step."""
    return solver.counted(state) if hasattr(solver, "counted") else optional.evaluations(solver, schedule, ts)
