"""docs/latents.md on pictures of one's own: the configs for it, from the autoencoder to a picture."""

import numpy as np
import pytest
import smallruns as tiny
from PIL import Image

from diffusion_jax.cli import main
from diffusion_jax.config import load_config
from diffusion_jax.systems.table import keys
from diffusion_jax.training import validate

CONFIGS = tiny.ROOT / "configs"
VARIANTS = [
    f"picture_{name}.py{variant}"
    for name, variants in {
        "vae": ("", ":plain", ":vq", ":small"),
        "classes": (":latent", ":small_latent"),
        "folder": (":latent", ":small_latent"),
    }.items()
    for variant in variants
]


@pytest.mark.parametrize("name", VARIANTS)
def test_the_configs_are_whole(name):
    validate(load_config(str(CONFIGS / name), {}, keys))


def pictures(folder):
    """24 pictures of 20 x 16 in two folders."""
    rng = np.random.default_rng(0)
    for name in ("dark", "light"):
        (folder / name).mkdir(parents=True)
        for i in range(12):
            levels = rng.integers(0, 120, (16, 20, 3)) + (120 if name == "light" else 0)
            Image.fromarray(levels.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


@pytest.mark.slow
def test_from_pictures_to_a_picture(tmp_path, capsys):
    path = pictures(tmp_path / "pictures")
    few = {"data.path": path, "preprocess.size": 16, "steps": 4, "eval_every": 4, "checkpoint_every": 4}
    few |= {"optimizer.warmup_steps": 1, "log_every": 1, "batch_size": 8, "data.validation": 0.2}
    vae = {"workdir": tmp_path / "vae", "adversary.start": 2, "model.channels": "(8, 16, 16)", "adversary.width": 8}
    assert main(["train", "--config", f"{CONFIGS}/picture_vae.py:small", "--no-progress", *tiny.flags(few | vae)]) == 0
    given = few | {"workdir": tmp_path / "run", "space.autoencoder": tmp_path / "vae", "model.width": 16}
    given |= {"model.layers": 1, "model.heads": 2, "sampler.num_steps": 2}
    config = ["--config", f"{CONFIGS}/picture_classes.py:small_latent", *tiny.flags(given)]
    words = ["encode", "--no-progress", "--out", str(tmp_path / "latents"), *config]
    tiny.fails(capsys, [*words, "--autoencoder", str(tmp_path / "vea")], "there is no autoencoder in", "vae'?")
    tiny.fails(capsys, [*words, "--autoencoder", str(path)], "neither a run nor a published autoencoder")
    assert main([*words, "--autoencoder", str(tmp_path / "vae")]) == 0
    cache = f"--config.space.cache={tmp_path / 'latents'}"
    assert main(["train", "--no-progress", *config, cache]) == 0
    out = tmp_path / "light.png"
    assert (
        main(["sample", "--run", str(tmp_path / "run"), "--label", "light", "--num-images", "2", "--out", str(out)])
        == 0
    )
    with Image.open(out) as picture:
        assert picture.width >= 2 * 16
