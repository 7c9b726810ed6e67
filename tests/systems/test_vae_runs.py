"""Autoencoder runs: trained by config, gone on with, measured, used, refused."""

import json
import re
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "cli"))
import smallruns as tiny

from diffusion_jax import load_pretrained, load_run
from diffusion_jax.cli import main
from diffusion_jax.convert.vae import load_vae
from diffusion_jax.data.sources.digits import load_digits
from diffusion_jax.nets import complete_vae
from diffusion_jax.systems.vae.measures import latents, reconstruction
from diffusion_jax.systems.vae.run import load_vae_run
from diffusion_jax.train.checkpoint import restore_params
from diffusion_jax.typing import UserError


@pytest.fixture(scope="module")
def folder(once):
    return once("tiny_vae", tiny.make_vae) / "vae"


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, *(restore_params(place / "checkpoints", "params") for place in (a, b)))


def test_its_latents_have_mean_0_and_variance_1_in_each_channel(folder):
    run = load_run(folder)
    images = np.stack([load_digits("train")[i]["image"] for i in range(1257)])
    assert run.image == (8, 8, 1) and run.factor == 2 and run.autoencoder.latent_shape(8, 8) == (4, 4, 2)
    x0 = np.asarray(run.encode(images, jax.random.key(0)))
    assert x0.shape == (1257, 4, 4, 2)
    np.testing.assert_allclose(x0.mean(axis=(0, 1, 2)), 0, atol=0.02)
    np.testing.assert_allclose(x0.std(axis=(0, 1, 2)), 1, atol=0.02)
    there = jax.jit(run.network.apply)(run.params, jnp.asarray(images[:5]))[0]
    np.testing.assert_allclose(run.decode(run.encode(images[:5])), there, atol=1e-4)
    np.testing.assert_allclose(run.reconstruct(images[:5], batch_size=2), np.clip(there, -1, 1), atol=1e-5)
    note = json.loads((folder / "latents.json").read_text())
    assert note["weights"] == run.fingerprint and note["examples"] == 1257
    assert "discriminator" not in run.params
    # Other weights have others, which are fitted when they are asked for.
    raw = load_run(folder, which="params")
    assert raw.statistics.mean != run.statistics.mean
    assert load_vae_run(folder.parent).path == folder


@pytest.mark.slow
def test_what_is_no_picture_or_latents_is_one_line(folder):
    run, blank = load_run(folder), np.zeros((1, 8, 8, 1), np.float32)
    levels = [np.full((8, 8, 1), 255, np.uint8)] * 2
    np.testing.assert_array_equal(run.encode(levels), run.encode(np.ones((2, 8, 8, 1), np.float32)))
    for ask in (run.encode, run.reconstruct):
        for given, said in (
            (blank + 255, r"images goes from 255 to 255, where pictures are in \[-1, 1\]"),
            (jnp.asarray(blank + 255), "images goes from 255 to 255"),
            (blank[..., [0, 0, 0]], r"images of shape \(1, 8, 8, 3\) are not \[batch, height, width, 1\]"),
            (blank[0], "images of shape"),
            (["a.png"], "images is .* not an array of floats"),
            (blank * np.nan, "images holds a value that is not finite"),
            (blank[:0], "images has shape .* at least one example"),
            (None, "images is None, not an array"),
            (5, "images .* not|images of shape"),
            (Image.new("L", (8, 8)), "images is a PIL image"),
        ):
            with pytest.raises(UserError, match=said):
                ask(given)
    for given in (np.zeros((1, 4, 4, 1), np.float32), np.zeros((4, 4, 2), np.float32)):
        with pytest.raises(UserError, match=r"latents of shape .* are not \[batch, height, width, 2\]"):
            run.decode(given)
    with pytest.raises(UserError, match="latents is the str 'x'"):
        run.decode("x")
    three = np.zeros((3, 8, 8, 1), np.float32)
    for count in (1, 2):
        with pytest.raises(UserError, match=rf"key is an array of \({count},\) keys for 3 images"):
            run.encode(three, jax.random.split(jax.random.key(0), count))
    one, each = jax.random.key(3), jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), jnp.arange(3))
    np.testing.assert_array_equal(run.encode(three, one), run.encode(three, each))
    np.testing.assert_array_equal(run.encode(three, one), run.encode(three, jax.random.PRNGKey(3)))


