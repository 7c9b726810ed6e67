"""Fashion-MNIST end to end: a reader, a diffusion model told the class, its measures and its page, by one command.

    python -m experiments.fashion --data FOLDER [--out runs/fashion] [--variant unconditional] [--seed 0]

FOLDER holds the four IDX files of the data set (`configs/fashion_mnist.py` says where they come from). What is there already is
reused: run it again after a stop and it goes on. The variant `latent` trains an autoencoder before (`configs/fashion_vae.py`),
measures it by the same reader, and diffuses its latents by as many operations as the pixels.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.cli import guarded
from diffusion_jax.cli import main as main_of
from diffusion_jax.files import write_atomic
from diffusion_jax.typing import UserError
from experiments.arguments import made_folder, one_seed
from experiments.progress import Clock, say

ROOT = Path(__file__).resolve().parents[2]
VARIANTS = ("", "unet", "latent", "unconditional", "text")
READER_STEPS = 2000
SOLVER: dict[str, Any] = {"solver": "ddpm", "num_steps": 50, "grid": "natural"}


def main() -> int:
    """Reads the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="the folder of the IDX files")
    parser.add_argument("--out", type=Path, default=Path("runs/fashion"), help="the folder of the runs and the page")
    parser.add_argument("--variant", default="", help=f"a variant of the config: {', '.join(VARIANTS[1:])}")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights, the data order and the samples")
    parser.add_argument("--steps", type=int, help="fewer steps of training than the config's, to see that all runs")
    parser.add_argument("--autoencoder-steps", type=int, help="the same of the autoencoder's")
    parser.add_argument("--reader-steps", type=int, default=READER_STEPS, help="steps of training of the reader")
    parser.add_argument("--samples", type=int, default=10_000, help="pictures at guidance 1")
    parser.add_argument("--sweep", type=int, default=1000, help="pictures at every other scale")
    return guarded(lambda: tell(parser.parse_args()))


