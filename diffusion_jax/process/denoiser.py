"""A network, its weights and a schedule as one denoiser: (xt, t, cond) -> Prediction.

A `Denoiser` is a pytree: its weights are leaves, its functions and names are structure. It goes through `jax.jit` as an
argument, and other weights do not recompile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from diffusion_jax.process.prediction import FLOOR, KINDS, to_prediction
from diffusion_jax.typing import Params, Prediction, PyTree, Schedule, UserError, one_of, pytree_dataclass, static

__all__ = ["TIME_INPUTS", "Denoiser", "FromX0", "denoiser", "from_x0"]

TIME_INPUTS: dict[str, Callable[[Schedule, Array], Array]] = {
    "t": lambda schedule, t: t,
    "t1000": lambda schedule, t: 1000.0 * t,
    "logsnr": lambda schedule, t: schedule.logsnr(t),
    "c_noise": lambda schedule, t: -0.125 * schedule.logsnr(t),
}
"""What the network sees of the time; c_noise is EDM's ln(sigma / alpha) / 4 (arXiv 2206.00364, table 1)."""


@pytree_dataclass
class Denoiser:
    """apply(params, xt, time [batch], cond, key=, train=) read as `prediction` under `schedule`; made by `denoiser`."""

    params: Any
    schedule: Any
    key: Any
    apply: Callable[..., Any] = static()
    prediction: str = static()
    time: str = static()
    train: bool = static()

    def __call__(self, xt: Array, t: ArrayLike, cond: PyTree = None) -> Prediction:
        """The pair (x0, eps) at xt [batch, ...] and time t, a scalar or [batch]; float32 at least."""
        t = jnp.broadcast_to(jnp.asarray(t), xt.shape[:1])
        seen = TIME_INPUTS[self.time](self.schedule, t)
        output = self.apply(self.params, xt, seen, cond, key=self.key, train=self.train)
        return to_prediction(self.prediction, output, xt, t, self.schedule)


def denoiser(
    apply: Callable[..., Any],
    params: Params,
    schedule: Schedule,
    prediction: str = "v",
    time: str = "t1000",
    *,
    key: Array | None = None,
    train: bool = False,
) -> Denoiser:
    """The DenoiseFn of a network. `prediction` is one of x0, eps, v, score, velocity; `time` one of TIME_INPUTS.

    Raises UserError for another name, and for a prediction that the schedule cannot represent: where alpha(t_max) is
    0, eps and the score say nothing of x0.
    """
    one_of("prediction", prediction, KINDS)
    one_of("time", time, TIME_INPUTS)
    if prediction in ("eps", "score") and _vanishes_at_the_end(schedule):
        raise UserError(
            f"prediction {prediction!r} cannot represent t = {schedule.t_max} under {type(schedule).__name__}, "
            "where alpha is 0: take t_max=0.99, or prediction 'v'"
        )
    return Denoiser(params, schedule, key, apply, prediction, time, train)


def _vanishes_at_the_end(schedule: Schedule) -> bool:
    with jax.ensure_compile_time_eval():
        alpha = schedule.alpha(jnp.float32(schedule.t_max))
        # A schedule whose own parameters are being traced (a learned one) has no value to look at.
        return not isinstance(alpha, jax.core.Tracer) and bool(alpha <= FLOOR)


@pytree_dataclass
class FromX0:
    """A plain function (xt, t, cond) -> x0 as a DenoiseFn; made by `from_x0`."""

    schedule: Any
    fn: Callable[..., Array] = static()

    def __call__(self, xt: Array, t: ArrayLike, cond: PyTree = None) -> Prediction:
        """The pair with eps = (xt - alpha x0) / sigma."""
        return to_prediction("x0", self.fn(xt, t, cond), xt, t, self.schedule)


def from_x0(fn: Callable[..., Array], schedule: Schedule) -> FromX0:
    """The DenoiseFn of any function that estimates the clean data: fn(xt [batch, ...], t, cond) -> x0 [batch, ...].

    The function is structure: another one, or the same lambda written anew, compiles anew.
    """
    return FromX0(schedule, fn)
