"""`diffusion-jax convert`, and published weights as a run of one's own."""

import json
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import smallruns as tiny
from PIL import Image
from safetensors.numpy import load_file, save_file

from diffusion_jax import load_pretrained, load_run
from diffusion_jax.cli import main
from diffusion_jax.convert import load_clip, save_clip
from diffusion_jax.data.text.bpe_learning import learn_vocabulary
from diffusion_jax.data.text.word_tokenizer import WordTokenizer
from diffusion_jax.nets import CLIP_MODELS
from diffusion_jax.systems.clip.pretrained import read_weights
from diffusion_jax.typing import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "convert"))

from test_clip_goldens import checkpoint
from test_clip_held import TEXT, VISION, model, weights

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
        ([source + "x", "--out", out, "--format", "openai"], f"file, not {out!r}; nearest: '{out}.safetensors'"),
        ([source + "x", "--out", source, "--format", "openai", "--overwrite"], f"{source!r} is a folder; nearest: "),
    ):
        tiny.fails(capsys, ["convert", *arguments], said)
        assert not Path(out).exists()


def test_a_run_of_ones_own_is_written_for_others(tmp_path, capsys):
    run_folder = tmp_path / "run"
    assert main(tiny.clip_arguments(run_folder)) == 0  # in its subfolder "clip"
    assert main(["convert", str(run_folder), "--out", str(tmp_path / "hf")]) == 0
    said = capsys.readouterr().err
    assert "read back the same" in said and "note: no format holds the run's WordTokenizer: texts must be given" in said
    for format, key in (
        ("open_clip", "vision.channels 1 would come back as 3"),
        ("openai", "vision.heads 4 would come"),
    ):
        out = tmp_path / f"{format}.safetensors"
        arguments = ["convert", str(run_folder), "--out", str(out.with_suffix("") if format == "open_clip" else out)]
        tiny.fails(capsys, [*arguments, "--format", format], key, "; nearest: 'hf'")
        assert not list(tmp_path.glob(f"*{format}*"))
    run = load_run(run_folder)
    other = load_pretrained(tmp_path / "hf", tokenizer=run.tokenizer)
    images = np.linspace(-1, 1, 2 * 64).reshape(2, 8, 8, 1).astype(np.float32)
    np.testing.assert_allclose(other.encode_text(["a seven"]), run.encode_text(["a seven"]), atol=1e-5)
    encode, images = other.network.method("encode_image"), jnp.asarray(images)
    mine = encode(run.params, images).embedding
    np.testing.assert_allclose(encode(other.params, images).embedding, mine, atol=1e-5)


SMALL = {"vision": VISION, "text": TEXT, "embed": 64}


@pytest.fixture
def small_names(monkeypatch):
    """`Small` and `Small-quickgelu` among the published models: as ViT-B-32 and its twin, in small."""
    for name, activation in (("Small", "gelu"), ("Small-quickgelu", "quick_gelu")):
        towers = {tower: {**SMALL[tower], "activation": activation} for tower in ("vision", "text")}
        monkeypatch.setitem(CLIP_MODELS, name, {"embed": 64, **towers})


def test_a_name_that_contradicts_the_weights_is_refused(small_names, tmp_path, capsys):
    """Quick-GELU weights named as those of a model of exact GELU, which has the same shapes."""
    config = model()
    save_clip(tmp_path / "a.safetensors", config, weights(config), "openai")
    for format in ("hf", "open_clip"):
        save_clip(tmp_path / format, config, weights(config), format)
    said = "vision.activation 'quick_gelu', not 'gelu', text.activation 'quick_gelu', not 'gelu'; nearest: 'Small-quickgelu'"
    for source in ("a.safetensors", "hf", "open_clip"):
        wrong = ["convert", str(tmp_path / source), "--out", str(tmp_path / "out"), "--model"]
        tiny.fails(capsys, [*wrong, "Small"], "is no 'Small' by what its own files say: " + said)
        assert not (tmp_path / "out").exists()
        with pytest.raises(UserError, match="is no 'Small' by what its own files say"):
            load_pretrained(tmp_path / source, model="Small", tokenizer=WORDS)
        assert load_pretrained(tmp_path / source, model="Small-quickgelu", tokenizer=WORDS).config.model.embed == 64
    tensors = load_file(tmp_path / "open_clip" / "open_clip_model.safetensors")
    bare = tmp_path / "bare"
    bare.mkdir()
    for name, wrong in (("vit-openai", "Small"), ("small_laion2b", "Small-quickgelu")):
        save_file(tensors, bare / f"{name}.safetensors")
        arguments = ["convert", str(bare / f"{name}.safetensors"), "--out", str(tmp_path / "out"), "--model", wrong]
        tiny.fails(capsys, arguments, "by its name holds weights of activation")
    save_file(tensors, bare / "small.safetensors")
    for name, activation in (("Small", "gelu"), ("Small-quickgelu", "quick_gelu")):
        assert read_weights(bare / "small.safetensors", name)[0]["text"]["activation"] == activation


def test_the_vocabulary_beside_weights_is_theirs_or_it_is_said(tmp_path, capsys):
    learn_vocabulary(["a red square", "a red circle"] * 3, 6, tmp_path / "words")
    ids = len(json.loads((tmp_path / "words" / "vocab.json").read_text()))
    beside = {file.name: file.read_bytes() for file in (tmp_path / "words").iterdir()}

    def converted(size, format, out, *more):
        source = tmp_path / f"{size}"
        config = model(text={"vocabulary_size": size})
        if not source.exists():
            save_clip(source, config, weights(config), "hf", beside=beside)
        code = main(["convert", str(source), "--out", str(tmp_path / out), "--format", format, *more])
        return code, capsys.readouterr().err

    code, said = converted(ids, "hf", "b")
    assert code == 0 and "its vocabulary beside it; read back the same" in said and "note" not in said
    run, again = load_pretrained(tmp_path / f"{ids}"), load_pretrained(tmp_path / "b")
    assert run.tokenizer == again.tokenizer
    np.testing.assert_array_equal(run.encode_text(["a red square"]), again.encode_text(["a red square"]))
    assert "note: open_clip takes CLIP's own vocabulary" in converted(ids, "open_clip", "c")[1]
    code, said = converted(ids, "openai", "d.safetensors")
    assert code == 0 and "note: OpenAI's format is one file: the vocabulary is not in it" in said
    code, said = converted(ids - 1, "hf", "e")
    assert code == 0 and "it is not written" in said and not (tmp_path / "e" / "vocab.json").exists()
    assert "see that they belong together" in converted(ids + 1, "hf", "f")[1]
    code, said = converted(ids - 1, "hf", "f", "--overwrite")
    assert code == 2 and "holds vocab.json, merges.txt, which is not of this model: remove it first" in said
    one_tower = {key: value for key, value in model().items() if key != "text"}
    save_clip(tmp_path / "vision", one_tower, {"visual": weights(model())["visual"]}, "hf")
    out = ["convert", str(tmp_path / "vision"), "--out", str(tmp_path / "g")]
    tiny.fails(capsys, [*out, "--format", "open_clip"], "this one is without text; nearest: 'hf'")
    assert main(out) == 0


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
    with pytest.raises(UserError, match=r"no vocabulary beside the weights.*on the command line --tokenizer PATH"):
        load_pretrained(tmp_path)
    big = WordTokenizer(tuple(f"w{i}" for i in range(70)), 12)
    with pytest.raises(UserError, match="the tokenizer has 73 ids, the text tower 60"):
        load_pretrained(tmp_path, tokenizer=big)
