"""`diffusion-jax convert`, and published weights as a run of one's own."""

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import smallruns as tiny
from PIL import Image

from diffusion_jax import load_pretrained, load_run
from diffusion_jax.cli import main
from diffusion_jax.convert import load_clip
from diffusion_jax.data.tokenizer import WordTokenizer
from diffusion_jax.typing import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "convert"))

from test_clip_goldens import checkpoint

WORDS = WordTokenizer(tuple("abcdefgh"), 12)


def test_one_format_into_another_and_another_resolution(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    checkpoint("openai_vit", tmp_path / "a")
    assert main(["convert", str(tmp_path / "a"), "--out", str(tmp_path / "b"), "--format", "hf"]) == 0
    assert "million parameters written to" in capsys.readouterr().err
    grown = ["convert", str(tmp_path / "b"), "--out", str(tmp_path / "c"), "--image-size", "24", "--dtype", "float16"]
    assert main(grown) == 0
    config, params = load_clip(tmp_path / "c")
    assert config["vision"]["image_size"] == 24 and params["visual"]["positional_embedding"].shape == (37, 64)


def test_what_convert_refuses_is_one_line(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    checkpoint("openai_vit", tmp_path / "a")
    source, out = str(tmp_path / "a"), str(tmp_path / "b")
    for arguments, said in (
        ([source, "--out", source], "exists; choose another, or --overwrite"),
        ([source, "--out", out, "--format", "huggingface"], "--format 'huggingface' is not known"),
        ([source, "--out", out, "--dtype", "float8"], "--dtype 'float8' is not known; did you mean"),
        ([source, "--out", out, "--model", "ViT-B32"], "CLIP model 'ViT-B32' is not known; did you mean 'ViT-B-32'?"),
        ([source, "--out", out, "--image-size", "23"], "image_size 23 is not divided by 4; nearest: 24"),
        ([source + "x", "--out", out], "does not exist; did you mean"),
    ):
        tiny.fails(capsys, ["convert", *arguments], said)
        assert not Path(out).exists()


def test_a_run_of_ones_own_is_written_for_others(tmp_path, capsys):
    run_folder = tmp_path / "run"
    assert main(tiny.clip_arguments(run_folder)) == 0  # in its subfolder "clip"
    assert main(["convert", str(run_folder), "--out", str(tmp_path / "hf")]) == 0
    capsys.readouterr()
    run = load_run(run_folder)
    other = load_pretrained(tmp_path / "hf", tokenizer=run.tokenizer)
    images = np.linspace(-1, 1, 2 * 64).reshape(2, 8, 8, 1).astype(np.float32)
    np.testing.assert_allclose(other.encode_text(["a seven"]), run.encode_text(["a seven"]), atol=1e-5)
    encode, images = other.network.method("encode_image"), jnp.asarray(images)
    mine = encode(run.params, images).embedding
    np.testing.assert_allclose(encode(other.params, images).embedding, mine, atol=1e-5)


def test_pretrained_weights_see_pictures_of_any_kind(tmp_path):
    checkpoint("openai_vit", tmp_path)
    run = load_pretrained(tmp_path, tokenizer=WORDS)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 16, 16, 3), np.uint8)
    Image.fromarray(pixels[0]).save(tmp_path / "a.png")
    from_arrays = run.encode_image(pixels)
    np.testing.assert_allclose(np.linalg.norm(from_arrays, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(run.encode_image([tmp_path / "a.png"])[0], from_arrays[0], atol=1e-6)
    np.testing.assert_allclose(run.encode_image(str(tmp_path / "a.png"))[0], from_arrays[0], atol=1e-6)
    unit = pixels.astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(run.encode_image(unit), from_arrays, atol=1e-5)
    np.testing.assert_allclose(
        np.asarray(run.image_encoder(unit))[0] / np.linalg.norm(run.image_encoder(unit)[0]), from_arrays[0], atol=1e-5
    )
    assert run.encode_text(["a b", ""]).shape == (2, 24)
    assert run.condition(["a b"])["tokens"].shape == (1, 12, 64)
    with pytest.raises(UserError, match=r"images of shape \(8, 8, 3\): this tower takes \(16, 16, 3\)"):
        run.encode_image(np.zeros((1, 8, 8, 3), np.float32))
    with pytest.raises(UserError, match="are not in"):
        run.encode_image(pixels.astype(np.float32))


def test_pretrained_weights_need_a_vocabulary_that_fits(tmp_path):
    checkpoint("openai_vit", tmp_path)
    with pytest.raises(UserError, match="no vocabulary beside the weights"):
        load_pretrained(tmp_path)
    big = WordTokenizer(tuple(f"w{i}" for i in range(70)), 12)
    with pytest.raises(UserError, match="the tokenizer has 73 ids, the text tower 60"):
        load_pretrained(tmp_path, tokenizer=big)
