"""The report of a run on digits: what `evaluate` measured, put on one page."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.config import to_dict
from diffusion_jax.report.making import Making
from diffusion_jax.runs import CONFIG, read_config, read_json
from diffusion_jax.systems.diffusion.conditions import read_text_encoder
from diffusion_jax.train.runlog import read_metrics
from diffusion_jax.typing import UserError
from experiments.digits.content import (
    Comparison,
    DigitsContent,
    Headline,
    Metric,
    NegativePrompt,
    PromptGrid,
    Similarity,
    Trajectory,
)
from experiments.digits.figures import save_figures
from experiments.digits.measures import Evaluation, load_evaluation
from experiments.digits.report import write_report
from experiments.digits.unclip_sections import clip_alone_section, unclip_section

__all__ = ["TARGETS", "write_page"]

# name: (title, target, at least (True) or at most (False), shown in percent, how it was measured)
TARGETS: dict[str, tuple[str, float | None, bool, bool, str]] = {
    "clip.zero_shot_accuracy": (
        "CLIP zero-shot accuracy", 0.95, True, True,
        "held-out scans classified by the nearest of ten class embeddings, six prompt templates each",
    ),
    "clip.retrieval.image_to_text.r1": (
        "Retrieval image to text, R@1", None, True, True, "the scan's own caption, or an equal one, ranks first",
    ),
    "clip.retrieval.image_to_text.r5": ("Retrieval image to text, R@5", None, True, True, "among the first five"),
    "clip.retrieval.text_to_image.r1": (
        "Retrieval text to image, R@1", None, True, True, "the caption's own scan, or one with an equal caption, ranks first",
    ),
    "clip.retrieval.text_to_image.r5": ("Retrieval text to image, R@5", None, True, True, "among the first five"),
    "classifier.accuracy": (
        "Accuracy of the independent reader", 0.98, True, True,
        "a support vector machine fitted on the training scans reads the held-out scans: the ceiling of what it can judge",
    ),
    "diffusion.digit_accuracy.guidance_3": (
        "Digit drawn is the digit asked for, guidance 3", 0.97, True, True,
        "{samples} samples of held-out captions, DDIM 20 steps, read by the independent reader",
    ),
    "diffusion.digit_accuracy.guidance_1": ("The same at guidance 1", 0.90, True, True, "the same captions and seeds"),
    "diffusion.digit_accuracy.guidance_3_steps_8": ("Guidance 3 in 8 steps", None, True, True, "DDIM 8 steps"),
    "diffusion.digit_accuracy.guidance_1_steps_8": ("Guidance 1 in 8 steps", None, True, True, "DDIM 8 steps"),
    "diffusion.frechet": (
        "Frechet distance to real scans", 2.0, False, False,
        "64 raw pixels in [-1, 1], {samples} samples at guidance 1 of held-out captions against the held-out scans",
    ),
    "diffusion.frechet_real": ("Frechet distance of real scans", None, False, False, "{samples} training scans, the same way"),
    "diffusion.frechet_untrained": ("Frechet distance of the untrained model", None, False, False, "the same before training"),
    "diffusion.diversity": (
        "Diversity at guidance 1", 0.7, True, False,
        "mean pixel distance between two samples of 'a seven' over that between two real sevens; 1 is real",
    ),
    "diffusion.nearest_training.ratio": (
        "Distance to the nearest training scan", 0.5, True, False,
        "mean over samples, over the same for held-out scans; small values are copies of the training scans",
    ),
    "diffusion.negative_prompt.thin_without": (
        "Thin digits without a negative prompt", None, False, True,
        "300 samples of 'a <digit>' at guidance 3; thin by the terciles of ink of the training scans of that digit",
    ),
    "diffusion.negative_prompt.thin_with": ("Thin digits with 'a thin digit' as negative", None, False, True, "the same seeds"),
    "diffusion.negative_prompt.ratio": ("What is left of the thin digits", 0.5, False, False, "the second over the first"),
}  # fmt: skip
UNCLIP: dict[str, tuple[str, float | None, bool, bool, str]] = {
    "clip_alone.digit_accuracy": (
        "Digit in images that climb CLIP's similarity", None, True, True, "100 images by 200 steps of Adam on pixels",
    ),
    "unclip.digit_accuracy": (
        "unCLIP: the digit asked for, guidance 3", 0.97, True, True,
        "{unclip} samples of held-out captions by prior and decoder, both told the caption; the better of two embeddings",
    ),
    "unclip.prior_cosine": (
        "Cosine of the prior's embedding to the scan's own", 0.5, True, False, "one draw for the first caption of each scan",
    ),
    "unclip.reranked_cosine": ("The same of the better of two", None, True, False, "the nearer to the caption's embedding"),
    "unclip.text_cosine": ("Cosine of the caption's embedding to the scan's own", None, True, False, "no prior"),
    "unclip.shuffled_cosine": ("Cosine of other captions' draws to a scan's", None, True, False, "captions shuffled"),
    "unclip.weight_moves": (
        "Digits whose ink grows from 'thin' to 'bold'", 1.0, True, True, "10 samples a digit and word, guidance 3",
    ),
    "unclip.slant_moves": (
        "Digits that lean further from 'backward' to 'slanted'", 1.0, True, True, "10 samples a digit and word, guidance 3",
    ),
    "unclip.variation_accuracy": (
        "Variations read as their scan's digit", 0.95, True, True, "two of each held-out scan, eta 1 from the inverted noise",
    ),
    "unclip.variation_distance": (
        "How far variations are from their scan", None, True, False, "over the distance of another scan of that digit",
    ),
    "unclip.interpolation_jump": (
        "Largest step over the mean one on ways between scans", 2.0, False, False,
        "nine pictures a way, at equal distances in CLIP's space",
    ),
    "unclip.interpolation_jump_by_angle": ("The same at equal angles", None, False, False, "nine pictures a way"),
    "unclip.diff_turned": (
        "Text diffs that turned thin to bold, or bold to thin", 0.9, True, True, "all such held-out scans, by terciles of ink",
    ),
    "unclip.diff_kept": ("Text diffs that kept the digit", 0.9, True, True, "the same, by the independent reader"),
    "unclip.inversion_psnr": (
        "Inversion and back, PSNR in dB", 30.0, True, False, "50 steps of DDIM up, and 50 down",
    ),
}  # fmt: skip


def _value(metrics: dict[str, Any], name: str) -> Any:
    for part in name.split("."):
        metrics = metrics[part]
    return metrics


def _rows(metrics: dict[str, Any], samples: int, unclip: int = 0) -> list[Metric]:
    rows = []
    wanted = TARGETS | (UNCLIP if "unclip" in metrics else {})
    for name, (title, target, at_least, percent, how) in wanted.items():
        value = _value(metrics, name)
        met, text = None, None
        if target is not None and value is not None:
            met = bool(value >= target if at_least else value <= target)
            text = f"{'≥' if at_least else '≤'} {f'{target:.0%}' if percent else f'{target:g}'}"
        shown = "none to begin with" if value is None else value
        rows.append(Metric(title, shown, text, met, how.format(samples=samples, unclip=unclip), percent))
    return rows


def _training(run: Path) -> list[tuple[int, np.ndarray, np.ndarray]]:
    found = []
    for file in sorted((run / "samples").glob("step_*.npz")):
        with np.load(file) as stored:
            step = int(re.sub(r"\D", "", file.stem))
            found.append((step, stored["raw"].astype(np.float32), stored["ema"].astype(np.float32)))
    return found


@dataclasses.dataclass(frozen=True)
class _Runs:
    """Where the two runs of a page lie."""

    clip: Path
    diffusion: Path


def _content(run: Path, runs: _Runs, evaluation: Evaluation) -> DigitsContent:
    metrics, arrays, notes = evaluation.metrics, evaluation.arrays, evaluation.notes
    diffusion, negative = metrics["diffusion"], metrics["diffusion"]["negative_prompt"]
    clip_run, diffusion_run = runs.clip, runs.diffusion
    environment = read_json(diffusion_run / "environment.json")
    versions = {"python": environment["python"], **{k: v for k, v in environment["versions"].items() if v}}
    versions |= {"devices": ", ".join(environment["devices"]), "git commit": str(environment["git_commit"])}
    return DigitsContent(
        headline=Headline(
            zero_shot_accuracy=metrics["clip"]["zero_shot_accuracy"],
            digit_accuracy_3=diffusion["digit_accuracy"]["guidance_3"],
            digit_accuracy_1=diffusion["digit_accuracy"]["guidance_1"],
            frechet=diffusion["frechet"],
            frechet_real=diffusion["frechet_real"],
            diversity=diffusion["diversity"],
            thin_without=negative["thin_without"],
            thin_with=negative["thin_with"],
        ),
        prompts=PromptGrid(arrays["grid"], notes["grid_prompts"], notes["grid_scales"]),
        negative=NegativePrompt(
            notes["negative_prompt"]["prompt"],
            negative["negative"],
            arrays["negative_without"],
            arrays["negative_with"],
            *notes["negative_prompt"]["shares"],
        ),
        trajectory=Trajectory(
            notes["trajectory_prompt"],
            arrays["trajectory_ts"],
            arrays["trajectory_xs"],
            arrays["trajectory_x0_hats"],
        ),
        similarity=Similarity(arrays["similarity"], arrays["similarity_images"], notes["similarity_captions"]),
        clip_losses=read_metrics(clip_run),
        diffusion_losses=read_metrics(diffusion_run),
        during=_training(diffusion_run),
        guidance=notes["sweep"],
        comparison=Comparison(notes["real_captions"], arrays["real"], arrays["generated"]),
        metrics=_rows(metrics, notes["samples"], notes.get("unclip_samples", 0)),
        clip_alone=clip_alone_section(evaluation),
        unclip=unclip_section(evaluation),
        making=Making(
            seconds=metrics.get("seconds", {}),
            versions=versions,
            config={name: to_dict(read_config(getattr(runs, name))) for name in ("clip", "diffusion")},
            commands=notes.get(
                "commands", [f"diffusion-jax evaluate --run {run}", f"diffusion-jax report --run {run}"]
            ),
        ),
    )


def _runs(run: Path) -> _Runs:
    """The runs in `run`, or a diffusion run and the CLIP run that it was trained on, wherever that lies.

    Raises UserError where there is no diffusion run.
    """
    inside, alone = run / "diffusion", (run / CONFIG).is_file()
    if not alone and (inside / CONFIG).is_file():
        diffusion = inside
    elif alone or not (run / "clip" / CONFIG).is_file():
        diffusion = run
    else:
        diffusion = run / "clip"
    config = read_config(diffusion)  # a UserError where there is none
    if config.get("system") != "diffusion":
        raise UserError(
            f"the run in {str(run)!r} is a CLIP run, whose numbers are in {run / 'report'}; a page shows a diffusion run"
        )
    clip = Path(os.path.normpath(diffusion / read_text_encoder(diffusion)["run"]))
    return _Runs(clip, diffusion)


def write_page(run: Path, folder: Path | None = None) -> Path:
    """Writes `index.html` and the PNG figures into `folder` (run/report) from what was measured there, and returns the page.

    `run` is a folder that holds a diffusion run, or the run itself. Raises UserError when it is none or was not evaluated.
    """
    folder = folder or run / "report"
    runs = _runs(run)
    evaluation = load_evaluation(folder)
    if evaluation is None or "grid" not in evaluation.arrays:
        raise UserError(
            f"there is no evaluation of a diffusion run in {folder}: run diffusion-jax evaluate --run {run} first"
        )
    content = _content(run, runs, evaluation)
    save_figures(folder, content)
    return write_report(folder / "index.html", content)
