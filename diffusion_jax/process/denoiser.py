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

from diffusion_jax.process.arguments import above_zero, check_function, check_schedule
from diffusion_jax.process.asking import AnyTime, an_array, ask
from diffusion_jax.process.network_time import TIME_INPUTS, looked_up
from diffusion_jax.process.precondition import c_in, from_network
from diffusion_jax.process.prediction import FLOOR, KINDS, to_prediction
from diffusion_jax.process.sde import rates
from diffusion_jax.typing import Params, Prediction, PyTree, Schedule, UserError, one_of, pytree_dataclass, static

__all__ = ["Denoiser", "FromX0", "denoiser", "from_x0"]


@pytree_dataclass
class Denoiser(AnyTime):
    """apply(params, xt, time [batch], cond, key=, train=) read as `prediction` under `schedule`; made by `denoiser`.

    `grid` is None or (times [n], what the network sees at each [n]), which `sampling` puts there, see `network_time`.
    """

    params: Any
    schedule: Any
    key: Any
    apply: Callable[..., Any] = static()
    prediction: str = static()
    time: str = static()
    train: bool = static()
    sigma_data: float = static(default=0.5)
    learned_variance: bool = static(default=False)
    grid: Any = None

    def __call__(self, xt: Array, t: ArrayLike, cond: PyTree = None) -> Prediction:
        """The pair (x0, eps) at xt [batch, ...] and time t, a scalar or [batch]; float32 at least.

        Raises UserError for an output of another shape, and for a time outside [0, 1].
        """
        t = jnp.broadcast_to(jnp.asarray(t), xt.shape[:1])
        seen = TIME_INPUTS[self.time](self.schedule, t)
        if self.grid is not None:
            times, told = self.grid
            seen = looked_up(times, told, t, seen)
        edm = self.prediction == "edm"
        x = xt * c_in(self.schedule, xt, t, self.sigma_data).astype(xt.dtype) if edm else xt
        output = an_array(self.apply, self.apply(self.params, x, seen, cond, key=self.key, train=self.train))
        variance = None
        if self.learned_variance:
            wanted = (*xt.shape[:-1], 2 * xt.shape[-1])
            if output.shape != wanted:
                raise UserError(f"a network of learned variance gives {wanted}, not {output.shape}")
            output, variance = jnp.split(output, 2, axis=-1)
            variance = variance.astype(jnp.promote_types(xt.dtype, jnp.float32))
        if edm:
            pair = from_network(output, xt, t, self.schedule, self.sigma_data)
        else:
            pair = to_prediction(self.prediction, output, xt, t, self.schedule)
        return Prediction(pair.x0, pair.eps, variance)


def denoiser(
    apply: Callable[..., Any],
    params: Params,
    schedule: Schedule,
    prediction: str = "v",
    time: str = "t1000",
    *,
    key: Array | None = None,
    train: bool = False,
    sigma_data: float = 0.5,
    learned_variance: bool = False,
) -> Denoiser:
    """The DenoiseFn of a network. `prediction` is one of x0, eps, v, score, velocity, edm; `time` one of TIME_INPUTS.

    "edm" is EDM's preconditioning around a network of data with standard deviation `sigma_data`, under any schedule.
    With `learned_variance` the network gives twice the channels: the prediction, and the place of log variance in its
    range in [-1, 1] (arXiv 2102.09672, eq. 15), for DDPM(variance="learned_range").

    Raises UserError for another name, and for a prediction that the schedule cannot represent: where alpha(t_max) is
    0, eps and the score say nothing of x0, nor does the velocity where alpha' is 0 as well.
    """
    check_function(apply, "apply", " (the order is apply, params, schedule, prediction, time)")
    check_schedule(schedule, " (the order is apply, params, schedule, prediction, time)")
    one_of("prediction", prediction, (*KINDS, "edm"))
    one_of("time", time, TIME_INPUTS)
    above_zero("sigma_data", sigma_data)
    if prediction in ("eps", "score") and _vanishes_at_the_end(schedule):
        raise UserError(
            f"prediction {prediction!r} cannot represent t = {schedule.t_max} under {type(schedule).__name__}, "
            "where alpha is 0: take t_max=0.99, or prediction 'v'"
        )
    if prediction == "velocity" and _stands_still_at_the_end(schedule):
        raise UserError(
            f"prediction 'velocity' cannot represent t = {schedule.t_max} under {type(schedule).__name__}, where alpha' and "
            "sigma' are both 0: take prediction 'v'"
        )
    return Denoiser(params, schedule, key, apply, prediction, time, train, sigma_data, learned_variance)


def _vanishes_at_the_end(schedule: Schedule) -> bool:
    with jax.ensure_compile_time_eval():
        alpha = schedule.alpha(jnp.float32(schedule.t_max))
        # A schedule whose own parameters are being traced (a learned one) has no value to look at.
        return not isinstance(alpha, jax.core.Tracer) and bool(alpha <= FLOOR)


def _stands_still_at_the_end(schedule: Schedule) -> bool:
    with jax.ensure_compile_time_eval():
        alpha_rate, sigma_rate = rates(schedule, jnp.float32(schedule.t_max))
        if isinstance(alpha_rate, jax.core.Tracer):
            return False
        return bool(jnp.abs(alpha_rate) + jnp.abs(sigma_rate) < FLOOR)


@pytree_dataclass
class FromX0(AnyTime):
    """A plain function (xt, t, cond) -> x0 as a DenoiseFn; made by `from_x0`."""

    schedule: Any
    fn: Callable[..., Array] = static()

    def __call__(self, xt: Array, t: ArrayLike, cond: PyTree = None) -> Prediction:
        """The pair with eps = (xt - alpha x0) / sigma."""
        return to_prediction("x0", an_array(self.fn, ask(self.fn, xt, t, cond)), xt, t, self.schedule)


def from_x0(fn: Callable[..., Array], schedule: Schedule) -> FromX0:
    """The DenoiseFn of any function that estimates the clean data: fn(xt [batch, ...], t, cond) -> x0 [batch, ...].

    It may be written for a scalar t or for t [batch], as any `DenoiseFn`, and is asked so. The function is structure: another
    one, or the same lambda written anew, compiles anew. Raises UserError for what is no function and no schedule.
    """
    order = " (the order is fn, schedule)"
    check_function(fn, "fn", order)
    check_schedule(schedule, order)
    return FromX0(schedule, fn)
