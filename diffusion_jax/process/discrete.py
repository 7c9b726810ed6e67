"""Schedules of a table of betas: what most pretrained networks were trained with (DDPM, arXiv 2006.11239, section 2).

Step i = 0 .. T - 1 multiplies the signal's variance by 1 - beta_i. Here step i is the time t = (i + 1) / T, and t = 0 is
clean data: log alpha((i + 1) / T) = 1/2 sum_{j <= i} log(1 - beta_j), and linear in t between. So the table is a
continuous process like any other, VPLinear with a beta(t) that is constant within each step, and any solver runs on it
at any time; at the times of the table it is the published process exactly.

Tables, T = 1000 (arXiv 2006.11239; Stable Diffusion's configuration; arXiv 2102.09672, eq. 17):

- **linear**: beta from 1e-4 to .02;
- **scaled_linear**: sqrt(beta) linear, beta from .00085 to .012;
- **cosine**: beta_i = min(1 - f(i + 1) / f(i), .999) with f(i) = cos^2((i / T + .008) / 1.008 pi / 2).

**Zero terminal SNR** (arXiv 2305.08891, algorithm 1): alpha is shifted and scaled so that alpha(1) = 0 while the first
step keeps its value. The network cannot predict eps there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffusion_jax.process.arguments import described, number, whole
from diffusion_jax.process.schedule import LOGSNR_LIMIT
from diffusion_jax.typing import UserError, one_of

__all__ = ["TABLES", "Discrete", "beta_table", "snapped"]

Times = Float[Array, "..."]

TABLES: dict[str, tuple[float, float]] = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012), "cosine": (0, 0)}
"""The published tables, with the first and the last beta of those that are lines."""

NO_SIGNAL = -120.0
"""log alpha where there is no signal left: exp is 0 in float32, and the table stays finite."""


def beta_table(
    name: str = "linear", num_steps: int = 1000, beta_start: float | None = None, beta_end: float | None = None
) -> np.ndarray:
    """A published table of betas, float64 [num_steps]; `beta_start` and `beta_end` replace its ends (not the cosine's).

    Raises UserError for an unknown name, for fewer than 2 steps, and unless 0 < beta_start <= beta_end < 1.
    """
    one_of("betas", name, TABLES)
    whole("num_steps", num_steps, 2)
    if name == "cosine":
        if beta_start is not None or beta_end is not None:
            raise UserError("the cosine table has no beta_start and beta_end")
        level = np.cos((np.arange(num_steps + 1) / num_steps + 0.008) / 1.008 * math.pi / 2) ** 2
        return np.minimum(1.0 - level[1:] / level[:-1], 0.999)
    start, end = (given if given is not None else own for given, own in zip((beta_start, beta_end), TABLES[name]))
    number(beta_start=start, beta_end=end)
    if not 0 < start <= end < 1:
        raise UserError(f"beta_start {start} and beta_end {end} must satisfy 0 < beta_start <= beta_end < 1")
    if name == "linear":
        return np.linspace(start, end, num_steps)
    return np.linspace(math.sqrt(start), math.sqrt(end), num_steps) ** 2


def _table(betas: Any) -> np.ndarray:
    try:
        return np.asarray(betas, np.float64)
    except (TypeError, ValueError):
        if isinstance(betas, jax.core.Tracer):  # JAX says why a placeholder is no table
            raise
        raise UserError(f"betas is {described(betas)}, not the name of a table or a list of numbers") from None


def snapped(t: Array, num_steps: int) -> Array:
    """T t, and the whole number itself where that is near: (i + 1) / T in floats times T may miss it by an ulp."""
    place = t * num_steps
    nearest = jnp.round(place)
    return jnp.where(jnp.abs(place - nearest) < 4 * jnp.finfo(t.dtype).eps * num_steps, nearest, place)


@jax.tree_util.register_pytree_node_class
class Discrete:
    """A table of betas as a schedule: `betas` is a name ("linear", "scaled_linear", "cosine") or the numbers themselves.

    `num_steps`, `beta_start` and `beta_end` go with a name. `zero_terminal_snr` rescales the table so that alpha(1) = 0.
    The table is a leaf: another one of the same length does not recompile. t_min is 1 / T, the first step of the table.
    Raises UserError for betas outside (0, 1), and for an unknown name.
    """

    log_alphas: Any
    clean: ClassVar[bool] = True

    def __init__(
        self,
        betas: str | Sequence[float] | ArrayLike = "linear",
        num_steps: int | None = None,
        beta_start: float | None = None,
        beta_end: float | None = None,
        zero_terminal_snr: bool = False,
    ) -> None:
        if isinstance(betas, str):
            table = beta_table(betas, 1000 if num_steps is None else num_steps, beta_start, beta_end)
        elif (num_steps, beta_start, beta_end) != (None, None, None):
            raise UserError("num_steps, beta_start and beta_end go with the name of a table, not with betas themselves")
        else:
            table = _table(betas)
        if table.ndim != 1 or len(table) < 2:
            raise UserError(f"betas have shape {table.shape}; they are a list of at least 2 numbers")
        for index, beta in enumerate(table):
            if not 0 < beta < 1:
                raise UserError(f"betas[{index}] = {beta:g} is not in (0, 1)")
        # float64 here; it becomes float32 where JAX computes in float32.
        log_alphas = 0.5 * np.concatenate([[0.0], np.cumsum(np.log1p(-table))])
        if zero_terminal_snr:
            first, last = np.exp(log_alphas[1]), np.exp(log_alphas[-1])
            rescaled = (np.exp(log_alphas[1:-1]) - last) * first / (first - last)
            log_alphas = np.concatenate([[0.0], np.log(rescaled), [NO_SIGNAL]])
        object.__setattr__(self, "log_alphas", log_alphas)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"Discrete is frozen; {name!r} cannot be set")

    def __repr__(self) -> str:
        return f"Discrete({self.num_steps} steps)"

    def tree_flatten(self) -> tuple[tuple[Any], None]:
        """The table is the one leaf."""
        return (self.log_alphas,), None

    @classmethod
    def tree_unflatten(cls, _: None, leaves: tuple[Any]) -> Discrete:
        """The schedule of a table, whatever JAX has put in its place."""
        made = object.__new__(cls)
        object.__setattr__(made, "log_alphas", leaves[0])
        return made

    @classmethod
    def from_signal(cls, signal: Sequence[float] | ArrayLike) -> Discrete:
        """The schedule of a table of alpha^2 itself (alpha-bar), [T], as published networks carry it in floats of their own.

        Raises UserError unless it has at least 2 numbers and falls strictly within (0, 1); the last may be 0.
        """
        table = _table(signal)
        if table.ndim != 1 or len(table) < 2:
            raise UserError(f"alpha-bar has shape {table.shape}; it is a list of at least 2 numbers")
        before = np.concatenate([[1.0], table[:-1]])
        for index, (value, above) in enumerate(zip(table, before, strict=True)):
            if not (0 < value < above or (value == 0 and index == len(table) - 1)):
                raise UserError(f"alpha-bar[{index}] = {value:g} is not in (0, {above:g}): it falls from step to step")
        logs = [0.5 * math.log(value) if value > 0 else NO_SIGNAL for value in table]
        return cls.tree_unflatten(None, (np.array([0.0, *logs]),))

    @property
    def num_steps(self) -> int:
        """T, the number of betas."""
        return len(self.log_alphas) - 1

    @property
    def t_min(self) -> float:
        """1 / T: the noise of the first beta."""
        return 1.0 / self.num_steps

    @property
    def t_max(self) -> float:
        """1: the noise of all betas."""
        return 1.0

    @property
    def pure_noise(self) -> bool:
        """Whether the table ends without signal. For a table of numbers, not one that JAX traces."""
        return bool(self.log_alphas[-1] <= NO_SIGNAL)

    def _table(self, dtype: Any) -> Array:
        return jnp.asarray(self.log_alphas, dtype)

    def log_alpha(self, t: ArrayLike) -> Times:
        """log alpha(t), at most 0: linear between the times of the table."""
        t = jnp.asarray(t, jnp.result_type(t, jnp.float32))
        table = self._table(t.dtype)
        place = snapped(t, self.num_steps)
        # The rate must not see the rounding: it is that of the line.
        place = jax.lax.stop_gradient(place) + (t * self.num_steps - jax.lax.stop_gradient(t * self.num_steps))
        low = jnp.clip(jnp.floor(jax.lax.stop_gradient(place)).astype(jnp.int32), 0, self.num_steps - 1)
        return table[low] + (place - low) * (table[low + 1] - table[low])

    def alpha(self, t: ArrayLike) -> Times:
        """The share of the data, in [0, 1]."""
        return jnp.exp(self.log_alpha(t))

    def sigma(self, t: ArrayLike) -> Times:
        """The standard deviation of the noise, in [0, 1]."""
        return jnp.sqrt(-jnp.expm1(2.0 * self.log_alpha(t)))

    def logsnr(self, t: ArrayLike) -> Times:
        """2 log(alpha / sigma), falling in t, within [-20, 20]."""
        log_alpha = self.log_alpha(t)
        noise = jnp.maximum(-jnp.expm1(2.0 * log_alpha), 1e-30)
        return jnp.clip(2.0 * log_alpha - jnp.log(noise), -LOGSNR_LIMIT, LOGSNR_LIMIT)

    def t_from_logsnr(self, logsnr: ArrayLike) -> Times:
        """The time of a logsnr: alpha^2 = sigmoid(logsnr), then the line between two entries of the table."""
        logsnr = jnp.asarray(logsnr, jnp.result_type(logsnr, jnp.float32))
        minus_log_alpha = 0.5 * jax.nn.softplus(-logsnr)
        table = self._table(logsnr.dtype)
        times = jnp.arange(self.num_steps + 1, dtype=logsnr.dtype) / self.num_steps
        return jnp.interp(minus_log_alpha, -table, times)
