"""Prompt templates for zero-shot classification, by name.

A template has one `{}`, where the class name goes. "photo" is the single prompt of arXiv 2103.00020, section 3.1.4, and
"seven" the short ensemble that its authors chose for ImageNet by forward selection among their eighty; the others say
what kind of thing the classes are, which the same section found to help on narrow sets. Any other tuple of strings does
as well: the functions of `metrics.zero_shot` take the strings, not the names.
"""

from __future__ import annotations

from diffusion_jax.typing import one_of

__all__ = ["TEMPLATES", "templates"]

TEMPLATES: dict[str, tuple[str, ...]] = {
    "plain": ("{}",),
    "photo": ("a photo of a {}.",),
    "seven": (
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    ),
    "actions": ("a photo of a person {}.", "a video of a person {}."),
    "aircraft": ("a photo of a {}, a type of aircraft.", "a photo of the {}, a type of aircraft."),
    "cars": ("a photo of a {}.", "a photo of the {}.", "a photo of a clean {}.", "a photo of a dirty {}."),
    "digits": ('a photo of the number: "{}".',),
    "flowers": ("a photo of a {}, a type of flower.",),
    "food": ("a photo of {}, a type of food.",),
    "pets": ("a photo of a {}, a type of pet.",),
    "satellite": ("a satellite photo of {}.", "a satellite photo of a {}.", "a satellite photo of the {}."),
    "scenes": ("a photo of a {}.", "a photo of the {}."),
    "textures": ("a photo of a {} texture.", "a photo of a {} pattern.", "a photo of a {} thing."),
}
"""Templates by name."""


def templates(name: str) -> tuple[str, ...]:
    """The templates of that name. Raises UserError, with the nearest name, when there are none."""
    return TEMPLATES[one_of("templates", name, TEMPLATES)]