def test_it_goes_on_bit_for_bit(folder, tmp_path):
    """Both networks move on, the second from its step on."""
    run = Path(shutil.copytree(folder, tmp_path / "run"))
    before, after = (restore_params(run / "checkpoints", "params", step)["discriminator"] for step in (4, 6))
    shutil.rmtree(run / "checkpoints" / "6")
    assert main(tiny.vae_arguments(run)) == 0
    same(folder, run)
    assert any(np.abs(a - b).max() > 0 for a, b in zip(*map(jax.tree.leaves, (before, after))))


def test_pictures_stand_beside_what_comes_back_of_them(folder):
    with Image.open(folder / "samples" / "step_000006.png") as picture:
        assert picture.info["rows"] == "pictures; by raw weights; by averaged weights"
        assert picture.size[0] > 2 * picture.size[1]  # eight beside three
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {"reconstruction", "psnr", "perceptual", "kl", "adversary", "discriminator", "adaptive_weight"} <= set(
        rows[0]
    )
    assert rows[0]["adaptive_weight"] == 0 < rows[-2]["adaptive_weight"]  # from step 3 on
    assert {"val_loss", "val_loss_ema", "val_psnr_ema", "val_kl_ema"} <= set(rows[-1])


def plain(run):
    """The text of a run's page."""
    return re.sub("<[^>]*>", "", (run / "report" / "index.html").read_text())


def test_it_is_measured(folder, tmp_path):
    run = Path(shutil.copytree(folder, tmp_path / "run"))
    (run / "latents.json").unlink()
    assert main(["evaluate", "--run", str(run), "--samples", "40"]) == 0
    found = json.loads((run / "report" / "measures.json").read_text())
    made, run_weights = found["reconstruction"], found["latents"]["weights"]
    assert made["features"] == "pixels" and made["window"] == 7 and made["split"] == "test" and made["samples"] == 40
    assert 0 < made["psnr"] < 40 and -1 < made["ssim"] < 1 and made["frechet"] > 0 and made["frechet_real"] > 0
    assert found["latents"]["shape"] == [4, 4, 2] and found["latents"]["kl"] > 0
    np.testing.assert_allclose(found["latents"]["std"], 1, atol=0.1)
    assert (run / "latents.json").is_file()  # noted for those who use it
    assert main(["report", "--run", str(run)]) == 0
    page = plain(run)
    assert f"{made['psnr']:.1f} dB" in page and "What comes back" in page and "Latent 2" in page
    assert "nats a latent" in page and f"evaluate --run {run} --samples 40\n" in page
    for change in ("stale", "alone"):  # each metric is of the weights that it was taken of, and stands for itself
        if change == "stale":
            found["latents"]["weights"] = "0"
        else:
            found = {"latents": found["latents"] | {"weights": run_weights, "split": "validation", "samples": 30}}
        (run / "report" / "measures.json").write_text(json.dumps(found))
        assert main(["report", "--run", str(run)]) == 0
        page = plain(run)
        assert ("nats a latent" in page) == (change == "alone") and (" dB" in page) == (change == "stale")
        how = "reconstruction --samples 40" if change == "stale" else "latents --samples 30 --split validation"
        assert f"evaluate --run {run} --metric {how}\n" in page


def test_of_one_picture_latents_are_measured(folder):
    """A Frechet distance is of two at least."""
    run = load_run(folder)
    assert latents(run, split="test", samples=1, say=lambda line: None)["samples"] == 1
    with pytest.raises(UserError, match=r"the test split has 360 pictures, of which 1 is measured: .* needs two"):
        reconstruction(run, split="test", samples=1, say=lambda line: None)


