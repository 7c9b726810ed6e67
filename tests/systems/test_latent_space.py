"""Diffusion over an autoencoder's latents: in the step as from the folder that `encode` writes, drawn as pictures, refused."""

import json
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parent.parent / "cli"))
import smallruns as tiny

from diffusion_jax import load_run
from diffusion_jax.cli import main
from diffusion_jax.data.sources.digits import load_digits
from diffusion_jax.systems.diffusion.latents import autoencoder_at
from diffusion_jax.typing import UserError

SCALED = {"optimizer.schedule": "constant", "ema.decay": 0.1, "steps": 2, "checkpoint_every": 1, "eval_every": 2}


def options(vae, workdir, **more):
    space = {"name": "latents", "autoencoder": str(vae), "cache": None}
    told = {"condition": {"name": "none"}, "sampler.guidance_scale": 1.0, "model.patch": 2}
    chosen = (
        tiny.SMALL_DIFFUSION | SCALED | told | {"optimizer.warmup_steps": 1, "sampler.num_steps": 2, "workdir": workdir}
    )
    return ["--config", tiny.DIFFUSION, *tiny.flags(chosen | {"space": space} | more)]


def train(vae, workdir, **more):
    return ["train", "--no-progress", *options(vae, workdir, **more)]


def encode(vae, out, *rest, **more):
    return [
        "encode",
        "--no-progress",
        "--autoencoder",
        str(vae),
        "--out",
        str(out),
        *options(vae, "runs/none", **more),
        *rest,
    ]


@pytest.fixture(scope="module")
def vae(once):
    return once("tiny_vae", tiny.make_vae) / "vae"


@pytest.fixture(scope="module")
def folder(once, vae):
    def make(place):
        assert main(train(vae, place / "diffusion")) == 0

    return once("tiny_latent", make) / "diffusion"


def test_it_is_trained_on_latents_and_draws_pictures(folder, vae, tmp_path):
    run, coder = load_run(folder), load_run(vae)
    assert run.shape == (4, 4, 2) and run.image == (8, 8, 1)
    made = run.generate(count=3, seed=1)
    assert made.shape == (3, 8, 8, 1)
    with np.load(folder / "samples" / "step_000002.npz") as kept:
        assert kept["ema"].shape[1:] == (8, 8, 1)
    assert (folder / "samples" / "step_000002.png").is_file()
    assert main(["sample", "--run", str(folder), "--num-images", "2", "--out", str(tmp_path / "a.png")]) == 0
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size[0] > 8
    images = jnp.asarray(load_digits("test").columns()["image"][:6])
    encode, decode = jax.jit(run.space.encode), jax.jit(run.space.decode)
    np.testing.assert_allclose(encode(run.space.frozen, {"image": images}), coder.encode(images), atol=1e-5)
    key = jax.random.key(3)
    drawn = encode(run.space.frozen, {"image": images, "key": key})
    np.testing.assert_allclose(drawn, coder.encode(images, key), atol=1e-4)
    assert np.abs(drawn - coder.encode(images)).max() > 1e-3
    np.testing.assert_allclose(decode(run.space.frozen, drawn), coder.decode(drawn), atol=1e-5)


@pytest.mark.slow
def test_its_samples_are_measured_as_pictures(folder, tmp_path):
    out = ["evaluate", "--run", str(folder), "--samples", "8", "--metric", "samples", "--out", str(tmp_path)]
    assert main(out) == 0
    found = json.loads((tmp_path / "measures.json").read_text())["samples"]
    assert found["dimensions"] == 64 and found["frechet"] > 0


def test_another_autoencoder_is_refused(folder, vae, tmp_path, capsys):
    """Whichever of its parts is another: the weights, or the scale of its latents."""
    place = tmp_path / "moved"
    for one in (vae, folder):
        shutil.copytree(one.parent, place, dirs_exist_ok=True)
    (place / "run").mkdir()
    note = json.loads((place / "diffusion" / "autoencoder.json").read_text())
    note["run"] = "../vae"
    (place / "diffusion" / "autoencoder.json").write_text(json.dumps(note))
    assert load_run(place / "diffusion").shape == (4, 4, 2)  # moved with the run
    latents = json.loads((place / "vae" / "latents.json").read_text())
    (place / "vae" / "latents.json").write_text(json.dumps({**latents, "std": [1.0, 2.0]}))
    with pytest.raises(UserError, match="has other weights, or another scale of its latents, than those that"):
        load_run(place / "diffusion")
    arguments = train(place / "vae", place / "diffusion", steps=3)
    tiny.fails(capsys, arguments, "was trained on another autoencoder than")
    shutil.rmtree(place / "vae")
    with pytest.raises(UserError, match="there is no autoencoder in"):
        load_run(place / "diffusion")


