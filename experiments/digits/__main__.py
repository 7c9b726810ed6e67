"""The demo: CLIP, guided diffusion and unCLIP on real handwritten digits, end to end, by one command.

    python -m experiments.digits [--out runs/digits] [--seed 0]

Trains the CLIP dual encoder of `configs/digits_clip.py`; then the diffusion transformer of
`configs/digits_diffusion.py:decoder`, told what the frozen CLIP makes of captions and of scans, each at times, so that it draws
from a text, from an embedding, or from both; then the prior of `configs/digits_prior.py`, which draws the embedding that a text
may have. Samples, measures on held-out scans, and writes `report/index.html` and `report/metrics.json`. What is there already
is reused: run it again after a stop and it goes on.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from experiments.arguments import made_folder, one_seed
from experiments.progress import Clock, say

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Every stage in turn, each timed; the times of finished stages are kept beside the run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/digits"), help="the run's folder")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights, the data order and the samples")
    parser.add_argument("--split", choices=("validation", "test"), default="test", help="scans that judge the result")
    parser.add_argument("--fresh", action="store_true", help="delete what is there and begin anew")
    arguments = parser.parse_args()

    from diffusion_jax.cli import guarded

    return guarded(lambda: demo(arguments.out, arguments.seed, arguments.split, arguments.fresh))


def demo(out: Path, seed: int, split: str, fresh: bool) -> int:
    """Train CLIP, the decoder and the prior, evaluate, report."""
    from diffusion_jax import build
    from diffusion_jax.config import load_config
    from diffusion_jax.parallel.accelerator import configure
    from diffusion_jax.pipelines.unclip_runs import unclip_of
    from diffusion_jax.systems.diffusion.run import DiffusionRun
    from diffusion_jax.systems.table import load_run
    from diffusion_jax.training import train_run
    from experiments.digits.clip_alone import evaluate_clip_alone
    from experiments.digits.measures import evaluate, load_evaluation, save_evaluation
    from experiments.digits.page import write_page
    from experiments.digits.unclip import evaluate_unclip

    began = time.perf_counter()
    one_seed(seed)
    made_folder("--out", out)
    configure(say)
    clock = Clock(out / "seconds.json")
    common = {"seed": str(seed)}
    clip = load_config(str(ROOT / "configs/digits_clip.py"), common | {"workdir": str(out / "clip")})
    encoder, seen = str(out / "clip"), str(out / "embeddings")
    told = dict.fromkeys(("condition.parts.text.encoder", "condition.parts.picture.encoder"), encoder)
    diffusion = load_config(
        f"{ROOT / 'configs/digits_diffusion.py'}:decoder",
        common | told | {"workdir": str(out / "diffusion"), "condition.parts.picture.cache": seen},
    )
    told = dict.fromkeys(("condition.encoder", "space.encoder"), encoder)
    prior = load_config(
        str(ROOT / "configs/digits_prior.py"), common | told | {"workdir": str(out / "prior"), "space.cache": seen}
    )
    say("1/5 CLIP on captioned scans")
    with clock("clip"):
        train_run(clip, overwrite=fresh, say=say)
    say("2/5 diffusion on CLIP's text and embeddings")
    with clock("diffusion"):
        train_run(diffusion, overwrite=fresh, say=say)
    say("3/5 the prior: from a text to an embedding")
    with clock("prior"):
        train_run(prior, overwrite=fresh, say=say)
    say("4/5 evaluation")
    run, first = load_run(out / "diffusion"), load_run(out / "prior")
    assert isinstance(run, DiffusionRun) and isinstance(first, DiffusionRun)
    report = out / "report"
    evaluation = load_evaluation(report)
    # "even": numbers measured before ways at equal distances were are measured again.
    key = f"{run.fingerprint}-{first.fingerprint}-even-{split}-{seed}"
    if evaluation is not None and evaluation.notes.get("key") == key:
        say(f"reusing {report / 'metrics.json'}")
    else:
        with clock("evaluation"):
            evaluation = evaluate(run, split, seed=seed, say=say)
            scans, held_out = (build.source(run.config.data, name) for name in ("train", split))
            evaluate_clip_alone(run.clip, scans, held_out, evaluation, seed=seed)
            evaluate_unclip(unclip_of(run, first), scans, held_out, evaluation, seed=seed, say=say)
        evaluation.notes |= {"key": key, "commands": [f"make demo{f' SEED={seed}' if seed else ''}"]}
    evaluation.metrics["seconds"] = dict(clock.seconds)
    save_evaluation(report, evaluation)
    say("5/5 report")
    with clock("report"):
        page = write_page(out)
    evaluation.metrics["seconds"] = dict(clock.seconds)
    save_evaluation(report, evaluation)
    summary(evaluation.metrics)
    say(f"look at {page} ({time.perf_counter() - began:.0f} s this time)")
    return 0


def summary(metrics: dict) -> None:
    """The main numbers, in the terminal."""
    clip, diffusion = metrics["clip"], metrics["diffusion"]
    accuracy, negative = diffusion["digit_accuracy"], diffusion["negative_prompt"]
    for line in (
        f"zero-shot accuracy of CLIP           {clip['zero_shot_accuracy']:.1%}",
        f"digit drawn is the digit asked for   {accuracy['guidance_1']:.1%} at guidance 1, {accuracy['guidance_3']:.1%} at 3",
        f"Frechet distance to real scans       {diffusion['frechet']:.2f} (real against real {diffusion['frechet_real']:.2f})",
        f"diversity, 1 is real                 {diffusion['diversity']:.2f}",
        f"thin digits with 'a thin digit' as negative prompt: {negative['thin_without']:.1%} -> {negative['thin_with']:.1%}",
    ):
        print(line)
    unclip = metrics["unclip"]
    print(f"unCLIP: digit asked for, guidance 3  {unclip['digit_accuracy']:.1%}")
    print(f"digits that variations keep          {unclip['variation_accuracy']:.1%}")
    print(
        f"cosine to the scan's own embedding   {unclip['prior_cosine']:.2f} (the caption's {unclip['text_cosine']:.2f})"
    )


if __name__ == "__main__":
    sys.exit(main())