def test_it_is_written_for_others(folder, tmp_path, capsys):
    """diffusers' folder has the statistics of the latents; of that folder latent diffusion's file, bit for bit."""
    there, file = tmp_path / "vae", tmp_path / "vae.safetensors"
    assert main(["convert", str(folder), "--out", str(there)]) == 0
    run, images = load_run(folder), np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 8, 8, 1)
    published = load_pretrained(there)
    np.testing.assert_allclose(published.encode(images), run.encode(images), rtol=1e-5, atol=1e-5)
    assert main(["convert", str(there), "--format", "latent", "--out", str(file)]) == 0
    again = load_vae(file, complete_vae, config=published.config)[1]
    jax.tree.map(np.testing.assert_array_equal, again, published.params)
    assert "holds no sizes and no scale of the latents" in capsys.readouterr().err
    assert main(["convert", str(there), "--format", "guided", "--out", str(file), "--overwrite"]) == 2
    assert "AutoencoderKL" in capsys.readouterr().err


@pytest.mark.slow
def test_one_with_a_codebook_is_trained_and_measured(tmp_path, capsys):
    assert main(tiny.vae_arguments(tmp_path / "vq", f"{tiny.VAE}:vq")) == 0
    run = load_run(tmp_path / "vq")
    x0 = run.encode(load_digits("test")[0]["image"][None])
    np.testing.assert_array_equal(run.encode(load_digits("test")[0]["image"][None], jax.random.key(1)), x0)
    assert main(["evaluate", "--run", str(tmp_path / "vq"), "--samples", "20", "--metric", "latents"]) == 0
    assert 0 < json.loads((tmp_path / "vq/report/measures.json").read_text())["latents"]["used"] <= 1


@pytest.mark.slow
def test_a_clip_may_say_how_unlike_pictures_look(once, tmp_path, capsys):
    clip = once("tiny", tiny.make) / "clip"
    own = Path(shutil.copytree(clip, tmp_path / "clip"))
    assert main(tiny.vae_arguments(tmp_path / "run", **{"loss.perceptual": str(own)})) == 0
    assert json.loads((tmp_path / "run/perceptual.json").read_text())["run"] == "../clip"
    shutil.rmtree(own)
    assert main(tiny.clip_arguments(tmp_path, seed=1)) == 0
    arguments = tiny.vae_arguments(tmp_path / "run", **{"loss.perceptual": str(own), "steps": 7})
    tiny.fails(capsys, arguments, "was trained on another encoder of the perceptual loss than")


WRONG = [
    ({"adversary.layers": 3}, "'adversary.layers' is 3: pictures of 8 x 8 are too small for so many; nearest: 1"),
    ({"adversary.start": 6}, "'adversary.start' is 6, which is not below key 'steps', 6: it would never count; nearest: 5"),
    ({"model.channels": (8, 8, 8, 8, 8)}, "a picture of 8 x 8 is not halved 4 times"),
    ({"model.groups": 3}, "8 channels are not divided by 3 groups of a norm; nearest: 2"),
    ({"loss.perceptual": "lpips"}, "loss.perceptual 'lpips' is neither of 'none' and 'laplacian'"),
    ({"loss.beta": 0.25}, "config key 'loss.beta' does not exist"),
    ({"model.codes": 8}, "config key 'model.codes' does not exist"),
    ({"model.attends": "(True,)"}, "attends are 1 for 2 levels"),
    ({"adversary.rate": 0.0}, "'adversary.rate' is 0.0; it is a multiple of the learning rate above 0"),
    ({"preprocess": "{'size': 8}"}, "'preprocess' is {'size': 8}: the data 'digits' are arrays"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "said"), WRONG, ids=[next(iter(options)) for options, _ in WRONG])
def test_what_cannot_be_is_one_line(tmp_path, capsys, options, said):
    tiny.fails(capsys, tiny.vae_arguments(tmp_path / "run", **options), said)
    assert not (tmp_path / "run").exists()
