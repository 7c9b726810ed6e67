"""CLIP checkpoints: round trips to the bit, every format from every other, and one line for each thing that can be wrong."""

import json
import re

import jax
import jaxtyping
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_clip_goldens import MODEL, NAMES, checkpoint

from diffusion_jax import load_pretrained, load_run
from diffusion_jax.convert import load_clip, resize_image, resize_positions, resize_text, save_clip
from diffusion_jax.convert.clip_keys import ignored
from diffusion_jax.convert.files import staged, write_tensors
from diffusion_jax.nets import CLIP, Network, clip_model
from diffusion_jax.systems.clip.run import load_clip as load_clip_run
from diffusion_jax.systems.diffusion.run import load_diffusion
from diffusion_jax.typing import UserError


def same_tree(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("name", NAMES)
def test_reading_and_writing_gives_the_same_bits(name, tmp_path):
    (tmp_path / "a").mkdir()
    golden, weights = checkpoint(name, tmp_path / "a")
    config, params = load_clip(tmp_path / "a")
    file = save_clip(tmp_path / "b", config, params, str(golden["kind"]))
    written = load_file(file)
    kept = {name: value for name, value in weights.items() if not ignored(name)}
    assert written.keys() == kept.keys()
    for key, value in kept.items():
        assert value.dtype == written[key].dtype and value.shape == written[key].shape, key
        assert value.tobytes() == written[key].tobytes(), key
    again, params_again = load_clip(tmp_path / "b")
    sizes = {key: {k: v for k, v in again[key].items() if k != "init"} for key in ("vision", "text")}
    assert sizes == {key: {k: v for k, v in config[key].items() if k != "init"} for key in ("vision", "text")}
    same_tree(params, params_again)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_comes_back_as_it_was(dtype, tmp_path):
    (tmp_path / "a").mkdir()
    _, weights = checkpoint("hf_clip", tmp_path / "a")
    kind = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[dtype]
    half = {name: value.astype(kind) for name, value in weights.items()}
    save_file(half, tmp_path / "a" / "model.safetensors")
    config, params = load_clip(tmp_path / "a")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    written = load_file(save_clip(tmp_path / "b", config, params, "hf", dtype=dtype))
    for name, value in half.items():
        assert written[name].dtype == value.dtype
        np.testing.assert_array_equal(written[name], value)


def test_every_format_of_clip_from_every_other(tmp_path):
    (tmp_path / "a").mkdir()
    checkpoint("openai_vit", tmp_path / "a")
    config, params = load_clip(tmp_path / "a")
    for number, format in enumerate(("hf", "openai", "open_clip", "hf", "open_clip")):
        place = tmp_path / f"{number}{'.safetensors' if format == 'openai' else ''}"
        save_clip(place, config, params, format)
        config, found = load_clip(place)
        same_tree(params, found)
        assert config["vision"]["activation"] == config["text"]["activation"] == "quick_gelu"
        assert config["preprocess"]["mean"][0] == pytest.approx(0.48145466)


def test_shards_and_one_tower_and_prefixes(tmp_path):
    golden, weights = checkpoint("hf_clip", tmp_path)
    params = load_clip(tmp_path)[1]
    names = sorted(weights)
    shards = tmp_path / "shards"
    shards.mkdir()
    index = {}
    for i, part in enumerate((names[::2], names[1::2])):
        file = f"model-{i}.safetensors"
        save_file({name: weights[name] for name in part}, shards / file)
        index |= dict.fromkeys(part, file)
    (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (shards / "config.json").write_text(str(golden["config"]))
    same_tree(load_clip(shards)[1], params)
    (shards / "model-1.safetensors").unlink()
    with pytest.raises(UserError, match=r"names shards that are not there: model-1\.safetensors"):
        load_clip(shards)

    text = tmp_path / "text"
    text.mkdir()
    told = json.loads(str(golden["config"]))
    (text / "config.json").write_text(json.dumps({**told["text_config"], "architectures": ["CLIPTextModel"]}))
    for prefix in ("text_model.", ""):
        part = {n.replace("text_model.", prefix): v for n, v in weights.items() if n.startswith("text_model.")}
        save_file(part, text / "model.safetensors")
        alone, tower = load_clip(text)
        assert alone["embed"] is None and "vision" not in alone
        same_tree(tower["text"], {k: v for k, v in params["text"].items() if k != "proj"})


def test_open_clips_custom_text_prefix_and_position_ids_are_read(tmp_path):
    _, weights = checkpoint("openai_vit", tmp_path)
    params = load_clip(tmp_path)[1]
    custom = {n if n.startswith(("visual.", "logit")) else f"text.{n}": v for n, v in weights.items()}
    save_file({**custom, "text.attn_mask": np.zeros((12, 12), np.float32)}, tmp_path / "open_clip_model.safetensors")
    same_tree(load_clip(tmp_path)[1], params)


def test_all_that_does_not_fit_is_told_at_once(tmp_path):
    _, weights = checkpoint("openai_vit", tmp_path)
    del weights["visual.transformer.resblocks.0.ln_1.weight"], weights["visual.transformer.resblocks.1.ln_1.weight"]
    weights["ln_final.bias"] = np.zeros(65, np.float32)
    weights["visual.extra"] = np.zeros(2, np.float32)
    save_file(weights, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(UserError) as error:
        load_clip(tmp_path)
    said = str(error.value)
    assert "2 missing: visual.transformer.resblocks.{0,1}.ln_1.weight" in said
    assert "1 extra: visual.extra" in said
    assert "1 misshapen: ln_final.bias [65] (should be [64])" in said
    assert "\n" not in said


def test_what_is_no_clip_is_one_line(tmp_path):
    def refused(said, path=tmp_path, **options):
        with pytest.raises(UserError) as error:
            load_clip(path, **options)
        assert said in str(error.value) and "\n" not in str(error.value)

    refused("no weights in")
    (tmp_path / "notes.txt").write_text("x")
    refused("ends in '.txt'", tmp_path / "notes.txt")
    refused("did you mean", tmp_path / "notes.tx")
    unet = {"down_blocks.0.resnets.0.conv1.weight": np.zeros((2, 2), np.float32)}
    save_file(unet, tmp_path / "model.safetensors")
    refused("holds no CLIP or SigLIP: its 1 tensors have names such as down_blocks.0.resnets.0.conv1.weight")
    (tmp_path / "model.safetensors").write_bytes(b"abc" * 40)
    refused("is damaged or no safetensors file")
    checkpoint("hf_clip", tmp_path)
    for load in (load_run, load_clip_run, load_diffusion):
        with pytest.raises(UserError, match="holds published weights, not a run: load_pretrained reads them"):
            load(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-5])
    refused("is damaged or no safetensors file")
    (tmp_path / "model.safetensors").write_bytes(whole)
    for wrong, said in (
        ({"model_type": "bert", "architectures": ["BertModel"]}, "model_type 'bert' (BertModel) is not CLIP or SigLIP"),
        ({"model_type": "clip", "vision_config": {"hidden_act": "relu"}}, "hidden_act 'relu' is not known"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(wrong))
        refused(said)
    (tmp_path / "config.json").write_text("{")
    refused("is not readable as JSON")
    (tmp_path / "config.json").unlink()
    refused("config.json is missing beside the weights")
    (tmp_path / "model.safetensors").unlink()
    checkpoint("openai_vit", tmp_path)
    with pytest.raises(UserError, match="holds published weights, not a run"):
        load_run(tmp_path)
    (tmp_path / "open_clip_config.json").unlink()
    refused("weights alone do not tell the activation and the heads")
    refused("missing: visual.transformer.resblocks.{3,4,5", config=clip_model("ViT-B-32"))


@pytest.mark.parametrize("load", [load_run, load_clip_run, load_diffusion, load_pretrained])
def test_what_is_no_path_and_a_run_for_weights_are_one_line(load, tmp_path, monkeypatch):
    # Off: the suite's own checks of types, which a user does not have.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for given, said in (
        (None, "path is None, not a path"),
        (3, "path is the int 3, not a path"),
        ("", "path is '', not a path"),
    ):
        with pytest.raises(UserError, match=said):
            load(given)
    for place in (".", "clip"):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / "config.json").write_text('{"system": "clip"}')
        with pytest.raises(UserError, match=r"is a run: load_run reads it$"):
            load_pretrained(tmp_path)
        (tmp_path / place / "config.json").unlink()


def test_formats_refuse_what_they_cannot_hold(tmp_path):
    (tmp_path / "a").mkdir()
    for name, format, said in (
        ("openai_resnet", "hf", "a ResNet tower has no layout in Hugging Face folders"),
        ("hf_siglip", "open_clip", "open_clip has no config for a SigLIP"),
        ("laion_vit", "openai", "vision.activation 'gelu' would come back as 'quick_gelu'.*; nearest: 'open_clip'"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        checkpoint(name, folder)
        config, params = load_clip(folder)
        out = tmp_path / (f"out_{name}.safetensors" if format == "openai" else f"out_{name}")
        with pytest.raises(UserError, match=said):
            save_clip(out, config, params, format)
        assert not out.exists()
    with pytest.raises(UserError, match="did you mean 'open_clip'"):
        save_clip(tmp_path / "x", config, params, "openclip")
    with pytest.raises(UserError, match="writes a folder"):
        save_clip(tmp_path / "x.safetensors", config, params, "open_clip")
    del params["text"]["ln_final"]
    with pytest.raises(UserError, match="2 missing: text/ln_final/bias, text/ln_final/scale"):
        save_clip(tmp_path / "x", config, params, "hf")


def test_pytorch_files_without_pytorch_say_so(tmp_path, monkeypatch):
    import builtins

    real = builtins.__import__

    def without(name, *rest, **more):
        if name == "torch":
            raise ImportError(name)
        return real(name, *rest, **more)

    (tmp_path / "ViT-B-32.pt").write_bytes(b"PK")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="is in PyTorch's format, for which PyTorch must be installed"):
        load_clip(tmp_path / "ViT-B-32.pt")
    with pytest.raises(UserError, match=f"^{re.escape(repr(str(tmp_path / 'x.pt')))} is in PyTorch's format"):
        save_clip(tmp_path / "x.pt", {}, {}, "openai")
    with pytest.raises(UserError, match=r"/y\.pt' is"), staged(tmp_path / "y.pt", folder=False) as place:
        write_tensors(place, {})


def test_positions_of_another_grid_keep_what_they_must():
    rng = np.random.default_rng(0)
    positions = rng.standard_normal((1 + 49, 3)).astype(np.float32)
    same = resize_positions(positions, 7, first=1)
    np.testing.assert_array_equal(same, positions)
    larger = resize_positions(positions, 14, first=1)
    assert larger.shape == (1 + 196, 3)
    np.testing.assert_array_equal(larger[0], positions[0])
    # A plane stays a plane: a symmetric kernel is exact for it where it meets no edge.
    y, x = np.meshgrid(np.arange(16.0), np.arange(16.0), indexing="ij")
    plane = (2 + 0.5 * x - 0.25 * y).reshape(256, 1).astype(np.float32)
    for side, inner in ((32, slice(4, -4)), (8, slice(2, -2))):
        place = (np.arange(side) + 0.5) * 16 / side - 0.5
        wanted = 2 + 0.5 * place[None, :] - 0.25 * place[:, None]
        found = resize_positions(plane, side, first=0).reshape(side, side)
        np.testing.assert_allclose(found[inner, inner], wanted[inner, inner], atol=1e-5)
    with pytest.raises(UserError, match="48 positions are not a square grid"):
        resize_positions(positions[:49], 14, first=1)


@pytest.mark.parametrize(("name", "size"), [("openai_vit", 24), ("openai_resnet", 96), ("hf_siglip", 24)])
def test_another_resolution_runs(name, size, tmp_path):
    checkpoint(name, tmp_path)
    config, params = load_clip(tmp_path, image_size=size)
    network = Network(lambda rngs: CLIP(rngs, **{key: config[key] for key in MODEL}))
    shape = jax.eval_shape(network.method("encode_image"), params, np.zeros((1, size, size, 3), np.float32))
    assert shape.embedding.shape == (1, config["embed"])
    with pytest.raises(UserError, match="is not divided by"):
        resize_image(config, params, size + 1)


def test_texts_of_another_length(tmp_path):
    checkpoint("openai_vit", tmp_path)
    config, params = load_clip(tmp_path, context_length=20)
    assert params["text"]["positional_embedding"].shape == (20, 64) and config["text"]["context_length"] == 20
    cut, shorter = resize_text(config, params, 5)
    np.testing.assert_array_equal(shorter["text"]["positional_embedding"], params["text"]["positional_embedding"][:5])
    assert cut["text"]["context_length"] == 5
    with pytest.raises(UserError, match="context_length 1 is not at least 2"):
        resize_text(config, params, 1)
