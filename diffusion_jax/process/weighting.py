"""Weightings of the denoising loss: one weight a method, the same in every space in which the error is measured.

At a fixed xt the pairs (x0, eps) lie on a line, alpha dx0 = -sigma deps. With the error delta along it, dx0 = sigma
delta and deps = -alpha delta, the error in each space is c delta:

| space | c |
|---|---|
| x0 | sigma |
| eps | alpha |
| v | alpha^2 + sigma^2 |
| score | alpha / sigma |
| velocity | alpha sigma' - sigma alpha' |

A paper's weight belongs to the space in which the paper measures the error. w |d_native|^2 is w (c_native / c_space)^2
|d_space|^2: so the loss is the same number in every space, for every schedule, and a weighting is chosen apart from the
space and from what the network predicts. With l = logsnr, SNR = e^l and -l' = 2 (alpha sigma' - sigma alpha') / (alpha
sigma):

| weighting | space | weight | source |
|---|---|---|---|
| simple | the loss's own | 1 | arXiv 2006.11239, eq. 14 (there on eps) |
| eps_simple | eps | 1 | the same |
| flow_matching | velocity | 1 | arXiv 2210.02747, eq. 9 |
| vlb | eps | -l' / 2 | VDM, arXiv 2107.00630, eq. 17 |
| vlb_discrete | x0 | T / 2 (SNR(t - 1/T) - SNR(t)), on eps T / 2 expm1(l(t - 1/T) - l(t)) | VDM, eq. 13 and 14 |
| likelihood | score | g^2 = -l' sigma^2 (twice vlb) | arXiv 2101.09258, section 4 |
| edm | x0 | 1 / sigma_data^2 + SNR | arXiv 2206.00364, table 1: (s^2 + sd^2) / (s sd)^2 at s = sigma / alpha |
| min_snr | x0 | min(SNR, gamma) | arXiv 2303.09556, section 3.4 |
| p2 | eps | (k + SNR)^-gamma | arXiv 2204.00227, eq. 8 |
| sigmoid | x0 | -l' e^b sigmoid(l - b) (on eps: -l' sigmoid(b - l)) | arXiv 2303.00848; 2410.19324, section 3 |

On v, min_snr is min(SNR, gamma) / ((SNR + 1) (alpha^2 + sigma^2)). The weights with -l' stand for an integral over
logsnr when t is uniform; they are for the uniform and the stratified times. The bound's weights give nats: an
example's loss, a mean over its entries, is then nats per dimension, for t over the whole of [0, 1] (times t_max - t_min
else).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion_jax.process.prediction import FLOOR, KINDS
from diffusion_jax.process.sde import rates
from diffusion_jax.typing import Schedule, UserError, one_of

__all__ = [
    "Weight",
    "Weighting",
    "edm",
    "eps_simple",
    "error_scale",
    "flow_matching",
    "likelihood",
    "min_snr",
    "p2",
    "sigmoid",
    "simple",
    "vlb",
    "vlb_discrete",
]

Times = Float[Array, "..."]


def error_scale(space: str, schedule: Schedule, t: Times) -> Times:
    """c in |d_space| = c |delta|, at least 0; `space` is one of x0, eps, v, score, velocity, t within [t_min, t_max].

    Raises UserError for another space.
    """
    one_of("space", space, KINDS)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    if space == "x0":
        return sigma
    if space == "eps":
        return alpha
    if space == "v":
        return alpha * alpha + sigma * sigma
    if space == "score":
        return alpha / jnp.maximum(sigma, FLOOR)
    alpha_rate, sigma_rate = rates(schedule, t)
    return alpha * sigma_rate - sigma * alpha_rate


@dataclasses.dataclass(frozen=True)
class Weighting:
    """`function(schedule, t, **options)` -> weights as t, of the squared error in `space`; equal by value, hashable.

    `space` None stands for whatever space the loss uses. Raises UserError for another space than those of the loss.
    """

    name: str
    space: str | None
    function: Callable[..., Array]
    options: tuple[tuple[str, float | int], ...] = ()

    def __post_init__(self) -> None:
        if self.space is not None:
            one_of(f"space of weighting {self.name!r}", self.space, KINDS)

    def in_space(self, space: str, schedule: Schedule, t: Times) -> Times:
        """The weight of the squared error in `space` at t (scalar or [batch], in [t_min, t_max]); finite at both ends.

        Raises UserError for an unknown space.
        """
        one_of("space", space, KINDS)
        native = self.function(schedule, t, **dict(self.options))
        if self.space is None or self.space == space:
            return native
        # The divisor is kept off 0 as in `prediction`: where it vanishes the error in that space vanishes with it.
        ratio = error_scale(self.space, schedule, t) / jnp.maximum(error_scale(space, schedule, t), FLOOR)
        return native * ratio**2


Weight = Weighting | Callable[[Array], Array]
"""What a loss takes: a Weighting, or a plain function of logsnr [batch] that weighs the error in the loss's space."""


