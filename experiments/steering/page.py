"""The page of the study: guidance side by side, then what can be edited, each with the number beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusion_jax.files import write_atomic
from diffusion_jax.report.figures import Chart, Series, bars, image_grid, line_chart, sheet_png
from diffusion_jax.report.numbers import percent
from diffusion_jax.report.page import Block, Columns, Figure, Page, Section, Table, Tile, write_page

PANELS = (
    ("Ways to join two predictions", ("classifier-free", "APG", "CFG++", "CFG-Zero*")),
    ("Limits to the push", ("classifier-free", "interval", "rescaled 0.7", "dynamic threshold")),
    ("Other guides", ("classifier-free", "autoguidance", "CLIP gradient")),
)


def share(value: float) -> str:
    """A share in whole percent: one standard error is more."""
    return percent(value, 0)


def write(path: Path, out: dict[str, Any], pictures: dict[str, dict[str, Any]]) -> Path:
    """The page at `path`, of the numbers and pictures of the study."""
    sections = (
        Section("Guidance, method by method", _guidance(out, pictures["compare"])),
        Section("Saying what not to draw", _negative(out["negative"], pictures["negative"])),
        Section("Two prompts at once", _composition(out["composition"], pictures["composition"])),
        Section("From one image to another", _img2img(out["img2img"], pictures["image_to_image"])),
        Section("Drawing the missing half", _inpainting(out["inpainting"], pictures["inpainting"])),
        Section("Seeing through a blur", _inverse(out["inverse"], pictures["inverse"])),
        Section("Between two noises", (_walks(pictures["paths"]),)),
        Section("There and back", _inversion(out["inversion"], pictures["paths"])),
        Section("How likely are real scans?", _likelihood(out["bits_per_dim"])),
    )
    page = Page(
        title="Steering, scoring, editing",
        lead=(
            "One trained model of handwritten digits, steered in ten ways at the same cost, and put to the tasks that "
            f"start from an image: {out['evaluations']} calls of the network a sample, judged on what the prompt says and on "
            "how various the answers are."
        ),
        tiles=_tiles(out),
        sections=sections,
        foot=f"Written by experiments/steering in {out['seconds']:.0f} s, {out['split']} scans, seed {out['seed']}.",
    )
    return write_page(path, page)


def save_picture(path: Path, pictures: dict[str, dict[str, Any]]) -> Path:
    """Guidance, img2img, inpainting and a walk on one sheet, as a PNG for the docs."""
    made, filled, walks = pictures["image_to_image"], pictures["inpainting"], pictures["paths"]
    rows = {
        "scans of threes": made["source"],
        "drawn again as “an eight”, strength 0.4": made["0.4"],
        "strength 0.8": made["0.8"],
        "scans of which the upper half is known": filled["scan"],
        "RePaint, told the digit": filled["RePaint, prompt"],
        "a walk between two noises, “a bold two”": walks["a bold two"],
        "“a three” and “a six” at once": pictures["composition"]["a three and a six"],
    }
    cells = [[images[:8]] for images in rows.values()]
    return write_atomic(path, sheet_png(cells, list(rows), [""], per_line=8, scale=8))


def _best(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return max(rows, key=lambda row: row["right"])


def _tiles(out: dict[str, Any]) -> tuple[Tile, ...]:
    plain = next(row for row in out["guidance"] if row["method"] == "no guidance")
    best, negative = _best(out["guidance"]), out["negative"][0]
    back = next(row for row in out["inversion"] if row["steps"] == 50 and not row["refinements"])
    bits = out["bits_per_dim"]["captioned"]
    return (
        Tile("All three words right", share(best["right"]), f"{best['method']}; {share(plain['right'])} unguided"),
        Tile("Thin, negative prompt", share(negative["with"]), f"{share(negative['without'])} without it"),
        Tile("Round trip, 50 steps", f"{back['psnr']:.1f} dB", "scan to noise and back", back["psnr"] >= 30),
        Tile("Bits per dimension", f"{bits['ode']:.2f}", f"bound {bits['vlb']:.2f}", bits["vlb"] >= bits["ode"]),
    )


def _guidance(out: dict[str, Any], pictures: dict[str, Any]) -> tuple[Block, ...]:
    rows = out["guidance"]
    plain = next(row for row in rows if row["method"] == "no guidance")
    figures = []
    for title, names in PANELS:
        lines = []
        for colour, name in zip(("s1", "s2", "s3", "s4"), names, strict=False):
            chosen = [plain, *(row for row in rows if row["method"] == name)]
            xs, ys = [row["variety"] for row in chosen], [row["right"] for row in chosen]
            lines.append(Series(name, xs, ys, colour, marks=True))
        said = "; ".join(
            f"{row['method']} {row['scale']:g}: {share(row['right'])}, {row['variety']:.2f}" for row in rows
        )
        chart = Chart(tuple(lines), "variety, 1 is as real scans", "digit, weight and lean as asked", percent=True)
        figures.append(
            line_chart(
                chart,
                title=title,
                alt=f"{title}: accuracy against variety. {said}.",
                caption="Each line leaves the unguided model (one point for all) and gets stronger along the way. "
                "Up is what the prompt says, right is variety: up and right is better.",
            )
        )
    table = Table(
        ("Method", "Scale", "Steps", "All right", "Digit right", "Variety", "Out of range"),
        tuple(
            (
                row["method"], f"{row['scale']:g}", str(row["steps"]), share(row["right"]), share(row["digit"]),
                f"{row['variety']:.2f}", f"{100 * row['beyond']:.1f}%",
            )
            for row in rows
        ),
        numeric=frozenset(range(1, 7)),
        caption="270 samples a row for what is right, 200 for variety. Out of range: pixels beyond 1.05 in size. "
        "The CLIP gradient asks the CLIP model besides. "
        "One standard error of a share is about 3 points.",
    )  # fmt: skip
    grid = image_grid(
        [[images] for images in pictures.values()],
        list(pictures),
        ["“a bold seven leaning right”, the same noise in every row"],
        per_line=6,
        alt="Six samples of one prompt for every method, from the same noise.",
        caption="Each method at its middle scale. Compare columns: the same noise becomes the same seven, more or less bold.",
        widest=64,
    )  # fmt: skip
    return (
        "Every method gets the same number of calls of the network. A sample is right when an independent reader sees the "
        "digit, and its ink and slant fall into the thirds that the words stand for.",
        Columns(tuple(figures)),
        table,
        grid,
    )


def _rows_of(names: Sequence[tuple[str, str]], pictures: dict[str, Any], alt: str, caption: str) -> Figure:
    """One line of images a name: (label, key of the picture)."""
    return image_grid(
        [[pictures[key]] for _, key in names],
        [label for label, _ in names],
        [""],
        per_line=max(len(pictures[key]) for _, key in names),
        alt=alt,
        caption=caption,
        widest=64,
    )


def _negative(rows: Sequence[dict[str, Any]], pictures: dict[str, Any]) -> tuple[Block, ...]:
    table = Table(
        ("Negative prompt", "Share without", "Share with", "Digit still right"),
        tuple((f"“{r['negative']}”", share(r["without"]), share(r["with"]), share(r["digit"])) for r in rows),
        numeric=frozenset({1, 2, 3}),
        caption="The share of samples that are what the negative prompt says, 200 samples of “a <digit>”, guidance 3.",
    )
    names = [("no negative prompt", "none"), *((f"not “{row['negative']}”", row["negative"]) for row in rows)]
    return (
        table,
        _rows_of(names, pictures, "Sevens with three negative prompts.", "Sevens from the same noise in every row."),
    )


def _composition(rows: Sequence[dict[str, Any]], pictures: dict[str, Any]) -> tuple[Block, ...]:
    table = Table(
        ("Prompts", "Bold", "Digit right"),
        tuple((r["prompts"], share(r["bold"]), share(r["digit"])) for r in rows),
        numeric=frozenset({1, 2}),
        caption="100 samples each: “a <digit>” at weight 3, with “a bold digit” at weight 3 or −1.5.",
    )
    names = [(row["prompts"], row["prompts"]) for row in rows] + [("a three and a six", "a three and a six")]
    caption = "Zero to nine from the same noise; below, two digits asked for at once, which the model has never seen."
    return table, _rows_of(names, pictures, "Digits from two prompts at once.", caption)


def _img2img(rows: Sequence[dict[str, Any]], pictures: dict[str, Any]) -> tuple[Block, ...]:
    strengths = [row["strength"] for row in rows]
    charts = (
        line_chart(
            Chart((Series("eights", strengths, [r["eights"] for r in rows], marks=True),), "strength", "read as an eight",
                  percent=True, y_limits=(0, 1)),
            title="The new prompt wins",
            alt="Share of eights against strength.",
            caption="The share of the threes that is read as an eight afterwards.",
        ),
        line_chart(
            Chart((Series("distance", strengths, [r["distance"] for r in rows], "s2", marks=True),), "strength",
                  "distance to the scan", y_limits=(0, 1.05 * max(r["distance"] for r in rows))),
            title="The old image goes",
            alt="Distance to the scan against strength.",
            caption="Mean distance over pixels in [-1, 1]. Useful strengths: the first has risen, this has not.",
        ),
    )  # fmt: skip
    names = [("scans of threes", "source"), *((f"strength {s:g}", f"{s:g}") for s in strengths)]
    caption = "Real threes, noised part of the way and drawn again as “an eight”. Read down: the slant and weight stay longest."
    return Columns(charts), _rows_of(names, pictures, "Threes turned into eights by strength.", caption)


def _inpainting(rows: Sequence[dict[str, Any]], pictures: dict[str, Any]) -> tuple[Block, ...]:
    table = Table(
        ("Method", "Read as the scan's digit", "Step across the seam"),
        tuple((r["method"], share(r["digit"]), f"{r['seam']:.2f}") for r in rows),
        numeric=frozenset({1, 2}),
        caption="100 held-out scans, the lower half drawn. Step across the seam: mean difference of the two rows that meet, "
        "over the same in the scans. The known half is the scan's, bit for bit.",
    )
    names = [("held-out scans", "scan"), ("what is known", "known"), *((r["method"], r["method"]) for r in rows)]
    return table, _rows_of(
        names, pictures, "Lower halves drawn in.", "The upper half is given in every row below the second."
    )


def _inverse(rows: Sequence[dict[str, Any]], pictures: dict[str, Any]) -> tuple[Block, ...]:
    table = Table(
        ("Image", "PSNR", "Read as the scan's digit", "Misfit"),
        tuple((r["method"], f"{r['psnr']:.1f} dB", share(r["digit"]), f"{r['misfit']:.3f}") for r in rows),
        numeric=frozenset({1, 2, 3}),
        caption="100 held-out scans from 16 means of 2 × 2 pixels with noise of 0.05, no prompt. Misfit: root mean square "
        "of what the means of the answer differ by from those given.",
    )
    names = [("held-out scans", "truth"), *((r["method"], r["method"]) for r in rows)]
    return table, _rows_of(names, pictures, "Scans restored from means of pixels.", "Every column is one scan.")


def _walks(pictures: dict[str, Any]) -> Figure:
    names = [(f"“{name}”", name) for name in ("a seven", "a bold two", "an eight")]
    caption = (
        "Along the great circle between two noises, under one prompt: every image on the way is a digit of its own."
    )
    return _rows_of(names, pictures, "Walks between two noises.", caption)


def _inversion(rows: Sequence[dict[str, Any]], pictures: dict[str, Any]) -> tuple[Block, ...]:
    def name(row: dict[str, Any]) -> str:
        return f"{row['steps']} steps" + (f", {row['refinements']} refinements" if row["refinements"] else "")

    chart = bars(
        {name(row): (row["psnr"], f"{row['psnr']:.1f} dB") for row in rows},
        alt="; ".join(f"{name(row)}: {row['psnr']:.1f} dB" for row in rows),
        caption="Held-out scans to noise by DDIM upwards, and back by DDIM: peak signal-to-noise ratio of the round trip. "
        f"The noise found has a standard deviation of {rows[-1]['std']:.2f}; 1 would be the prior's.",
    )
    names = [("held-out scans", "scans"), *((name(r), f"back {r['steps']} {r['refinements']}") for r in rows)]
    return chart, _rows_of(names, pictures, "Scans after the round trip.", "Every column is one scan.")


def _likelihood(found: dict[str, Any]) -> tuple[Block, ...]:
    def cells(key: str) -> list[str]:
        return [f"{found[key][name]:.3f} ± {found[key][name + '_error']:.3f}" for name in ("ode", "vlb", "levels")]

    return (
        Table(
            ("A held-out scan", "ODE", "Bound, same data", "Bound, levels"),
            (("given its caption", *cells("captioned")), ("given nothing", *cells("null"))),
            numeric=frozenset({1, 2, 3}),
            caption=f"Bits per dimension of {found['scans']} scans with {found['grey_levels']} grey levels; a uniform guess "
            f"needs {found['uniform']:.2f}. ODE: the probability-flow ODE on scans dequantised uniformly. Bound, same data: "
            "the variational bound of the same numbers, which has to lie above. Bound, levels: the bound for the grey "
            "levels themselves. ± is one standard error over scans.",
        ),
    )
