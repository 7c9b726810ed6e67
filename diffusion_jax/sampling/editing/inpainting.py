"""Filling in what is missing: the known entries of an image are given, any solver finds the rest.

- **Replacement** (score SDE, arXiv 2011.13456, appendix I.2): after each step down to s the known entries are overwritten by
  alpha_s known + sigma_s z with fresh noise z. The step before saw them at one noise level only and could not take the
  unknown ones along, so the result agrees with the known entries less than the data do.
- **RePaint** (arXiv 2201.09865, algorithm 1): each interval from t to s is walked `repeats` times. Between two walks the
  state goes back up by the forward process itself,

      x_t = (alpha_t / alpha_s) x_s + sqrt(sigma_t^2 - (alpha_t sigma_s / alpha_s)^2) z,

  which leaves the marginals as they are: the walks are a Markov chain, in which the unknown entries settle beside the
  known ones. An interval is cut in `substeps` inner steps, equal in t: the paper's jump length.

Even an endless chain is not exact at one noise level, as a step down sees the known entries only with their noise; the
levels near the data, where there is little, set it right. An interval that ends in clean data is walked once.

With `noise` z is that same draw after every step, and where the solver asks within one: the known entries stay on one path of
the forward process, as Stable Diffusion's inpainting has them.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion_jax.process.arguments import data, known
from diffusion_jax.process.sde import noised
from diffusion_jax.sampling import optional
from diffusion_jax.sampling.around import Around
from diffusion_jax.sampling.sample import fold
from diffusion_jax.sampling.steps import Denoise, noise_like, renoise
from diffusion_jax.typing import Prediction, Schedule, UserError, pytree_dataclass, static

__all__ = ["Inpaint", "within"]

_SOLVER, _KNOWN, _BACK = 0, 1, 2  # what a step's key is folded with: the three kinds of draws are apart


def within(t: Array, t_next: Array, count: int) -> Array:
    """[count + 1] times from t to t_next, both exact, equally spaced."""
    t, t_next = jnp.asarray(t), jnp.asarray(t_next)
    share = jnp.arange(1, count, dtype=t.dtype) / count
    return jnp.concatenate([t[None], t + (t_next - t) * share, t_next[None]])


@pytree_dataclass
class Inpaint(Around):
    """`solver` beside known entries: `known` [batch or 1, ...], `mask` bool of the same shape, True where known.

    The mask's last axis may be 1, for all channels alike, and its first. `known` counts only where the mask is True. In the
    sample these entries are those of `known`, bit for bit. Both are leaves: another image or mask does not recompile.
    `noise` [batch, ...] is what they are noised with, instead of a draw a step.
    `repeats` = 1 is plain replacement; above 1 it is RePaint, and the solver's memory begins anew with each walk. A grid of
    n steps costs about n * substeps * repeats steps of the solver.

    Raises UserError for a solver with error control (noise is put in between its steps) or with arrays of its own, unless
    repeats and substeps are whole numbers of at least 1, and, when it meets the batch, for shapes that do not fit and a mask
    that is not boolean.
    """

    solver: Any = static()
    known: Any
    mask: Any
    repeats: int = static(default=1)
    substeps: int = static(default=1)
    noise: Any = None

    deterministic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self._check_inner()
        for name in ("repeats", "substeps"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < 1:
                raise UserError(f"{name} {value!r} of Inpaint is not a whole number of at least 1; nearest: 1")

    def check_batch(self, x1: Array) -> None:
        """UserError where `known` or `mask` does not fit x1 [batch, ...], and for a mask that is not boolean."""
        dtype = getattr(self.mask, "dtype", None)
        if dtype is None or dtype.kind != "b":
            raise UserError(
                f"mask of Inpaint is {dtype or type(self.mask).__name__}, not an array of booleans: True = known"
            )
        _check_known(self.known, self.mask)
        size, shape = x1.shape[0], x1.shape[1:]
        if jnp.shape(self.known) not in ((1, *shape), (size, *shape)):
            raise UserError(
                f"known of Inpaint has shape {jnp.shape(self.known)} for a batch of shape {x1.shape}: its first axis is "
                f"{size} or 1, the others are equal"
            )
        if self.noise is not None and jnp.shape(self.noise) != x1.shape:
            raise UserError(f"noise of Inpaint has shape {jnp.shape(self.noise)} for a batch of shape {x1.shape}")
        fits = (
            {(first, *shape[:-1], last) for first in (1, size) for last in (1, *shape[-1:])}
            if shape
            else {(1,), (size,)}
        )
        if self.mask.shape not in fits:
            raise UserError(
                f"mask of Inpaint has shape {self.mask.shape} for a batch of shape {x1.shape}: its first axis is {size} "
                f"or 1, its last {shape[-1] if shape else size} or 1, the others are equal"
            )

    def over(self, num_steps: int) -> Inpaint:
        """This solver for a grid of `num_steps` steps, which the inner one sees in its substeps."""
        return dataclasses.replace(self, solver=optional.over(self.solver, num_steps * self.substeps))

    def init(self, x: Array) -> Any:
        """The solver's state; none where each walk begins anew."""
        return self.solver.init(x) if self.repeats == 1 else ()

    def step(
        self, denoise: Denoise, schedule: Schedule, x: Array, t: Array, t_next: Array, key: Array, state: Any
    ) -> tuple[Array, Any]:
        """x [batch, ...] at t -> x at t_next < t, its known entries at the noise of t_next; key [batch]."""
        self.check_batch(x)
        if self.repeats == 1:
            return self._walk(denoise, schedule, x, t, t_next, key, 0, state)

        def anew(x: Array, walk: int | Array) -> Array:
            return self._walk(denoise, schedule, x, t, t_next, key, walk, self.solver.init(x))[0]

        def again(x: Array, walk: Array) -> tuple[Array, None]:
            noise = noise_like(fold(fold(key, _BACK), walk), x)
            return anew(renoise(schedule, x, t_next, t, noise), walk), None

        def rest(x: Array) -> Array:
            return jax.lax.scan(again, x, jnp.arange(1, self.repeats))[0]

        return jax.lax.cond(schedule.sigma(t_next) > 0, rest, lambda x: x, anew(x, 0)), state

    def _walk(
        self,
        denoise: Denoise,
        schedule: Schedule,
        x: Array,
        t: Array,
        t_next: Array,
        key: Array,
        walk: int | Array,
        state: Any,
    ) -> tuple[Array, Any]:
        """Once down the interval, in substeps."""

        def down(x: Array, state: Any, t: Array, t_next: Array, place: int | Array) -> tuple[Array, Any]:
            inner = fold(fold(key, _SOLVER), place)

            def asked(y: Array, s: Array) -> Prediction:
                if self.noise is None or s is t:
                    return denoise(y, s)
                known = jnp.broadcast_to(jnp.asarray(self.known, y.dtype), y.shape)
                return denoise(jnp.where(self.mask, noised(schedule, known, jnp.asarray(self.noise, y.dtype), s), y), s)

            moved, state = self.solver.step(asked, schedule, x, t, t_next, inner, state)
            moved = moved.astype(x.dtype)
            if self.noise is None:
                noise = noise_like(fold(fold(key, _KNOWN), place), moved)
            else:
                noise = jnp.asarray(self.noise, moved.dtype)
            known = jnp.broadcast_to(jnp.asarray(self.known, moved.dtype), moved.shape)
            return jnp.where(self.mask, noised(schedule, known, noise, t_next), moved), state

        if self.substeps == 1:
            return down(x, state, t, t_next, walk)
        times = within(t, t_next, self.substeps)

        def body(carry: tuple[Array, Any], inputs: tuple[Array, Array, Array]) -> tuple[tuple[Array, Any], None]:
            index, start, end = inputs
            return down(*carry, start, end, walk * self.substeps + index), None

        return jax.lax.scan(body, (x, state), (jnp.arange(self.substeps), times[:-1], times[1:]))[0]

    def finish(self, x0: Array) -> Array:
        """x0 as the solver ends it, with the known entries as they were given."""
        x0 = super().finish(x0)
        return jnp.where(self.mask, jnp.asarray(self.known, x0.dtype), x0)

    def evaluations(self, schedule: Schedule, ts: Array) -> Array:
        """The solver's, over all substeps of all walks."""
        fine = jax.vmap(within, (0, 0, None))(ts[:-1], ts[1:], self.substeps)
        if self.repeats == 1:
            return optional.evaluations(self.solver, schedule, jnp.append(fine[:, :-1].reshape(-1), ts[-1]))
        walks = jnp.where(schedule.sigma(ts[1:]) > 0, self.repeats, 1)
        each = jax.vmap(lambda times: optional.evaluations(self.solver, schedule, times))(fine)
        return jnp.sum(walks * each, dtype=jnp.int32)


def _check_known(values: Any, mask: Any) -> None:
    """UserError for known entries that are no floats, not finite, or far outside [-1, 1]; the others may be anything."""
    if known(values, mask) and getattr(getattr(values, "dtype", None), "kind", "") == "f":
        try:
            values = np.where(np.asarray(mask), np.asarray(values), 0.0)
        except ValueError:
            return  # shapes that do not fit, which is said elsewhere
    data("known of Inpaint", values, clean=True)