def _fall(schedule: Schedule, t: Times) -> Times:
    """-logsnr' without the clip of logsnr, whose rate would be 0 beyond it."""
    area = schedule.alpha(t) * schedule.sigma(t)
    return 2.0 * error_scale("velocity", schedule, t) / jnp.maximum(area, FLOOR)


def _snr(schedule: Schedule, t: Times) -> Times:
    return jnp.exp(schedule.logsnr(t))


def _one(schedule: Schedule, t: Times) -> Times:
    return jnp.ones_like(schedule.logsnr(t))


def _vlb(schedule: Schedule, t: Times) -> Times:
    return 0.5 * _fall(schedule, t)


def _vlb_discrete(schedule: Schedule, t: Times, num_steps: int) -> Times:
    logsnr = schedule.logsnr(t)
    step = jnp.maximum(schedule.logsnr(jnp.maximum(t - 1.0 / num_steps, schedule.t_min)) - logsnr, 0.0)
    return 0.5 * num_steps * jnp.exp(logsnr) * jnp.expm1(step)


def _likelihood(schedule: Schedule, t: Times) -> Times:
    return schedule.sigma(t) ** 2 * _fall(schedule, t)


def _edm(schedule: Schedule, t: Times, sigma_data: float) -> Times:
    return 1.0 / sigma_data**2 + _snr(schedule, t)


def _min_snr(schedule: Schedule, t: Times, gamma: float) -> Times:
    return jnp.minimum(_snr(schedule, t), gamma)


def _p2(schedule: Schedule, t: Times, k: float, gamma: float) -> Times:
    return (k + _snr(schedule, t)) ** -gamma


def _sigmoid(schedule: Schedule, t: Times, bias: float) -> Times:
    return _fall(schedule, t) * jnp.exp(bias + jax.nn.log_sigmoid(schedule.logsnr(t) - bias))


def _above_zero(weighting: str, **options: float | int) -> tuple[tuple[str, float | int], ...]:
    for name, value in options.items():
        if not value > 0:
            raise UserError(f"{name} {value} of weighting {weighting!r} is not above 0")
    return tuple(options.items())


def simple() -> Weighting:
    """1 in whatever space the loss uses."""
    return Weighting("simple", None, _one)


def eps_simple() -> Weighting:
    """1 on eps: DDPM's L_simple."""
    return Weighting("eps_simple", "eps", _one)


def flow_matching() -> Weighting:
    """1 on the velocity."""
    return Weighting("flow_matching", "velocity", _one)


def vlb() -> Weighting:
    """-logsnr' / 2 on eps: VDM's bound in continuous time, in nats."""
    return Weighting("vlb", "eps", _vlb)


def vlb_discrete(num_steps: int = 1000) -> Weighting:
    """T / 2 (SNR(s) - SNR(t)) on x0, s = max(t - 1 / T, t_min): VDM's bound for T steps, in nats.

    Stated on x0, as there it is finite also at t_max where alpha is 0.
    The bound's own times are t = i / T; at times between them it is the same process cut elsewhere. Raises UserError
    for `num_steps` below 1.
    """
    return Weighting("vlb_discrete", "x0", _vlb_discrete, _above_zero("vlb_discrete", num_steps=num_steps))


def likelihood() -> Weighting:
    """g^2 on the score: Song's likelihood weighting, twice the VLB."""
    return Weighting("likelihood", "score", _likelihood)


def edm(sigma_data: float = 0.5) -> Weighting:
    """EDM's weight for data of standard deviation `sigma_data` > 0, meant for `times.log_normal`."""
    return Weighting("edm", "x0", _edm, _above_zero("edm", sigma_data=sigma_data))


def min_snr(gamma: float = 5.0) -> Weighting:
    """min(SNR, gamma) on x0, gamma > 0."""
    return Weighting("min_snr", "x0", _min_snr, _above_zero("min_snr", gamma=gamma))


def p2(k: float = 1.0, gamma: float = 1.0) -> Weighting:
    """(k + SNR)^-gamma on eps, k and gamma > 0."""
    return Weighting("p2", "eps", _p2, _above_zero("p2", k=k, gamma=gamma))


def sigmoid(bias: float = -3.0) -> Weighting:
    """The bound's integral over logsnr on eps, weighted by sigmoid(bias - logsnr) and twice as large (SiD2's form).

    A lower bias spends less on fine detail: SiD2 lowers it as the resolution rises.
    """
    return Weighting("sigmoid", "x0", _sigmoid, (("bias", bias),))
