"""Stable Diffusion in one file, saved as a folder, and with a LoRA: the same pictures, and what is refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from described import build
from safetensors.numpy import load_file, save_file

from diffusion_jax.cli import main
from diffusion_jax.convert import save_lora
from diffusion_jax.convert.entries import flatten, write
from diffusion_jax.nets import Network, UNet, complete_unet, complete_vae, unet_model
from diffusion_jax.pipelines import load_pipeline
from diffusion_jax.pipelines.descriptions import DDIM, MODELS, Description, Tower
from diffusion_jax.pipelines.single_file import single_file_entries
from diffusion_jax.train.lora import init_lora
from diffusion_jax.typing import UserError

GOLDEN = Path(__file__).parent / "golden"
SD1 = ("cond_stage_model.transformer.", "hf", None)
XL = (
    ("conditioner.embedders.0.transformer.", "hf", None),
    ("conditioner.embedders.1.model.", "open_clip", "!"),
)
FEW = {"num_steps": 2, "seed": 3, "guidance_scale": 1.0, "output": "latent"}
BUFFERS = {
    "alphas_cumprod": np.zeros(4, np.float32), "model_ema.diffusion_modelout2bias": np.zeros(4, np.float32),
    "model_ema.num_updates": np.array(3), "first_stage_model.loss.logvar": np.zeros((), np.float32),
    "cond_stage_model.transformer.text_model.embeddings.position_ids": np.arange(12)[None],
}  # fmt: skip


def described(pipeline, towers):
    """The description of a pipeline whose text encoders lie at `towers` in a file."""
    told = {**pipeline.scheduler.fields, "_class_name": pipeline.scheduler.name}
    encoders = zip(towers, pipeline.encoders, strict=True)
    made = tuple(
        Tower(prefix, layout, encoder.config["embed"], encoder.config["text"], pad)
        for (prefix, layout, pad), encoder in encoders
    )
    return Description(
        pipeline.kind, pipeline.unet_config, pipeline.vae.config, made, told, pipeline.size, pipeline.zeros
    )


def written(path, pipeline, description, dtype=np.float16, projections="conv", square=True, **more):
    """A single file of a pipeline's weights."""
    rules = single_file_entries(
        description, pipeline.unet_config, pipeline.vae.config, projections=projections, square=square
    )
    texts = {str(i): {"text": encoder.params} for i, encoder in enumerate(pipeline.encoders)}
    tensors = write(rules, {"unet": pipeline.params, "vae": pipeline.vae.params, "text": texts}, "a file")
    save_file({**{name: value.astype(dtype) for name, value in tensors.items()}, **BUFFERS, **more}, path)
    return path


def leaves(pipeline):
    trees = {"unet": pipeline.params, "vae": pipeline.vae.params}
    trees |= {str(i): encoder.params for i, encoder in enumerate(pipeline.encoders)}
    return {name: np.asarray(leaf) for name, leaf in flatten(trees)}


def same(first, second):
    """Every bit of the weights, and everything else that draws."""
    ours, theirs = leaves(first), leaves(second)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    for name in ("kind", "unet_config", "size", "zeros", "aesthetics", "linear"):
        assert getattr(first, name) == getattr(second, name), name
    for name in ("name", "fields"):
        assert getattr(first.scheduler, name) == getattr(second.scheduler, name), name
    assert first.vae.config == second.vae.config
    for one, other in zip(first.encoders, second.encoders, strict=True):
        assert one.config["text"] == other.config["text"] and one.config["embed"] == other.config["embed"]
        assert one.pad == other.pad and one.tokenizer == other.tokenizer
    return True


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("single")
    return {kind: build(GOLDEN / f"{kind}.json", root / kind) for kind in ("sd1", "xl")}


@pytest.fixture(scope="module")
def pipelines(folders):
    return {kind: load_pipeline(folder) for kind, folder in folders.items()}


@pytest.fixture(scope="module")
def description(pipelines):
    return described(pipelines["sd1"], [SD1])


@pytest.fixture(scope="module")
def file(pipelines, description, tmp_path_factory):
    return written(tmp_path_factory.mktemp("file") / "model.safetensors", pipelines["sd1"], description)


@pytest.fixture(scope="module")
def drawn(pipelines):
    return pipelines["sd1"].generate("a cat", **FEW)


@pytest.fixture(scope="module")
def lora(pipelines, tmp_path_factory):
    """A LoRA of the U-Net and of the text encoder."""
    pipeline = pipelines["sd1"]
    trees = {"unet": pipeline.params, "text_encoder": {"text": pipeline.encoders[0].params}}
    loras = {
        name: jax.tree.map(
            lambda leaf: np.full(leaf.shape, 0.2, np.float32) if leaf.ndim >= 2 else np.asarray(leaf),
            init_lora(tree, jax.random.key(i), rank=2),
        )
        for i, (name, tree) in enumerate(trees.items())
    }
    configs = {"unet": pipeline.unet_config, "text_encoder": pipeline.encoders[0].config}
    return save_lora(tmp_path_factory.mktemp("lora") / "style.safetensors", loras, **configs)


