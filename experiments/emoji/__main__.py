"""Emoji in words: CLIP and text-conditioned diffusion on 32 x 32 emoji, end to end, by one command.

    python -m experiments.emoji [--styles noto.tgz twemoji.tgz ...] [--words emojibase-data.tgz] [--out runs/emoji] [--seed 0]
        [--variant latent|unclip]

Draws the emoji, learns a vocabulary from their captions, trains `configs/emoji_clip.py`, then `configs/emoji_diffusion.py` on
its frozen text tower, measures, and writes `report/index.html` and `report/metrics.json`. OpenMoji and its names come with the
extra `emoji`. Further styles are tarballs of the npm packages @iconify-json/noto, @iconify-json/twemoji,
@iconify-json/fluent-emoji-flat, @iconify-json/fluent-emoji; `--words` is that of emojibase-data, whose tags make better
captions (`npm pack NAME` writes a tarball). What is there already is reused: run it again after a stop and it goes on.
`--variant latent` trains an autoencoder on the same pictures (`configs/emoji_vae.py`), diffuses its latents, and writes into
`latent/report`. With `--variant unclip` the diffusion model is told what CLIP makes of captions and of pictures, each at
times, a prior (`configs/emoji_prior.py`) draws the embedding that a caption may have, and `decoder/report` goes on to what the
two make of CLIP's space.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from experiments.arguments import made_folder, one_seed
from experiments.progress import Clock, say

ROOT = Path(__file__).resolve().parents[2]
MERGES = 1500
VARIANTS = {"": "diffusion", "latent": "latent", "unclip": "decoder"}
"""The variant of `configs/emoji_diffusion.py` that each is, by which its run is called too."""


def main() -> int:
    """Every stage in turn, each timed; the times of finished stages are kept beside the run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--styles", type=Path, nargs="*", default=[], help="tarballs of npm packages @iconify-json/NAME"
    )
    parser.add_argument("--words", type=Path, default=None, help="the tarball of the npm package emojibase-data")
    parser.add_argument("--out", type=Path, default=Path("runs/emoji"), help="the runs' folder")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights, the data order and the samples")
    parser.add_argument(
        "--variant",
        default="",
        help="latent: over the latents of an autoencoder; unclip: told embeddings too, with a prior",
    )
    parser.add_argument("--samples", type=int, default=240, help="the most pictures that a number is of")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="RUN.KEY=VALUE",
        help="of a config: diffusion.steps=4000, clip.seed=1, vae.steps=100, prior.steps=100",
    )
    parser.add_argument("--fresh", action="store_true", help="delete the runs that are there and begin anew")
    arguments = parser.parse_args()

    from diffusion_jax.cli import guarded

    return guarded(lambda: emoji(arguments))


def emoji(arguments: argparse.Namespace) -> int:
    """Draw, learn the words, train, train, evaluate, report."""
    from diffusion_jax.config import load_config
    from diffusion_jax.parallel.accelerator import configure
    from diffusion_jax.pipelines.unclip_runs import unclip_of
    from diffusion_jax.systems.diffusion.run import DiffusionRun
    from diffusion_jax.systems.table import load_run
    from diffusion_jax.training import train_run
    from diffusion_jax.typing import UserError
    from experiments.digits.measures import load_evaluation, save_evaluation
    from experiments.emoji.latent import prepared
    from experiments.emoji.measures import evaluate, samples_of
    from experiments.emoji.page import report_of, write_emoji_page
    from experiments.emoji.pictures import drawn
    from experiments.emoji.unclip import evaluate_unclip
    from experiments.emoji.vocabulary import learned

    began = time.perf_counter()
    one_seed(arguments.seed)
    said = overrides(arguments.set)
    if arguments.variant not in VARIANTS:
        raise UserError(f"--variant {arguments.variant!r} is not {', '.join(list(VARIANTS)[1:])}")
    name = VARIANTS[arguments.variant]
    out: Path = arguments.out
    made_folder("--out", out)
    configure(say)
    clock = Clock(out / f"seconds{f'_{arguments.variant}' if arguments.variant else ''}.json")
    say("1/6 the pictures")
    with clock("pictures"):
        pictures = drawn(out / "pictures.npz", arguments.styles, arguments.words, say)
    common = {
        "seed": str(arguments.seed),
        "data.path": str(out / "pictures.npz"),
        "data.fingerprint": pictures.fingerprint,
    }
    vocabulary = out / f"vocabulary-{pictures.fingerprint}"
    clip = load_config(
        str(ROOT / "configs/emoji_clip.py"),
        common | {"workdir": str(out / "clip"), "tokenizer.path": str(vocabulary)} | said["clip"],
    )
    file = str(ROOT / "configs/emoji_diffusion.py")
    told = common | {"workdir": str(out / name)} | said["diffusion"]
    diffusion = load_config(f"{file}:{name}" if arguments.variant else file, encoders(name, out) | told)
    say("2/6 the vocabulary of the captions")
    with clock("vocabulary"):
        learned(clip.data, MERGES, vocabulary, say)
    say("3/6 CLIP on captioned emoji")
    with clock("clip"):
        train_run(clip, overwrite=arguments.fresh, say=say)
    cost = None
    if name == "latent":
        say("    an autoencoder")
        vae = load_config(str(ROOT / "configs/emoji_vae.py"), common | {"workdir": str(out / "vae")} | said["vae"])
        cost = prepared(
            diffusion, load_config(file, encoders("diffusion", out) | told), vae, clock, say, arguments.fresh
        )
    say("4/6 diffusion on CLIP's text")
    with clock("diffusion"):
        train_run(diffusion, overwrite=arguments.fresh, say=say)
    first = None
    if name == "decoder":
        say("    the prior: from a caption to an embedding")
        own = common | encoders("prior", out) | {"workdir": str(out / "prior")} | said["prior"]
        with clock("prior"):
            train_run(load_config(str(ROOT / "configs/emoji_prior.py"), own), overwrite=arguments.fresh, say=say)
        first = load_run(out / "prior")
        assert isinstance(first, DiffusionRun)
    say("5/6 evaluation")
    run = load_run(out / name)
    assert isinstance(run, DiffusionRun)
    report = report_of(out, name)
    evaluation = load_evaluation(report)
    weights = f"{run.fingerprint}{f'-{first.fingerprint}' if first else ''}"
    key = f"{weights}-{pictures.fingerprint}-{arguments.samples}-{arguments.seed}"
    if evaluation is not None and evaluation.notes.get("key") == key:
        say(f"reusing {report / 'metrics.json'}")
    else:
        with clock("evaluation"):
            shared = samples_of(run, out, samples=arguments.samples, seed=arguments.seed, say=say)
            evaluation = evaluate(shared, say=say)
            if first is not None:
                evaluate_unclip(unclip_of(run, first), shared, evaluation, say=say)
        evaluation.notes |= {"key": key, "commands": [command(arguments)]}
    evaluation.metrics["seconds"] = dict(clock.seconds)
    if cost is not None:
        evaluation.metrics["costs"] = cost
    save_evaluation(report, evaluation)
    say("6/6 report")
    with clock("report"):
        page = write_emoji_page(out, name)
    evaluation.metrics["seconds"] = dict(clock.seconds)
    save_evaluation(report, evaluation)
    summary(evaluation.metrics)
    say(f"look at {page} ({time.perf_counter() - began:.0f} s this time)")
    return 0


