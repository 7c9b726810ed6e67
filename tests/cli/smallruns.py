"""A CLIP and a diffusion run small enough to train within a test: few steps, one layer, width 16."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

from diffusion_jax.cli import main
from diffusion_jax.data.sources.caption_folder import CaptionFolder
from diffusion_jax.data.text.bpe_learning import learn_vocabulary

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from captioned import write

ROOT = Path(__file__).parent.parent.parent
CLIP = str(ROOT / "configs" / "digits_clip.py")
FOLDER = str(ROOT / "configs" / "clip_folder.py")
DIFFUSION = str(ROOT / "configs" / "digits_diffusion.py")
VAE = str(ROOT / "configs" / "digits_vae.py")

SMALL = {
    "batch_size": 16,
    "steps": 6,
    "log_every": 2,
    "eval_every": 6,
    "checkpoint_every": 2,
    "optimizer.warmup_steps": 2,
}
SMALL_CLIP = SMALL | {
    "model.embed": 8,
    "model.vision.width": 16,
    "model.vision.layers": 1,
    "model.text.width": 16,
    "model.text.layers": 1,
}
SMALL_FOLDER = SMALL | {
    "eval_every": 3,
    "model.embed": 16,
    "model.vision.image_size": 16,
    "model.vision.patch": 4,
    "model.vision.width": 32,
    "model.vision.layers": 1,
    "model.text.width": 32,
    "model.text.layers": 1,
    "model.text.context_length": 12,
    "data.validation": 0.2,
}
SMALL_VAE = SMALL | {
    "model.channels": (8, 8),
    "model.groups": 4,
    "adversary.width": 4,
    "adversary.start": 3,
    "optimizer.schedule": "constant",
}
SMALL_DIFFUSION = SMALL | {"model.width": 16, "model.layers": 1, "sampler.num_steps": 4}


def flags(options: dict[str, object]) -> list[str]:
    """`--config.KEY=VALUE` of each option; `__` stands for the dot in a keyword."""
    return [f"--config.{key.replace('__', '.')}={value}" for key, value in options.items()]


def clip_arguments(folder: Path, **options: object) -> list[str]:
    """`train` of the small CLIP run in folder / "clip"."""
    chosen = SMALL_CLIP | {"workdir": folder / "clip"} | options
    return ["train", "--no-progress", "--config", CLIP, *flags(chosen)]


def diffusion_arguments(folder: Path, **options: object) -> list[str]:
    """`train` of the small diffusion run in folder / "diffusion", on folder / "clip"."""
    chosen = SMALL_DIFFUSION | {"workdir": folder / "diffusion", "condition.encoder": folder / "clip"} | options
    return ["train", "--no-progress", "--config", DIFFUSION, *flags(chosen)]


def vae_arguments(workdir: Path, config: str = VAE, **options: object) -> list[str]:
    """`train` of a small autoencoder run, with a discriminator from its third step on."""
    return ["train", "--no-progress", "--config", config, *flags(SMALL_VAE | {"workdir": workdir} | options)]


def label_arguments(workdir: Path, **options: object) -> list[str]:
    """`train` of a small diffusion run that is told a class."""
    told = {"condition": "{}", "condition.name": "label", "condition.drop": 0.25}
    chosen = SMALL_DIFFUSION | told | {"workdir": workdir} | options
    return ["train", "--no-progress", "--config", DIFFUSION, *flags(chosen)]


def folder_arguments(folder: Path, workdir: Path, **options: object) -> list[str]:
    """`train` of a small CLIP on what `make_pictures` put in `folder`."""
    own = {"data.path": folder / "pictures", "tokenizer.path": folder / "vocabulary", "workdir": workdir}
    return ["train", "--no-progress", "--config", FOLDER, *flags(SMALL_FOLDER | own | options)]


def make_pictures(folder: Path) -> Path:
    """48 captioned squares of four colours in folder / "pictures", and a vocabulary of their captions."""
    write(folder / "pictures", 48)
    texts = [text for texts in CaptionFolder(folder / "pictures").texts for text in texts]
    learn_vocabulary(texts, 30, folder / "vocabulary")
    return folder


def mean_config(file: Path) -> Path:
    """The config of a system of one's own."""
    file.write_text(
        textwrap.dedent("""
        from ml_collections import ConfigDict

        def get_config():
            return ConfigDict({
                "system": "own_parts:SYSTEM", "workdir": "mean", "seed": 0, "steps": 2, "batch_size": 16,
                "log_every": 1, "eval_every": 2, "checkpoint_every": 1, "ema": {"decay": 0.5},
                "optimizer": {"name": "own_parts:sgd", "learning_rate": 1.0},
            })
        """)
    )
    return file


def make_label_run(folder: Path) -> Path:
    """Trains one in `folder` / "diffusion"."""
    assert main(label_arguments(folder / "diffusion")) == 0
    return folder


def make_vae(folder: Path) -> Path:
    """Trains an autoencoder in `folder` / "vae"."""
    assert main(vae_arguments(folder / "vae")) == 0
    return folder


def make(folder: Path) -> Path:
    """Trains both in `folder`."""
    assert main(clip_arguments(folder)) == 0
    assert main(diffusion_arguments(folder)) == 0
    return folder


SHORT = {"steps": 2, "optimizer.warmup_steps": 1, "eval_every": 2, "sampler.num_steps": 2}


def make_unclip(folder: Path) -> Path:
    """A CLIP, a decoder that is told embedding and text, a prior whose space is whitened, and an upsampler."""
    assert main(clip_arguments(folder)) == 0
    clip = str(folder / "clip")
    parts = {"text": {"name": "text", "encoder": clip, "drop": 0.5}, "picture": {"name": "embedding", "encoder": clip}}
    runs = {
        "decoder": {"condition": {"name": "several", "parts": parts, "drop": 0.1}},
        "prior": {
            "condition": {"name": "text", "encoder": clip, "tokens": False},
            "space": {"name": "embeddings", "encoder": clip, "scaling": "whitened"},
            "model": {"name": "mlp", "width": 16, "layers": 1},
            "prediction": "x0",
        },
        "upsampler": {"condition": {"name": "image", "factor": 2}},
    }
    for name, own in runs.items():
        chosen = SMALL_DIFFUSION | SHORT | own | {"workdir": folder / name}
        chosen = {key: value for key, value in chosen.items() if not (name == "prior" and key.startswith("model."))}
        assert main(["train", "--no-progress", "--config", DIFFUSION, *flags(chosen)]) == 0
    return folder


def one_line(capsys: Any, *said: str) -> None:
    """What was written to stderr ends with its one error line, which holds what is `said`."""
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert err.splitlines()[-1] == lines[0]
    for text in said:
        assert text in lines[0], lines[0]


def fails(capsys: Any, arguments: list[str], *said: str) -> None:
    """The command ends with 2 and one error line that holds what is `said`, and no traceback."""
    assert main(arguments) == 2
    one_line(capsys, *said)
