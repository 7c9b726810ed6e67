"""The page of the emoji: prompts, styles side by side, negative prompts, guidance, subjects never seen, the numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.config import to_dict
from diffusion_jax.report.curves import loss_chart
from diffusion_jax.report.figures import filmstrip, gallery, image_grid, line_chart
from diffusion_jax.report.making import Making, how_it_was_made
from diffusion_jax.report.numbers import duration, number, percent
from diffusion_jax.report.page import Block, Columns, Figure, Mark, Page, Section, Table, Tile, write_page
from diffusion_jax.runs import read_config, read_json
from diffusion_jax.train.runlog import read_metrics
from diffusion_jax.typing import UserError
from experiments.digits.measures import Evaluation, load_evaluation
from experiments.emoji.figures import HELD, matrix_cells, save_figures, scale_name, sweep_charts
from experiments.emoji.latent import latent_sections
from experiments.emoji.unclip_sections import unclip_sections

__all__ = ["TARGETS", "emoji_page", "report_of", "write_emoji_page"]

FRAMES = 11
# name: (title, target, at least (True) or at most (False), how it is shown, how it was measured)
TARGETS: dict[str, tuple[str, float | None, bool, str, str]] = {
    "clip.held_out.ratio": (
        "CLIP on subjects never seen, recall@5 over chance", 5.0, True, "times",
        "the lower of both directions, among the subjects of a style: {clip.held_out.pairs} pictures and captions",
    ),
    "clip.held_out.image_to_text": ("Recall@5, picture to caption", None, True, "percent", "chance {clip.held_out.chance:.1%}"),
    "clip.held_out.text_to_image": ("Recall@5, caption to picture", None, True, "percent", "chance {clip.held_out.chance:.1%}"),
    "clip.style_accuracy": (
        "CLIP reads the style of subjects never seen", None, True, "percent", "zero-shot, by the names of the styles",
    ),
    "reader.accuracy": (
        "Accuracy of the reader of style", 0.95, True, "percent",
        "{reader.pictures} real pictures that it was not trained on: the ceiling of what it can judge",
    ),
    "pairs.style_right": (
        "Unseen pairs are drawn in the style asked for", 0.8, True, "percent",
        "{pairs.pictures} pairs of subject and style never seen together, by the reader of style",
    ),
    "seen.style_right": ("Trained ones are drawn in the style asked for", None, True, "percent", "{seen.pictures} pictures"),
    "unseen_subjects.style_right": (
        "Subjects never seen are drawn in the style asked for", None, True, "percent", "{unseen_subjects.pictures} pictures",
    ),
    "pairs.subject_pixels.recall": (
        "Unseen pairs: their own real picture is among the five nearest", None, True, "percent",
        "8 x 8 mean colours, among the real ones of the style; chance {pairs.subject_pixels.chance:.1%}; no network judges",
    ),
    "seen.subject_pixels.recall": (
        "Trained pictures: their own among the five nearest", None, True, "percent",
        "8 x 8 mean colours; chance {seen.subject_pixels.chance:.1%}",
    ),
    "unseen_subjects.subject_pixels.recall": (
        "Subjects never seen: their own among the five nearest", None, True, "percent",
        "8 x 8 mean colours; chance {unseen_subjects.subject_pixels.chance:.1%}",
    ),
    "pairs.subject_clip.image_to_text": (
        "Unseen pairs: CLIP finds the caption, recall@5", None, True, "percent",
        "the CLIP that guides the drawing judges it; real pictures {pairs.subject_clip_real.image_to_text:.1%}, "
        "chance {pairs.subject_clip.chance:.1%}",
    ),
    "seen.subject_clip.image_to_text": (
        "Trained pictures: CLIP finds the caption, recall@5", None, True, "percent",
        "real pictures {seen.subject_clip_real.image_to_text:.1%}, chance {seen.subject_clip.chance:.1%}",
    ),
    "frechet.drawn": (
        "Fréchet distance to real emoji", None, False, "number",
        "{frechet.pictures} pictures, features: {frechet.features}, against as many other real ones",
    ),
    "frechet.real": ("Fréchet distance of real emoji", None, False, "number", "the pictures of the same captions"),
    "frechet.blurred": ("Fréchet distance of blurred ones", None, False, "number", "those, each 4 x 4 pixels their mean"),
    "negative_prompt.style_without": (
        "The commonest style where none is asked for", None, True, "percent", "{negative_prompt.pictures} subjects",
    ),
    "negative_prompt.style_with": (
        "The same with '{negative_prompt.negative}' as negative prompt", None, False, "percent", "the same noise",
    ),
}  # fmt: skip


def _value(metrics: Mapping[str, Any], name: str) -> Any:
    """A number by its dotted name, None where it was not measured."""
    found: Any = metrics
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _fill(text: str, metrics: Mapping[str, Any]) -> str:
    """`text` with {dotted.name} and {dotted.name:.1%} filled in."""
    return re.sub(r"\{([a-z_.]+)(?::([^}]+))?\}", lambda found: format(_value(metrics, found[1]), found[2] or ""), text)


def _shown(value: float, how: str) -> str:
    return {"percent": percent, "times": lambda x: f"{number(x)}×", "number": number}[how](value)


def _table(metrics: Mapping[str, Any]) -> Table:
    rows = []
    for name, (title, target, at_least, how, told) in TARGETS.items():
        value = _value(metrics, name)
        if value is None:
            continue
        met, aimed = None, ""
        if target is not None:
            met = bool(value >= target if at_least else value <= target)
            aimed = f"{'≥' if at_least else '≤'} {_shown(target, how)}"
        rows.append((_fill(title, metrics), _shown(value, how), Mark(aimed, met), _fill(told, metrics)))
    return Table(("What", "Value", "Aimed at", "How it was measured"), tuple(rows), numeric=frozenset({1}))


def _tiles(metrics: Mapping[str, Any]) -> tuple[Tile, ...]:
    def at(name: str) -> Any:
        return _value(metrics, name)

    tiles = [Tile("CLIP, subjects never seen", f"{number(at('clip.held_out.ratio'))}×", "recall@5 over chance")]
    if at("pairs.style_right") is not None:
        ceiling = f"as a reader of style judges, right on {percent(at('reader.accuracy'))} of real ones"
        tiles.append(Tile("Unseen pairs in the right style", percent(at("pairs.style_right")), ceiling))
    if at("pairs") is not None:
        pixels = "among the five nearest by colour; chance " + percent(at("pairs.subject_pixels.chance"))
        tiles.append(Tile("Unseen pairs like the real one", percent(at("pairs.subject_pixels.recall")), pixels))
    note = f"real: {number(at('frechet.real'))}, blurred: {number(at('frechet.blurred'))}"
    tiles.append(Tile("Fréchet distance", number(at("frechet.drawn")), note))
    if at("negative_prompt.style_with") is not None:
        without = f"{percent(at('negative_prompt.style_without'))} without it"
        tiles.append(Tile("Commonest style, negative prompt", percent(at("negative_prompt.style_with")), without))
    return tuple(tiles)


def _prompts(e: Evaluation) -> Figure:
    grid = e.arrays["grid"]
    return image_grid(
        [list(row) for row in grid],
        [f"“{prompt}”" for prompt in e.notes["grid_prompts"]],
        [scale_name(value) for value in e.notes["grid_scales"]],
        per_line=grid.shape[2],
        alt=f"Samples for {len(grid)} prompts at {grid.shape[1]} guidance scales.",
        caption=(
            "Each row is a prompt, each column a guidance scale: how hard the model is pushed towards the words. From left to "
            "right the drawings become cleaner and more alike."
        ),
    )


def _matrix(e: Evaluation) -> tuple[Block, ...]:
    held = {(row, int(style)): HELD for row, style in enumerate(e.arrays["matrix_held"])}
    return (
        image_grid(
            matrix_cells(e),
            e.notes["matrix_subjects"],
            [f"{name}: real, drawn" for name in e.notes["styles"]],
            per_line=2,
            alt=f"{len(held)} subjects in {len(e.notes['styles'])} styles, real and drawn; one style of each was held out.",
            caption=(
                "In each cell the real emoji is on the left and a drawing from its caption on the right. The outlined pairs "
                "were held out: the model knew the subject from other styles, and the style from other subjects, and had to "
                "put the two together. What it knows from elsewhere it can redraw; a designer’s own idea it cannot guess."
            ),
            marks=held,
        ),
    )


def _negative(e: Evaluation) -> Figure:
    told = e.metrics["negative_prompt"]
    shares = ("style_without" in told) and [percent(told[name]) for name in ("style_without", "style_with")]
    said = [f": {share} read as that style" if shares else "" for share in shares or ("", "")]
    prompts = ", ".join(f"“{prompt}”" for prompt in dict.fromkeys(e.notes["negative_prompts"]))
    return image_grid(
        [[e.arrays["negative_without"], e.arrays["negative_with"]]],
        [],
        [f"as asked{said[0]}", f"with negative prompt “{told['negative']}”{said[1]}"],
        per_line=4,
        alt=f"Eight drawings without and with the negative prompt {told['negative']}, from the same noise.",
        caption=f"The prompts, which name no style: {prompts}. Both sets begin with the same noise, place by place.",
    )


def _sweep(e: Evaluation) -> Columns:
    sweep = e.notes["sweep"]
    what = "pairs never seen together" if sweep["split"] == "pairs" else "training captions"
    captions = (
        f"Of {sweep['pictures']} {what}, from the same noise at each scale. CLIP judges what it guides itself.",
        "In the features named in the table, against the real pictures of the same captions. Too little guidance is unsure, "
        "too much is glaring.",
    )
    figures = []
    for (title, chart), caption in zip(sweep_charts(sweep["rows"]), captions, strict=True):
        told = "; ".join(f"{line.name}: {', '.join(f'{y:.3g}' for y in line.y)}" for line in chart.series)
        figures.append(line_chart(chart, title=title, alt=f"{title} against guidance. {told}.", caption=caption))
    return Columns(tuple(figures))


def _unseen(e: Evaluation) -> Figure:
    captions = e.notes["unseen_captions"]
    return gallery(
        [f"“{text}”" for text in captions],
        e.arrays["unseen_real"],
        e.arrays["unseen"],
        ("real", "drawn"),
        alt=f"{len(captions)} captions of subjects that were in no training picture, with the real emoji and a drawing.",
        caption=(
            "No picture of these subjects was trained on in any style: the drawing is what the words of the caption give, "
            "as far as they stand in captions of others."
        ),
    )


def _trajectory(e: Evaluation) -> Figure:
    ts, xs, hats = (e.arrays[f"trajectory_{name}"] for name in ("ts", "xs", "x0_hats"))
    last = len(ts) - 1
    chosen = sorted({round(i) for i in np.linspace(0, last, min(FRAMES, last + 1))})
    return filmstrip(
        [
            ("What the sampler holds", [xs[i] for i in chosen]),
            ("What the model believes it will become", [hats[i] if i < len(hats) else None for i in chosen]),
        ],
        [f"{ts[i]:.2f}" for i in chosen],
        title=f"“{e.notes['trajectory_prompt']}”",
        alt=f"One sample of {e.notes['trajectory_prompt']} in {last} steps from noise to a picture.",
        caption=f"One sample in {last} steps, from time 1 (pure noise, left) to time 0 (a clean picture, right).",
    )


def _losses(rows: Mapping[str, list]) -> Columns:
    captions = {
        "CLIP": "The contrastive loss; validation is on subjects that are in no training picture.",
        "Autoencoder": "What training brings down, the adversary's part with it; validation has none of that.",
        "Prior": "The denoising loss of embeddings; validation is on subjects that are in no training picture.",
        "Diffusion model": "The denoising loss; validation is on subjects that are in no training picture.",
    }
    figures = []
    for title, caption in captions.items():
        if rows.get(title):
            chart = loss_chart(rows[title])
            ends = "; ".join(
                f"{line.name} ends at {number(float(line.y[-1]))}"
                for line in chart.series
                if not line.faint and len(line.y)
            )
            figures.append(line_chart(chart, title=title, alt=f"{title}: {ends}.", caption=caption))
    return Columns(tuple(figures))


def emoji_page(e: Evaluation, losses: Mapping[str, list], making: Making, pixels: Path = Path("metrics.json")) -> Page:
    """The page as a value; what was not measured (pairs, with one style) is left out.

    `pixels` is the file of the numbers of the pixel model's, which stand beside those of a latent one.
    """
    styles, metrics = e.notes["styles"], e.metrics
    lead = (
        f"A CLIP model learned to match emoji of {len(styles)} style{'s' if len(styles) > 1 else ''} with what they are "
        "called, and a diffusion model learned to draw, 32 by 32 pixels, from CLIP’s reading of the words. "
    )
    if _value(metrics, "pairs.style_right") is not None:
        lead += (
            "Asked for a subject in a style in which it had never seen it, it draws in that style "
            f"{percent(_value(metrics, 'pairs.style_right'))} of the time."
        )
    sections = [Section("Words became emoji", (_prompts(e),))]
    if "matrix" in e.arrays:
        sections.append(Section("The same thing by several hands", _matrix(e)))
    sections += [
        *latent_sections(e, pixels),
        *unclip_sections(e),
        Section("Saying what not to draw", (_negative(e),)),
        Section("What guidance buys and costs", (_sweep(e),)),
        Section("Subjects it never saw", (_unseen(e),)),
        Section("From noise to an emoji", (_trajectory(e),)),
        Section("Measurements", (_table(metrics),)),
        Section("Training", (_losses(losses),)),
        Section("Whose emoji these are", tuple(f"{name}: {told}." for name, told in zip(styles, e.notes["credits"]))),
        Section("How it was made", how_it_was_made(making)),
    ]
    total = sum(making.seconds.values())
    ends = {"autoencoder": ", by way of latents", "unclip": ", and CLIP turned round"}
    return Page(
        title="Emoji in words" + next((end for name, end in ends.items() if name in metrics), ""),
        lead=lead,
        tiles=_tiles(metrics),
        sections=tuple(sections),
        foot=f"Written by diffusion-jax after {duration(total)} of computing. One file: nothing is loaded from elsewhere.",
    )


def report_of(out: Path, name: str = "diffusion") -> Path:
    """The folder of the page of a diffusion run: that of a variant lies in its own."""
    return out / "report" if name == "diffusion" else out / name / "report"


def write_emoji_page(out: Path, name: str = "diffusion") -> Path:
    """Writes index.html and the PNG figures of the diffusion run `name` from what was measured there.

    UserError where nothing was.
    """
    folder = report_of(out, name)
    evaluation = load_evaluation(folder)
    if evaluation is None:
        raise UserError(f"there is no evaluation in {folder}: run python -m experiments.emoji --out {out} first")
    runs = {"clip": out / "clip", "diffusion": out / name}
    losses = {"CLIP": read_metrics(runs["clip"]), "Diffusion model": read_metrics(runs["diffusion"])}
    if "autoencoder" in evaluation.metrics:
        runs["vae"] = out / "vae"
        losses["Autoencoder"] = read_metrics(runs["vae"])
    if "unclip" in evaluation.metrics:
        runs["prior"] = out / "prior"
        losses["Prior"] = read_metrics(runs["prior"])
    environment = read_json(runs["diffusion"] / "environment.json")
    versions = {"python": environment["python"], **{k: v for k, v in environment["versions"].items() if v}}
    versions |= {"devices": ", ".join(environment["devices"]), "git commit": str(environment["git_commit"])}
    making = Making(
        seconds=evaluation.metrics.get("seconds", {}),
        versions=versions,
        config={name: to_dict(read_config(run)) for name, run in runs.items()},
        commands=evaluation.notes.get("commands", []),
    )
    save_figures(folder, evaluation)
    page = emoji_page(evaluation, losses, making, report_of(out) / "metrics.json")
    return write_page(folder / "index.html", page)