def test_one_file_draws_the_folders_pictures(pipelines, description, file, folders, drawn):
    """Weights in float16, and buffers and averages beside them."""
    found = load_pipeline(file, tokenizer=folders["sd1"] / "tokenizer", model=description)
    assert same(found, pipelines["sd1"]) and found.path == file
    np.testing.assert_array_equal(found.generate("a cat", **FEW), drawn)


def test_a_saved_folder_draws_the_same_pictures(pipelines, tmp_path, lora):
    """With a LoRA in it, which is saved as it is merged."""
    made = pipelines["sd1"].with_lora(lora, 0.5)
    assert made.save(tmp_path / "new" / "sd") == tmp_path / "new" / "sd"
    found = load_pipeline(tmp_path / "new" / "sd")
    assert same(found, made)
    np.testing.assert_array_equal(found.generate("a cat", **FEW), made.generate("a cat", **FEW))


def test_what_was_half_precision_is_saved_so_without_loss(pipelines, tmp_path):
    assert same(load_pipeline(pipelines["sd1"].save(tmp_path / "half", "float16")), pipelines["sd1"])
    for name in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"):
        held = load_file(tmp_path / "half" / f"{name}.safetensors")
        assert {value.dtype for value in held.values()} == {np.dtype(np.float16)}


def test_xl_in_one_file_and_as_a_folder(pipelines, folders, tmp_path):
    """Two encoders, the second in open_clip's names; linear ends of the transformers, which its file has."""
    pipeline = pipelines["xl"]
    assert pipeline.linear and not pipelines["sd1"].linear
    description = described(pipeline, XL)
    file = written(tmp_path / "xl.safetensors", pipeline, description, np.float32, "linear", square=False)
    found = load_pipeline(file, tokenizer=folders["xl"] / "tokenizer", model=description)
    assert same(found, pipeline)
    assert same(load_pipeline(found.save(tmp_path / "xl")), pipeline)


