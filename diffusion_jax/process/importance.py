"""Times drawn where the loss is large: importance sampling by its second moment (arXiv 2102.09672, eq. 18).

The estimate of a loss E_t L(t) from times of density p_t with weight 1 / p_t is unbiased for every p; its variance is
least for p_t proportional to sqrt(E[L_t^2]). The interval is cut into bins; each remembers its last losses, and

    p_b = (1 - share) sqrt(mean L_b^2) / sum_b sqrt(mean L_b^2) + share / bins.

Until every bin has a full history, p is uniform. With sum_b p_b = 1 the weight of a time in bin b is 1 / (p_b bins).
The times are stratified under p: u_i, one in each n-th of [0, 1], goes through the inverse of p's distribution
function, which is piecewise linear.

The state is {"history": [bins, history], "count": [bins]}: a bin's `count` oldest losses come first, the newest last.
Under jit the batch is the global one, so that the state is the same on every device.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffusion_jax.process.times import strata
from diffusion_jax.typing import Schedule, UserError

__all__ = ["Importance"]

State = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Importance:
    """`bins` parts of [t_min, t_max], each with its last `history` losses; a share `uniform` of the times is uniform.

    Raises UserError unless bins and history are at least 1 and 0 < uniform <= 1 (with 0 a bin might never be drawn).
    """

    bins: int = 100
    history: int = 10
    uniform: float = 0.001

    def __post_init__(self) -> None:
        for name in ("bins", "history"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise UserError(f"{name} {value!r} of importance is not a whole number of at least 1")
        if not 0 < self.uniform <= 1:
            raise UserError(f"uniform {self.uniform} of importance is not a share in (0, 1]; usual is 0.001")

    def init(self) -> State:
        """The state before the first loss."""
        return {
            "history": jnp.zeros((self.bins, self.history), jnp.float32),
            "count": jnp.zeros((self.bins,), jnp.int32),
        }

    def probabilities(self, state: State) -> Float[Array, " bins"]:
        """p of each bin, with sum 1: uniform until every history is full, or while all losses are 0."""
        moment = jnp.sqrt(jnp.mean(state["history"] ** 2, axis=1))
        total = jnp.sum(moment)
        ready = jnp.all(state["count"] == self.history) & (total > 0)
        share = jnp.where(ready, moment / jnp.where(ready, total, 1.0), 1.0 / self.bins)
        return (1.0 - self.uniform) * share + self.uniform / self.bins

    def sample(
        self, state: State, key: Array, n: int, schedule: Schedule
    ) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """(t, weight), both [n]: times in [t_min, t_max], and what each loss is multiplied by to stay unbiased."""
        p = self.probabilities(state)
        ends = jnp.cumsum(p)
        ends = ends / ends[-1]
        u = strata(key, n)
        chosen = jnp.clip(jnp.searchsorted(ends, u, side="right"), 0, self.bins - 1)
        starts = jnp.concatenate([jnp.zeros(1), ends[:-1]])
        within = jnp.clip((u - starts[chosen]) / (ends - starts)[chosen], 0.0, 1.0)
        t = schedule.t_min + (schedule.t_max - schedule.t_min) * (chosen + within) / self.bins
        return jnp.clip(t, schedule.t_min, schedule.t_max), 1.0 / (p[chosen] * self.bins)

    def bin_of(self, t: Float[Array, " n"], schedule: Schedule) -> Int[Array, " n"]:
        """The bin of each time."""
        place = (t - schedule.t_min) / (schedule.t_max - schedule.t_min) * self.bins
        return jnp.clip(jnp.floor(place), 0, self.bins - 1).astype(jnp.int32)

    def update(self, state: State, t: Float[Array, " n"], loss: Float[Array, " n"], schedule: Schedule) -> State:
        """The state after the losses [n] at times t [n], without their weights: as if appended one by one, in order.

        A pure function for jit; no gradient goes through it.
        """
        loss = jax.lax.stop_gradient(loss).astype(jnp.float32)
        bins = self.bin_of(t, schedule)
        new = jnp.zeros_like(state["count"]).at[bins].add(1)
        # How many losses of the same bin stand before each: its place among the equals in a stable order.
        order = jnp.argsort(bins, stable=True)
        ordered = bins[order]
        rank = jnp.arange(len(t)) - jnp.searchsorted(ordered, ordered, side="left")
        # Old and new in a row, of which the first `surplus` are forgotten.
        surplus = jnp.maximum(state["count"] + new - self.history, 0)
        kept = jnp.minimum(jnp.arange(self.history)[None] + surplus[:, None], self.history - 1)
        history = jnp.take_along_axis(state["history"], kept, axis=1)
        place = (state["count"] - surplus)[ordered] + rank
        place = jnp.where(place < 0, self.history, place)  # forgotten at once: out of range, and so dropped
        history = history.at[ordered, place].set(loss[order], mode="drop")
        return {"history": history, "count": jnp.minimum(state["count"] + new, self.history)}
