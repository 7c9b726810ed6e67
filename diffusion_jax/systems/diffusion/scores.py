"""The numbers of a diffusion run as a reader is told them: each with what it means, beside real pictures and blurred ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from diffusion_jax.report.numbers import number, percent
from diffusion_jax.report.page import Table, Tile

__all__ = ["MEANING", "TILED", "bits_table", "doubts", "score_table", "score_tiles"]

Numbers = Mapping[str, Any]
TILED = 500
"""Pictures and samples at least for a share to stand at the top of a page: one standard error of a share of 500 is 2.2 points
at most, and of 43 it is 7.6. As many are what `evaluate` draws when nothing is said."""
MEANING: dict[str, tuple[str, bool, str]] = {
    "frechet": (
        "Fréchet distance", False,
        "between the Gaussians of the features of both sets. It is larger for fewer samples: compare at equal numbers",
    ),
    "kernel": (
        "Kernel distance (KID)", False,
        "between the first three moments of the features, without that bias: 0 for equal distributions",
    ),
    "precision": ("Precision", True, "samples that lie among real pictures: how many look real"),
    "recall": ("Recall", True, "real pictures that lie among samples: how much of what is real is drawn"),
    "density": ("Density", False, "how deep samples lie among real pictures; 1 is as deep as real ones"),
    "coverage": ("Coverage", True, "real pictures with a sample close by"),
}  # fmt: skip
"""Of a score of the metric `samples`: its title, whether it is a share, and what it means."""


def _said(value: Any, share: bool = False) -> str:
    return "" if value is None else percent(value) if share else number(value)


def _count(scores: Numbers) -> int:
    """The rows of the smaller set."""
    return min(scores["samples"], scores["pictures"])


def _rank(scores: Numbers) -> int | None:
    """The rank of the covariances of fewer rows than features; None of more, and where the features were not counted."""
    dimensions = scores.get("dimensions")
    return _count(scores) - 1 if dimensions is not None and _count(scores) <= dimensions else None


def doubts(scores: Numbers) -> list[str]:
    """What is to be said of numbers of too few pictures, a sentence each."""
    count, rank, found = _count(scores), _rank(scores), []
    if rank is not None:
        found.append(
            f"{count:,} pictures in {scores['dimensions']:,} features: their covariances have rank {rank:,} at most, so that "
            "the Fréchet distance is of no use but beside that of as many real pictures. KID needs no covariance; more "
            "pictures, or fewer features, mend it."
        )
    if count < TILED:
        error = 50.0 / math.sqrt(count)
        found.append(f"A share (precision, recall, coverage) of {count:,} pictures is uncertain by {error:.1f} points.")
    return found


def score_table(scores: Numbers, nearest: Numbers | None) -> Table:
    """What `samples` and `nearest` found, a measure a row."""
    rows = [
        (title, *(_said(scores.get(f"{name}{ending}"), share) for ending in ("", "_real", "_blurred")), meaning)
        for name, (title, share, meaning) in MEANING.items()
    ]
    rows.append(
        (
            "Diversity",
            _said(scores.get("diversity")),
            "1",
            "",
            "mean distance between two samples, over that between two pictures",
        )
    )
    if scores.get("told") is not None:
        rows.append(
            (
                "Fidelity", f"{scores['told']:.1f} dB", "", "",
                "PSNR of samples to the pixels that they were told, reduced as those were or without what was hidden; of "
                f"samples that were told another picture {scores['told_others']:.1f} dB",
            )
        )  # fmt: skip
    if nearest and nearest["features"] == scores["features"]:  # distances in others are no row of this table
        rows.append(
            (
                "Distance to the training", _said(nearest["distance"]), _said(nearest["distance_real"]), "",
                "mean distance to the nearest training picture; far below that of real, held-out pictures is memory",
            )
        )  # fmt: skip
    caption = (
        f"{scores['samples']:,} samples at guidance {scores['guidance_scale']:g} beside {scores['pictures']:,} pictures of the "
        f"{scores['split']} split, in {scores['features']}. Real: training pictures in their place; blurred: these, blurred."
    )
    return Table(("Measure", "Samples", "Real", "Blurred", "What it means"), tuple(rows), frozenset({1, 2, 3}), caption)


def bits_table(bits: Numbers) -> Table:
    """What `--bits-per-dim` found, a column a number."""
    told = (("captioned", "Given its caption"), ("told", "Given its condition"), ("null", "Given nothing"))
    rows = tuple(
        (title, *(f"{bits[name][key]:.3f} ± {bits[name][key + '_error']:.3f}" for key in ("ode", "vlb", "levels")))
        for name, title in told
        if name in bits
    )
    caption = (
        f"Bits per dimension of {bits['scans']:,} {bits['split']} pictures of {bits['grey_levels']} grey levels: what a coder "
        f"by the model needs for an entry of a picture; {bits['uniform']:.2f} without a model."
    )
    return Table(("Picture", "By the ODE", "Bound", "Bound for levels"), rows, frozenset({1, 2, 3}), caption)


def score_tiles(measured: Numbers, bits: Numbers) -> tuple[Tile, ...]:
    """The few numbers at the top, none of them of too few pictures to say anything.

    Coverage stands for recall, which one sample far off makes large (`metrics.precision_recall`): of pure noise recall is
    100% and coverage 0. In place of a Fréchet distance of fewer pictures than features stands KID, which needs no covariance.
    """
    found: list[Tile] = []
    scores = measured.get("samples")
    if scores:
        if _rank(scores) is None:
            found.append(
                Tile("Fréchet distance", number(scores["frechet"]), f"real pictures: {number(scores['frechet_real'])}")
            )
        elif scores["kernel"] is not None:
            found.append(
                Tile(
                    "Kernel distance (KID)",
                    number(scores["kernel"]),
                    f"± {number(scores['kernel_deviation'])}; real pictures: {number(scores['kernel_real'])}",
                )
            )
        for name in ("precision", "coverage") if _count(scores) >= TILED else ():
            if scores[name] is not None:
                found.append(
                    Tile(name.capitalize(), percent(scores[name]), f"real pictures: {percent(scores[f'{name}_real'])}")
                )
        if scores.get("told") is not None:
            found.append(
                Tile(
                    "Fidelity to what was told",
                    f"{scores['told']:.1f} dB",
                    f"told another picture: {scores['told_others']:.1f} dB",
                )
            )
    nearest = measured.get("nearest")
    if nearest and nearest["ratio"] is not None:
        found.append(
            Tile("Distance to the training", number(nearest["ratio"]), "1 is as far as real, held-out pictures")
        )
    for name in ("captioned", "told", "null"):
        if name in bits:
            found.append(
                Tile("Bits per dimension", f"{bits[name]['levels']:.2f}", f"{bits['uniform']:.2f} without a model")
            )
            break
    return tuple(found)