@pytest.mark.slow
def test_the_refiners_one_encoder_is_the_second(pipelines, tmp_path):
    """Its index names no first encoder, and a score of beauty."""
    xl = pipelines["xl"]
    width = xl.encoders[1].width
    heard = {**xl.unet_config["hearing"], "tokens": width, "context": None}
    config = complete_unet({**xl.unet_config, "context": width, "hearing": heard})
    network = Network(lambda rngs: UNet(rngs, **config))
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, np.float32), shapes)
    made = dataclasses.replace(
        xl, network=network, params=params, unet_config=config, encoders=xl.encoders[1:],
        zeros=False, aesthetics=True,
    )  # fmt: skip
    assert same(load_pipeline(made.save(tmp_path / "refiner")), made)
    index = json.loads((tmp_path / "refiner" / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionXLImg2ImgPipeline" and index["text_encoder"] == [None, None]


@pytest.mark.slow
def test_a_second_model_leaves_the_last_block_out(pipelines, folders, tmp_path):
    """open_clip's tower of Stable Diffusion 2: the file has a block and a projection more than are read."""
    pipeline, tokens = pipelines["sd1"], folders["sd1"] / "tokenizer"
    description = described(pipeline, [("cond_stage_model.model.", "open_clip", "!")])
    tower = description.towers[0]
    description = dataclasses.replace(description, towers=(dataclasses.replace(tower, unread=1),), scheduler=DDIM)
    rest = "cond_stage_model.model."
    more = {
        f"{rest}transformer.resblocks.3.mlp.c_fc.weight": np.zeros((64, 32), np.float16),
        f"{rest}text_projection": np.zeros((32, 32), np.float16), f"{rest}logit_scale": np.zeros((), np.float16),
        "scale_factor": np.array(0.5, np.float32), "ztsnr": np.zeros(0, np.float32),
    }  # fmt: skip
    file = written(tmp_path / "sd2.safetensors", pipeline, description, **more)
    found = load_pipeline(file, tokenizer=tokens, model=description, prediction="v")
    assert found.scheduler.prediction == "v" and found.encoders[0].pad == 0 and found.vae.scale == 0.5
    assert found.scheduler.fields["rescale_betas_zero_snr"] and found.scheduler.schedule.sigma(1.0) == 1
    ours, theirs = leaves(found), leaves(pipeline)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    whole = dataclasses.replace(description, towers=(tower,))
    with pytest.raises(UserError, match=r"1 extra: cond_stage_model\.model\.transformer\.resblocks\.3"):
        load_pipeline(file, tokenizer=tokens, model=whole)


@pytest.mark.slow
def test_a_tower_without_its_old_prefix_and_a_file_that_says_v(pipelines, description, file, folders, tmp_path):
    prefix = description.towers[0].prefix
    tensors = {name.replace(f"{prefix}text_model.", prefix): value for name, value in load_file(file).items()}
    save_file({**tensors, "v_pred": np.zeros(0, np.float32)}, tmp_path / "new.safetensors")
    found = load_pipeline(tmp_path / "new.safetensors", tokenizer=folders["sd1"] / "tokenizer", model=description)
    assert found.scheduler.prediction == "v"
    assert same(dataclasses.replace(found, scheduler=pipelines["sd1"].scheduler), pipelines["sd1"])


def stub(path, width, channels=4, **more):
    """The two tensors that tell the model."""
    layer = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    entrance = np.zeros((320, channels, 3, 3), np.float16)
    save_file({"model.diffusion_model.input_blocks.0.0.weight": entrance, layer: np.zeros((320, width)), **more}, path)
    return path


def test_published_descriptions():
    """Parameters as published, the towers included: 859.5 M, 865.9 M, 2567.5 M and 2259.5 M of the U-Nets."""
    counts = {
        "sd-1.5": 123_060_480,
        "sd-2.1": 340_387_840,
        "sdxl": 123_060_480 + 694_659_840,
        "sdxl-refiner": 694_659_840,
    }
    unets = {"sd-1.5": 859_520_964, "sd-2.1": 865_910_724, "sdxl": 2_567_463_684, "sdxl-refiner": 2_259_526_660}
    for name, texts in counts.items():
        model = MODELS[name]
        rules = single_file_entries(
            model, complete_unet(model.unet), complete_vae(model.vae), projections="linear", square=True
        )
        sizes = {}
        for entry in rules:
            part = entry.ours[0].split("/")[0]
            sizes[part] = sizes.get(part, 0) + sum(int(np.prod(shape)) for shape in entry.shapes)
        assert sizes == {"unet": unets[name], "vae": 83_653_863, "text": texts}, name
    assert MODELS["sd-2.1"].unet["hearing"] == unet_model("sd-2.1")["hearing"]


WRONG = [
    ("ckpt", {}, "is a pickle, which may run anything when it is opened"),
    ("gguf", {}, "ends in '.gguf'; a single file of a pipeline ends in .safetensors"),
    ("gone", {}, "does not exist; did you mean .*model.safetensors"),
    ("file", {"tokenizer": None}, "holds weights and no vocabulary: give tokenizer, a folder or file with CLIP's"),
    ("file", {"model": None}, r"hears 32 features a token, which no model does that is read: 768 \(sd-1.5\)"),
    ("file", {"model": "sd-15"}, "model 'sd-15' is not known; did you mean 'sd-1.5'"),
    ("file", {"prediction": "x"}, "prediction 'x' is not known"),
    ("file", {"tokenizer": "nowhere"}, "there is no vocabulary at 'nowhere'"),
    ("xl", {"model": "sd-1.5"}, "hears 2048 features a token, and that of model 'sd-1.5' 768; nearest: 'sdxl'"),
    ("xl", {"model": None}, "lacks the autoencoder"),
    ("sd2", {"model": None}, r"does not say whether its network predicts v \(sd-2.1.*give prediction, 'v' or 'eps'"),
    ("pix2pix", {"model": None}, "the U-Net takes 8 channels, and latents have 4"),
    ("part", {}, "is no whole Stable Diffusion in its authors' layout"),
    ("unknown", {}, "does not fit: 1 extra: control_model.weight"),
    ("missing", {}, "does not fit: 1 missing: model.diffusion_model.out.2.bias"),
    ("textless", {}, r"lacks a text encoder \(names below 'cond_stage_model.transformer.'\)"),
    ("broken", {}, "is damaged or no safetensors file"),
    ("fp8", {}, "holds weights in F8_E4M3, which are not read; read are BF16, F16, F32"),
    ("folder", {}, "tokenizer .* is for a single file"),
]


@pytest.mark.parametrize(("which", "given", "message"), WRONG, ids=[f"{n}-{next(iter(g), '')}" for n, g, _ in WRONG])
def test_a_file_that_is_none_is_one_line(file, folders, description, tmp_path, which, given, message):
    tensors = load_file(file)
    places = {"file": file, "folder": folders["sd1"], "gone": file.with_name("modl.safetensors")}
    place = places.get(which, tmp_path / f"a.{which if which in ('ckpt', 'gguf') else 'safetensors'}")
    out = "model.diffusion_model.out.2.bias"
    if which in ("ckpt", "gguf"):
        place.write_bytes(b"x")
    elif which in ("xl", "sd2", "pix2pix"):
        stub(place, {"xl": 2048, "sd2": 1024, "pix2pix": 768}[which], 8 if which == "pix2pix" else 4)
    elif which == "broken":
        place.write_bytes(file.read_bytes()[:-10])
    elif which == "fp8":
        header = json.dumps({"w": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}).encode()
        place.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    elif which == "part":
        shutil.copy(folders["sd1"] / "unet" / "diffusion_pytorch_model.fp16.safetensors", place)
    elif which == "unknown":
        save_file({**tensors, "control_model.weight": np.zeros(2)}, place)
    elif which == "missing":
        save_file({name: value for name, value in tensors.items() if name != out}, place)
    elif which == "textless":
        save_file({name: value for name, value in tensors.items() if not name.startswith("cond_stage")}, place)
    with pytest.raises(UserError, match=message) as caught:
        load_pipeline(place, **{"tokenizer": folders["sd1"] / "tokenizer", "model": description, **given})
    assert "\n" not in str(caught.value)


def test_a_lora_changes_the_picture_and_its_scale_how_much(pipelines, lora, drawn):
    pipeline = pipelines["sd1"]
    one, none = pipeline.with_lora(lora), pipeline.with_lora(lora, 0.0)
    assert one.apply is pipeline.apply  # so that nothing is compiled anew
    assert np.abs(one.generate("a cat", **FEW) - drawn).max() > 0.01  # of rounding 1e-6 would be left
    np.testing.assert_array_equal(none.generate("a cat", **FEW), drawn)
    # Scales of several add up, and what is taken away again is gone.
    halves = leaves(pipeline.with_lora(lora, 0.75).with_lora(lora, 0.25))
    for name, leaf in leaves(one).items():
        np.testing.assert_allclose(halves[name], leaf, rtol=1e-6, atol=1e-6)
    changed = {name for name, leaf in leaves(one).items() if not np.array_equal(leaf, leaves(pipeline)[name])}
    assert {name.split("/")[0] for name in changed} == {"unet", "0"}
    with pytest.raises(UserError, match="the scale nan of a LoRA is not a finite number"):
        pipeline.with_lora(lora, float("nan"))
    with pytest.raises(UserError, match="does not exist"):
        pipeline.with_lora(lora.with_name("other.safetensors"))
    with pytest.raises(UserError, match=r"does not fit: .* misshapen"):
        pipelines["xl"].with_lora(lora)


def test_what_cannot_be_saved_leaves_nothing(pipelines, tmp_path, monkeypatch):
    pipeline = pipelines["sd1"]
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("x")
    (tmp_path / "file").write_text("x")
    for name, given, message in (
        ("there", {}, "'[^']*there' holds something: a pipeline is saved as a new folder"),
        ("file", {}, "'[^']*file' is a file"),
        ("new", {"dtype": "float8"}, "dtype 'float8' is not known; did you mean 'float16'|dtype 'float8' is not known"),
    ):
        with pytest.raises(UserError, match=message):
            pipeline.save(tmp_path / name, **given)
    large = jax.tree.map(lambda leaf: leaf * 1e6, pipeline.vae.params)
    wide = dataclasses.replace(pipeline, vae=dataclasses.replace(pipeline.vae, params=large))
    with pytest.raises(UserError, match="is infinite in dtype 'float16'"):
        wide.save(tmp_path / "deep" / "new", "float16")
    assert sorted(place.name for place in tmp_path.rglob("*")) == ["file", "mine", "there"]


@pytest.mark.slow
def test_from_the_command_line(file, folders, description, lora, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(MODELS, "small", description)
    tokens, out = ["--tokenizer", str(folders["sd1"] / "tokenizer")], tmp_path / "cat.png"
    how = ["sample", "--prompt", "a cat", "--num-steps", "2", "--num-images", "1", "--out", str(out)]
    loras = ["--lora", f"{lora}=0.7", "--lora", str(lora)]
    assert main([*how, "--pretrained", str(file), *tokens, *loras]) == 0 and out.is_file()
    capsys.readouterr()
    for given, said in (
        (["--pretrained", str(file)], "give --tokenizer, a folder or file with CLIP's"),
        (["--pretrained", str(file), *tokens, "--lora", f"{lora}=much"], "'much' is not a number"),
        (["--run", "r", "--lora", str(lora)], "--lora needs --pretrained"),
        (["--pretrained", str(stub(tmp_path / "2.safetensors", 1024)), *tokens], "give --prediction, 'v' or 'eps'"),
        (["--pretrained", str(folders["sd1"]), "--prediction", "v"], "prediction 'v' is for a single file"),
    ):
        assert main([*how, "--overwrite", *given]) != 0
        error = capsys.readouterr().err
        assert said in error and "Traceback" not in error, error