def tell(given: argparse.Namespace) -> int:
    """Trains, trains, measures, writes."""
    from diffusion_jax import build
    from diffusion_jax.config import load_config
    from diffusion_jax.data.text.bpe_learning import learn_vocabulary
    from diffusion_jax.parallel.accelerator import configure
    from diffusion_jax.runs import fingerprint
    from diffusion_jax.systems.diffusion.run import load_diffusion
    from diffusion_jax.training import train_run
    from experiments.cnn_reader import load_reader, train_reader
    from experiments.fashion.latent import prepared
    from experiments.fashion.measures import measure
    from experiments.fashion.page import write

    began = time.perf_counter()
    one_seed(given.seed)
    if given.variant not in VARIANTS:
        raise UserError(f"--variant {given.variant!r} is not one of {', '.join(VARIANTS[1:])}")
    for name, least in (("samples", 100), ("sweep", 20)):
        if getattr(given, name) < least:
            raise UserError(f"--{name} {getattr(given, name)} is not at least {least}")
    if not given.data:
        raise UserError(
            "--data (make fashion DATA=...) is the folder of Fashion-MNIST's four IDX files: apt-get download "
            "dataset-fashion-mnist && dpkg-deb -x dataset-fashion-mnist_*.deb fashion, then "
            "fashion/usr/share/datasets/fashion-mnist"
        )
    out = made_folder("--out", given.out)
    configure(say)
    name = given.variant or "diffusion"
    clock = Clock(out / f"seconds_{name}.json")
    overrides = {"seed": str(given.seed), "workdir": str(out / name), "data.path": given.data}
    fewer = {} if given.steps is None else fewer_steps(given.steps)
    file = str(ROOT / "configs/fashion_mnist.py")
    config = load_config(f"{file}:{given.variant}" if given.variant else file, overrides | fewer)
    train, test = (build.source(config.data, split) for split in ("train", "test"))

    say("1/4 a reader of real pictures")
    kept = out / f"reader-{given.reader_steps}-{given.seed}.safetensors"
    known = train.columns()
    reader = load_reader(kept, 28, 1, len(train.class_names))
    if reader is None:
        with clock("reader"):
            reader = train_reader(known["image"], known["label"], file=kept, steps=given.reader_steps, seed=given.seed)
    say(f"  right on {reader.accuracy(test.columns()['image'], test.columns()['label']):.1%} of the test pictures")
    if given.variant == "text":
        say("    CLIP on captions of the classes")
        clip = load_config(
            str(ROOT / "configs/fashion_clip.py"),
            {
                "seed": str(given.seed),
                "workdir": str(out / "clip"),
                "data.path": given.data,
                "tokenizer.path": str(out / "vocabulary"),
            },
        )
        if not (out / "vocabulary").is_dir():
            learn_vocabulary(
                [text for texts in build.source(clip.data, "train").captions for text in texts], 60, out / "vocabulary"
            )
        config.condition.encoder = str(out / "clip")
        with clock("clip"):
            train_run(clip, say=say)
    autoencoder: tuple[dict[str, Any], dict[str, np.ndarray]] | None = None
    if given.variant == "latent":
        few = given.autoencoder_steps
        vae = load_config(
            str(ROOT / "configs/fashion_vae.py"),
            overrides
            | {"workdir": str(out / "vae")}
            | ({} if few is None else {**fewer_steps(few), "adversary.start": str(few // 2)}),
        )
        autoencoder = prepared(config, load_config(file, overrides), vae, reader, train, test, clock, say)
    say("2/4 diffusion")
    with clock("diffusion"):
        train_run(config, say=say)
    say("3/4 measures")
    run = load_diffusion(out / name)
    report = out / name / "report"
    report.mkdir(parents=True, exist_ok=True)
    numbers = report / "metrics.json"
    key = f"{run.fingerprint}-{fingerprint(reader.params)}-{given.samples}-{given.sweep}-{given.seed}"
    found = json.loads(numbers.read_text()) if numbers.is_file() else {}
    if found.get("key") != key:
        with clock("measures"):
            found, pictures = measure(
                run,
                reader,
                train,
                test,
                samples=given.samples,
                sweep=given.sweep,
                seed=given.seed,
                solver=SOLVER,
                say=say,
            )
            if main_of(
                ["evaluate", "--run", str(out / name), "--samples", str(given.sweep), "--seed", str(given.seed)]
            ):
                return 1
        command = f"make fashion DATA={given.data}" + (f" VARIANT={given.variant}" if given.variant else "")
        found |= {"key": key, "variant": given.variant, "classes": list(test.class_names), "command": command}
        arrays: dict[str, Any] = pictures
        np.savez_compressed(report / "samples.npz", **arrays)
    found["seconds"] = dict(clock.seconds)
    if autoencoder is not None:
        found["autoencoder"] = autoencoder[0]
    write_atomic(numbers, (json.dumps(found, indent=2) + "\n").encode())
    say("4/4 the page")
    page = write(run, found, report, say, None if autoencoder is None else autoencoder[1])
    for scale, each in found["guidance"].items():
        right = f"{each['right']:.1%} right, " if "right" in each else ""
        print(
            f"guidance {scale}: {right}Frechet {each['frechet']:.2f} at {each['samples']}, diversity {each['diversity']:.2f}"
        )
    real = found["real"]["frechet"]
    print(f"the reader, on real test pictures: {found['reader_accuracy']:.1%} right; real against real {real:.2f}")
    say(f"look at {page} ({time.perf_counter() - began:.0f} s this time)")
    return 0


def fewer_steps(steps: int) -> dict[str, str]:
    """Overrides of a config for so many steps."""
    return {"steps": str(steps), "optimizer.warmup_steps": str(min(200, steps // 10))}


if __name__ == "__main__":
    sys.exit(main())