def encoders(name: str, out: Path) -> dict[str, str]:
    """The keys of a run's config that say where CLIP lies, and where what it makes of the pictures is kept."""
    clip, kept = str(out / "clip"), str(out / "embeddings")
    if name == "decoder":
        picture = "condition.parts.picture"
        return {"condition.parts.text.encoder": clip, f"{picture}.encoder": clip, f"{picture}.cache": kept}
    if name == "prior":
        return {"condition.encoder": clip, "space.encoder": clip, "space.cache": kept}
    return {"condition.encoder": clip}


def overrides(given: list[str]) -> dict[str, dict[str, str]]:
    """{"clip": {key: value}, "diffusion": {...}, "vae": {...}, "prior": {...}} of RUN.KEY=VALUE.

    UserError for another run, and without a key or value.
    """
    from diffusion_jax.typing import UserError, one_of

    found: dict[str, dict[str, str]] = {"clip": {}, "diffusion": {}, "vae": {}, "prior": {}}
    for text in given:
        name, equals, value = text.partition("=")
        run, dot, key = name.partition(".")
        if not (equals and dot and key):
            raise UserError(f"--set {text!r} is not RUN.KEY=VALUE, such as diffusion.steps=4000")
        found[one_of("run of --set", run, found)][key] = value
    return found


def command(arguments: argparse.Namespace) -> str:
    """What makes it again, as the makefile has it."""
    styles, words = " ".join(map(str, arguments.styles)), arguments.words
    told = f"make emoji{f' SEED={arguments.seed}' if arguments.seed else ''}"
    told += f" VARIANT={arguments.variant}" if arguments.variant else ""
    told += f' STYLES="{styles}"' if styles else ""
    return told + (f" WORDS={words}" if words else "")


def summary(metrics: dict[str, Any]) -> None:
    """The main numbers, in the terminal."""
    held, frechet = metrics["clip"]["held_out"], metrics["frechet"]
    print(f"CLIP on subjects never seen, recall@5  {held['image_to_text']:.1%}, {held['ratio']:.1f} times chance")
    if metrics.get("pairs", {}).get("style_right") is not None:
        print(f"reader of style, on real pictures      {metrics['reader']['accuracy']:.1%}")
        print(f"unseen pairs in the style asked for    {metrics['pairs']['style_right']:.1%}")
    if "autoencoder" in metrics:
        print(f"the autoencoder, there and back        {metrics['autoencoder']['psnr']:.1f} dB")
    if "unclip" in metrics:
        found = metrics["unclip"]
        print(
            f"cosine of the prior to the own emoji   {found['prior_cosine']:.2f} (the caption's {found['text_cosine']:.2f})"
        )
    print(f"Frechet distance to real emoji         {frechet['drawn']:.1f} (real against real {frechet['real']:.1f})")


if __name__ == "__main__":
    sys.exit(main())
