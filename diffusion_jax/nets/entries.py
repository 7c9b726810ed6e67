"""What every network asks of the condition that a run brings it: before it has sizes, and of each of its entries."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Array

from diffusion_jax.typing import UserError

__all__ = ["check_entries", "entry"]


def entry(cond: dict[str, Array] | None, name: str) -> Array:
    """An entry of a condition. UserError for one that is missing."""
    if cond is None or name not in cond:
        given = "none" if not cond else ", ".join(sorted(cond))
        raise UserError(f"this network needs a condition with {name!r}; given: {given}")
    return cond[name]


def check_entries(
    what: str, shape: tuple[int, ...], entries: Mapping[str, tuple[int, ...]], counts: Mapping[str, int]
) -> None:
    """UserError for labels of unknown number, and for an image of another size than the examples, of this `shape`.

    `entries` are the shapes of the condition's, `counts` says of those that are indices how many there are; `what` is the
    network in the message, "a DiT".
    """
    if "label" in entries and "label" not in counts:
        raise UserError(
            f"{what} reads 'label' by a table: the condition does not say in `counts` how many rows it has, {{'label': "
            "classes + 1}"
        )
    image = entries.get("image")
    if image is not None and (len(image) != 3 or image[:2] != tuple(shape[:2])):
        raise UserError(
            f"{what} joins 'image' by channels to pictures {tuple(shape)}: the condition's has the shape {tuple(image)}, "
            f"not {(*shape[:2], 'channels')}"
        )