@pytest.mark.slow
def test_what_encode_writes_is_trained_on_alike(folder, vae, tmp_path, capsys):
    kept = tmp_path / "kept"
    assert main(encode(vae, kept, "--shard-size", "500", "--batch-size", "100")) == 0
    note = json.loads((kept / "latents.json").read_text())
    assert note["moments"] == [4, 4, 4] and note["examples"] == 1257 and note["flips"] is False and not note["missing"]
    assert len(list(kept.glob("shard-*.npy"))) == 3
    np.testing.assert_allclose(note["statistics"]["mean"][:2], 0, atol=1e-3)
    coder = load_run(vae)
    with_means = np.load(kept / "shard-00001.npy")[3, 0, ..., :2]
    np.testing.assert_allclose(with_means, coder.encode(load_digits("train")[503]["image"][None])[0], atol=1e-4)
    space = {"name": "latents", "autoencoder": str(vae), "cache": str(kept)}
    assert main(train(vae, tmp_path / "run", space=space)) == 0
    # The same latents by the same keys, drawn of the same posteriors.
    for a, b in zip(*(jax.tree.leaves(load_run(place, which="params").params) for place in (folder, tmp_path / "run"))):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4)
    tiny.fails(capsys, encode(vae, kept), "is there already, and --overwrite replaces it")
    tiny.fails(
        capsys,
        train(vae, tmp_path / "b", space=space, **{"data.shift": 0.5}),
        "'data.shift' is 0.5, and with 'space.cache'",
    )
    tiny.fails(capsys, train(vae, tmp_path / "b", space={**space, "cache": str(tmp_path)}), "there are no latents in")
    (kept / "latents.json").write_text(json.dumps({**note, "data": {**note["data"], "count": 7}}))
    tiny.fails(
        capsys, train(vae, tmp_path / "b", space=space), "are of other data (another number of examples): encode them"
    )
    (kept / "latents.json").write_text(json.dumps({**note, "fingerprint": "0"}))
    tiny.fails(capsys, train(vae, tmp_path / "b", space=space), "are of another autoencoder,", "encode them again")
    assert not (tmp_path / "b").exists()


def test_pictures_are_encoded_turned_and_broken_ones_are_left_out(vae, tmp_path):
    from ml_collections import ConfigDict

    from diffusion_jax.systems.diffusion.data import training_batches
    from diffusion_jax.systems.diffusion.latent_cache import read_latents, write_latents

    class Pictures:
        def __len__(self):
            return 5

        def __getitem__(self, row):
            if row == 2:
                raise UserError("broken")
            return {"image": np.full((2, 2, 1), row * 50, np.uint8) + np.arange(2, dtype=np.uint8)[:, None] * 20}

    config = ConfigDict(
        {"system": "diffusion", "seed": 0, "batch_size": 5, "data": {"name": "folder", "path": "x", "on_error": "skip"}}
    )
    data = Pictures()
    write_latents(
        tmp_path / "kept", {"fingerprint": "f"}, config, data, np.asarray, flip=True, batch_size=2, shard_size=3
    )
    half = {"flip": True, "dtype": "float16", "overwrite": True, "progress": False}
    write_latents(tmp_path / "half", {"fingerprint": "f"}, config, data, np.asarray, **half)
    write_latents(tmp_path / "half", {"fingerprint": "f"}, config, data, np.asarray, **half)
    assert np.load(tmp_path / "half" / "shard-00000.npy").dtype == np.float16
    table = read_latents(tmp_path / "kept", "f", config, data, flip=True)
    assert list(np.flatnonzero(table.missing)) == [2]
    whole = np.concatenate(table.shards)
    assert whole.shape == (5, 2, 2, 2, 1)
    np.testing.assert_array_equal(whole[:, 1], whole[:, 0, :, ::-1])
    batch = training_batches(config, data, (2, 2, 1), lambda rows, rng: {"label": rows}, table)(0)
    assert sorted(batch["cond"]["label"]) == [0, 1, 3, 3, 4]
    for row, x0 in zip(batch["cond"]["label"], batch["x0"]):
        assert any((x0 == way).all() for way in whole[row])
    plain = read_latents(tmp_path / "kept", "f", config, data, flip=False)
    np.testing.assert_array_equal(plain.rows(np.arange(5), np.random.default_rng(0)), whole[:, 0])
    few = config.copy_and_resolve_references()
    few.data.error_share = 0.1
    for ask in (
        lambda: read_latents(tmp_path / "kept", "f", few, data, flip=True),
        lambda: write_latents(tmp_path / "few", {"fingerprint": "f"}, few, data, np.asarray, flip=True),
    ):
        with pytest.raises(UserError, match=r"more than 0.1 of the pictures to train on cannot be read \(1 of 5\)"):
            ask()
    assert not (tmp_path / "few").exists()
    note = json.loads((tmp_path / "kept/latents.json").read_text())
    (tmp_path / "kept/latents.json").write_text(json.dumps({**note, "flips": False}))
    with pytest.raises(UserError, match=r"'data.flip' is True, and the latents in .* are of pictures as they are"):
        read_latents(tmp_path / "kept", "f", config, data, flip=True)


def test_the_scale_of_a_stopped_autoencoder_is_measured_once(vae, tmp_path):
    """A training that ended before its last step notes none; what a diffusion run was trained in is not to change."""
    place = shutil.copytree(vae, tmp_path / "vae")
    told = json.loads((place / "latents.json").read_text())
    (place / "latents.json").unlink()
    found = autoencoder_at(place)
    np.testing.assert_allclose(found.shift, told["mean"], rtol=1e-5, atol=1e-6)
    assert json.loads((place / "latents.json").read_text())["weights"] == told["weights"]
    assert found.config["mean"] == list(map(float, json.loads((place / "latents.json").read_text())["mean"]))


def test_a_whole_checkpoint_says_how_its_autoencoder_is_named(tmp_path):
    file = tmp_path / "whole.safetensors"
    save_file({"first_stage_model.encoder.conv_in.weight": np.zeros((4, 3, 3, 3), np.float32)}, file)
    with pytest.raises(UserError, match="--model kl-f8 --out vae"):
        autoencoder_at(file)


WRONG = [
    ({"model.patch": 3}, "image_size 4 is not divided by patch 3"),
    ({"space": {"name": "latents", "autoencoder": "nowhere"}}, "there is no autoencoder in 'nowhere'"),
]


@pytest.mark.parametrize(("more", "said"), WRONG, ids=["patch", "nowhere"])
def test_what_cannot_be_is_one_line(vae, tmp_path, capsys, more, said):
    tiny.fails(capsys, train(vae, tmp_path / "run", **more), said)
