"""Lower orders in a multi-step solver's last steps.

Towards clean data the predictions change fast in lambda, and a polynomial through the last ones swings; with few steps the last
ones are better of a lower order (DPM-Solver++, arXiv 2211.01095, appendix; UniPC, arXiv 2302.04867, section 4). `final_orders`
is the highest order of the last step, of the one before it, and so on: (1, 2) goes down by one a step, (1,) ends with a step
of first order. Which step is the last one, the grid says: `num_steps` is filled in by `sample`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from diffusion_jax.sampling.steps import check_order
from diffusion_jax.typing import UserError

__all__ = ["Ending"]


class Ending:
    """For frozen dataclasses with the fields `order`, `final_orders` and `num_steps`."""

    order: int
    final_orders: tuple[int, ...]
    num_steps: int | None

    def _check_ending(self) -> None:
        """UserError unless final_orders are orders of this solver."""
        if not isinstance(self.final_orders, tuple):
            raise UserError(
                f"final_orders {self.final_orders!r} of {type(self).__name__} is not a tuple such as (1, 2)"
            )
        for order in self.final_orders:
            check_order(self, order, 3)

    def over(self, num_steps: int) -> Any:
        """This solver for a grid of `num_steps` steps."""
        if not self.final_orders or self.num_steps:
            return self
        return dataclasses.replace(self, num_steps=num_steps)  # type: ignore[type-var]

    def _highest(self, made: Array) -> Array:
        """The highest order of the step that makes, or made, prediction number `made`, from 1; an int32 scalar.

        Raises UserError without num_steps.
        """
        if not self.final_orders:
            return jnp.int32(self.order)
        if self.num_steps is None:
            raise UserError(f"{type(self).__name__} ends by final_orders: give num_steps, or use `sample`")
        limits = jnp.asarray([*(min(order, self.order) for order in self.final_orders), self.order], jnp.int32)
        return limits[jnp.clip(self.num_steps - made, 0, len(self.final_orders))]
