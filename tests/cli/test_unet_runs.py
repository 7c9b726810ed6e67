"""A diffusion run on a U-Net: trained, gone on with, drawn from, written for diffusers and read again."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import smallruns as tiny

from diffusion_jax import load_pretrained, load_run
from diffusion_jax.cli import main

UNET = {
    "model": "{}",
    "model.name": "unet",
    "model.channels": "(8,16)",
    "model.layers": 1,
    "model.attention": "(4,)",
    "model.modulation": "shift",
    "model.groups": 4,
    "optimizer.schedule": "constant",
    "optimizer.warmup_steps": 1,
}


def arguments(workdir, **options):
    return tiny.label_arguments(workdir, **UNET | options)


@pytest.mark.slow
def test_a_run_goes_on_bit_for_bit_and_draws(tmp_path):
    assert main(arguments(tmp_path / "whole", steps=4, checkpoint_every=2)) == 0
    assert main(arguments(tmp_path / "parts", steps=2, checkpoint_every=2)) == 0
    assert main(arguments(tmp_path / "parts", steps=4, checkpoint_every=2)) == 0
    whole, parts = load_run(tmp_path / "whole"), load_run(tmp_path / "parts")
    assert whole.fingerprint == parts.fingerprint
    assert whole.generate(["three"], seed=1).shape == (1, 8, 8, 1)


@pytest.mark.slow
def test_a_run_is_trained_and_written_for_diffusers(tmp_path, capsys):
    assert main(arguments(tmp_path / "whole", steps=2)) == 0
    whole = load_run(tmp_path / "whole")
    capsys.readouterr()
    assert main(["convert", str(tmp_path / "whole"), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().err
    assert "parameters of a UNet written to" in said and "note: it predicts" in said and "label 10 is none" in said
    told = json.loads((tmp_path / "out" / "config.json").read_text())
    assert told["_class_name"] == "UNet2DModel" and told["sample_size"] == 8 and told["num_class_embeds"] == 11
    loaded = load_pretrained(tmp_path / "out")
    x = jnp.linspace(-1, 1, 128).reshape(2, 8, 8, 1)
    given = (x, jnp.array([17.0, 803.0]), {"label": jnp.array([3, 10])})
    np.testing.assert_allclose(
        loaded.network.apply(loaded.params, *given), whole.network.apply(whole.params, *given), atol=1e-5
    )
    tiny.fails(
        capsys, ["convert", str(tmp_path / "whole"), "--out", str(tmp_path / "b"), "--format", "latent"], "nearest: "
    )
    wrong = ["convert", str(tmp_path / "out"), "--out", str(tmp_path / "b"), "--image-size", "16"]
    tiny.fails(capsys, wrong, "--image-size changes the positions of a CLIP, and a diffusion network has none")


@pytest.mark.slow
def test_a_run_whose_channels_are_split_learns_what_a_whole_one_does(tmp_path):
    # Where a gradient is nearly 0, Adam without its eps makes a whole step of the last bit of a sum, whose order differs here.
    wide = {"model.channels": "(32,64)", "model.groups": 8, "steps": 3, "optimizer.eps": 1e-3}
    assert main(arguments(tmp_path / "whole", **wide)) == 0
    assert main(arguments(tmp_path / "split", **wide, **{"mesh.tensor": 2})) == 0
    whole, split = (load_run(tmp_path / name).params for name in ("whole", "split"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), whole, split)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model.channels": "(8,8,8,8,8)"}, "are not halved 4 times"),
        ({"model.attention": "(5,)"}, "attention at 5 x 5: the levels work at 8, 4"),
        ({"model.heads": 3}, "16 channels are not divided by 3 heads; nearest: 2"),
        ({"model.preset": "ddpm-cifar100"}, "did you mean 'ddpm-cifar10'"),
        ({"model.head_dim": 5}, "head_dim 5 does not divide the 16 channels of a level; nearest: 4"),
    ],
)
def test_sizes_that_do_not_go_together_are_one_line(options, said, tmp_path, capsys):
    tiny.fails(capsys, arguments(tmp_path / "run", **options), said)
    assert not (tmp_path / "run").exists()
