"""U-Nets and DiTs in files: every layout there and back, bit for bit, and what is refused."""

import functools
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import Compiled
from filled import fill
from safetensors.numpy import load_file, save_file

from diffusion_jax import load_pretrained
from diffusion_jax.cli import main
from diffusion_jax.convert.dit import load_dit, save_dit
from diffusion_jax.convert.entries import flatten
from diffusion_jax.convert.unet import load_unet, save_unet
from diffusion_jax.convert.unet_config import from_diffusers
from diffusion_jax.convert.unet_config_out import to_diffusers
from diffusion_jax.nets import DIT_MODELS, DiT, Network, UNet, complete_unet, dit_model
from diffusion_jax.nets.layers import sincos_positions
from diffusion_jax.typing import UserError

STABLE = {
    "in_channels": 4,
    "channels": (16, 32),
    "layers": 1,
    "down": ("cross", "plain"),
    "middle": "cross",
    "heads": (2, 4),
    "groups": 8,
    "hearing": {"tokens": 12},
}
LARGE = STABLE | {"transformer_layers": (1, 2), "hearing": {"tokens": 12, "ids": 6, "id_features": 4, "pooled": 10}}
ADM = {
    "in_channels": 3,
    "out_channels": 6,
    "channels": (16, 32),
    "layers": 1,
    "down": ("plain", "attention"),
    "head_dim": 8,
    "groups": 8,
    "resample": "resnet",
    "modulation": "scale_shift",
    "middle_scale": 1.0,
    "hearing": {"classes": 5},
}
ADDED = ADM | {"down": ("plain", "added"), "middle": "added", "context": 12, "hearing": {"tokens": 12}}
PLAIN = {"in_channels": 3, "channels": (16, 32), "layers": 1, "down": ("plain", "attention"), "groups": 8}
HELD = [
    ("diffusers", STABLE, {}),
    ("diffusers", STABLE, {"linear": False}),
    ("diffusers", LARGE, {"dtype": "float16"}),
    ("diffusers", PLAIN, {"dtype": "bfloat16"}),
    ("diffusers", ADDED, {}),
    ("latent", STABLE, {"linear": False}),
    ("latent", LARGE, {}),
    ("guided", ADM, {}),
    ("guided", ADM, {"order": "parts"}),
    ("guided", ADDED, {}),
]
DIT = {
    "image_size": 8, "channels": 4, "out_channels": 8, "patch": 2, "width": 16, "layers": 2, "heads": 2, "mlp_ratio": 4.0,
    "classes": 6, "time_scale": 1.0, "time_shift": 1.0, "eps": 1e-6,
}  # fmt: skip


def filled(make, config):
    """Weights of a network: random, by their names, in the numbers that float16 and bfloat16 hold as well."""
    return _filled(make, json.dumps(config))


@functools.cache
def _filled(make, told):
    config = json.loads(told)
    shapes = jax.eval_shape(Network(lambda rngs: make(rngs, **config)).init, jax.random.key(0))
    values = fill({path: leaf.shape for path, leaf in flatten(shapes)})
    leaves, tree = jax.tree.flatten(shapes)
    coarse = [np.round(values[path] * 16) / 16 for path, _ in flatten(shapes)]
    assert [leaf.shape for leaf in leaves] == [leaf.shape for leaf in coarse]
    return tree.unflatten(coarse)


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
    return True


@pytest.mark.parametrize(("layout", "config", "how"), HELD, ids=lambda value: value if isinstance(value, str) else "")
def test_a_unet_comes_back_from_its_file_bit_for_bit(layout, config, how, tmp_path):
    params = filled(UNet, config)
    out = tmp_path / ("unet" if layout == "diffusers" else "unet.safetensors")
    save_unet(out, config, params, complete_unet, layout=layout, **how)
    file = out / "diffusion_pytorch_model.safetensors" if layout == "diffusers" else out
    wanted = how.get("dtype", "float32")
    assert {str(value.dtype) for value in load_file(file).values()} == {wanted}
    own = {} if layout == "diffusers" else {"config": config, "order": how.get("order", "heads")}
    found, back = load_unet(out, complete_unet, **own)
    assert found == complete_unet(config)
    assert equal(back, params)


def test_a_dit_comes_back_bit_for_bit_and_copies_that_differ_are_refused(tmp_path):
    params = filled(DiT, DIT)
    save_dit(tmp_path / "dit", DIT, params)
    found, back = load_dit(tmp_path / "dit")
    assert found == DIT and equal(back, params)
    file = tmp_path / "dit" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight"][0, 0] += 1
    save_file(tensors, file)
    with pytest.raises(UserError, match=r"transformer_blocks.1\S* is no copy of transformer_blocks.0"):
        load_dit(tmp_path / "dit")


META = DIT | {"time_shift": 0.0}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_dit_in_metas_layout(tmp_path, dtype):
    params, file = filled(DiT, META), tmp_path / "DiT.safetensors"
    given = {"layout": "meta", "positions": sincos_positions(4, 4, 16)}
    save_dit(file, META, params, dtype=dtype, **given)
    found, back = load_dit(file, config=META)
    assert found == META and equal(back, params)
    tensors = load_file(file)
    assert tensors["pos_embed"].shape == (1, 16, 16) and tensors["blocks.1.attn.qkv.weight"].shape == (48, 16)
    save_file({name: value for name, value in tensors.items() if name != "blocks.1.mlp.fc2.bias"}, file)
    for wrong, said in (
        (lambda: load_dit(file, config=META), "1 missing: blocks.1.mlp.fc2.bias"),
        (lambda: load_dit(file), "Meta's file is read by its name, as in model='dit-xl-2-256'"),
        (lambda: save_dit(file, DIT, params, **given), "Meta's DiT has no time_shift 1.0, only 0.0"),
        (lambda: save_dit(file, META | {"eps": 1e-5}, params, **given), "Meta's DiT has no eps 1e-05, only 1e-06"),
        (lambda: save_dit(file, META, params, layout="meta"), "holds positions [16, 16], and was given none"),
        (lambda: save_dit(tmp_path / "dit", META, params), "DiTTransformer2DModel has no time_shift 0.0, only 1.0"),
        (lambda: save_dit(file, META, params, layout="metta"), "did you mean 'meta'"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            wrong()


def test_the_size_of_the_published_dit():
    """Its authors count 675,129,632, with 256 positions of 1152 that do not train and are no parameters here."""
    network = Network(lambda rngs: DiT(rngs, **dit_model("dit-xl-2-256")))
    count = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(network.init, jax.random.key(0))))
    assert count == 675_129_632 - 256 * 1152


def test_a_folder_is_loaded_as_a_network(tmp_path):
    save_unet(tmp_path / "unet", ADM, filled(UNet, ADM), complete_unet, sample_size=8)
    save_dit(tmp_path / "dit", DIT, filled(DiT, DIT))
    time = jnp.array([17.0, 803.0])
    for name, make, config, channels in (("unet", UNet, ADM, 3), ("dit", DiT, DIT, 4)):
        loaded = load_pretrained(tmp_path / name)
        x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, channels)), jnp.float32)
        cond = {"label": jnp.array([1, 4])}
        wanted = Compiled(lambda rngs: make(rngs, **config)).apply(filled(make, config), x, time, cond)  # noqa: B023
        np.testing.assert_allclose(jax.jit(loaded.network.apply)(loaded.params, x, time, cond), wanted, atol=1e-5)
        assert loaded.kind == make.__name__ and loaded.told["sample_size"] == 8


@pytest.fixture(scope="module")
def stable(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stable") / "unet"
    return save_unet(folder, STABLE, filled(UNet, STABLE), complete_unet)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"attention_type": "gated"}, "attention_type 'gated'"),
        ({"act_fn": "tanh"}, "act_fn 'tanh'"),
        ({"down_block_types": ["CrossAttnDownBlock2D", "KDownBlock2D"]}, "KDownBlock2D"),
        ({"_class_name": "UNet3DConditionModel"}, "holds a UNet3DConditionModel, which is not read here"),
        ({"unheard_of": 3}, "unheard_of"),
        ({"block_out_channels": [16, 48]}, "unet"),
        ({"layers_per_block": 2}, "down_blocks.{0,1}.resnets.1.norm1.weight"),
        ({"norm_num_groups": 5}, "5 groups"),
        ({"down_block_types": ["DownBlock2D"]}, "down_block_types are 1 for 2"),
        ({"block_out_channels": None}, "block_out_channels is missing"),
        ({"layers_per_block": [1]}, "layers_per_block are 1 for 2 block_out_channels"),
        ({"transformer_layers_per_block": [1]}, "transformer_layers_per_block are 1 for 2 block_out_channels"),
        ({"reverse_transformer_layers_per_block": [1, [1, 2], 1]}, "reverse_transformer_layers_per_block are 3 for 2"),
        ({"attention_head_dim": [4, 4, 4]}, "attention_head_dim are 3 for 2 block_out_channels"),
        ({"attention_head_dim": [[4], [4]]}, "attention_head_dim[0] [4] is not a whole number"),
        *(
            ({field: []}, f"{field} [] is an empty list")
            for field in (
                "attention_head_dim",
                "cross_attention_dim",
                "layers_per_block",
                "only_cross_attention",
            )
        ),
    ],
)
def test_a_folder_that_is_not_read_is_one_line(fields, said, stable, tmp_path):
    file = shutil.copytree(stable, tmp_path / "unet") / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        load_pretrained(tmp_path / "unet")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"resnet_time_scale_shift": "scale_shift"},
        {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 4},
        {"attn_norm_num_groups": 4},
        {"block_out_channels": [24, 64], "attention_head_dim": 16},  # 16 divides the level that attends
    ],
    ids=str,
)
def test_a_config_comes_back_as_it_went(fields):
    told = {
        "_class_name": "UNet2DModel", "in_channels": 3, "out_channels": 3, "block_out_channels": [16, 32],
        "layers_per_block": 1, "norm_num_groups": 8, "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "attention_head_dim": 8,
    }  # fmt: skip
    config = complete_unet(from_diffusers(told | fields, "config.json"))
    back = to_diffusers(config, complete_unet)
    assert {name: back[name] for name in fields} == fields
    assert complete_unet(from_diffusers(back, "config.json")) == config


def test_what_one_way_alone_heeds_is_refused():
    told = {
        "_class_name": "UNet2DConditionModel", "block_out_channels": [16, 32], "cross_attention_dim": 8,
        "down_block_types": ["DownBlock2D", "DownBlock2D"], "up_block_types": ["ResnetUpsampleBlock2D", "UpBlock2D"],
    }  # fmt: skip
    from_diffusers(told, "config.json")
    with pytest.raises(UserError, match=r"resnet_out_scale_factor 1\.4 are read where"):
        from_diffusers(told | {"resnet_out_scale_factor": 1.4}, "config.json")


def test_what_no_layout_holds_is_refused_by_its_keyword(tmp_path):
    for layout, config, said in (
        ("diffusers", PLAIN | {"block": "convnext"}, "no U-Net with block 'convnext'"),
        ("diffusers", PLAIN | {"hearing": {"time_scale": 1000.0}}, "no U-Net with hearing.time_scale 1000.0"),
        ("diffusers", PLAIN | {"pyramid": True}, "no U-Net with pyramid True"),
        ("diffusers", PLAIN | {"groups": None}, "train with groups=4, which divides them"),
        ("guided", PLAIN | {"hearing": {"augment": 9}}, "no names for hearing augment"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            save_unet(tmp_path / "a.safetensors", config, filled(UNet, config), complete_unet, layout=layout)
    large = jax.tree.map(lambda leaf: leaf * 1e6, filled(UNet, PLAIN))
    with pytest.raises(UserError, match="is infinite in dtype 'float16'; nearest: 'bfloat16'"):
        save_unet(tmp_path / "a", PLAIN, large, complete_unet, dtype="float16")
    assert not list(tmp_path.iterdir())


def test_weights_that_do_not_say_what_they_are(tmp_path):
    save_unet(tmp_path / "a.safetensors", ADM, filled(UNet, ADM), complete_unet, layout="guided")
    with pytest.raises(UserError, match=r"config\.json is missing beside the weights"):
        load_unet(tmp_path / "a.safetensors", complete_unet)
    with pytest.raises(UserError, match=r"missing|extra"):
        load_pretrained(tmp_path / "a.safetensors", model="adm-128")
    with pytest.raises(UserError, match="no published weights in a layout that is read here"):
        load_pretrained(tmp_path / "a.safetensors", model="edm2-s")


def test_a_dit_through_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(DIT_MODELS, "dit-small", META)
    file, params = tmp_path / "DiT.safetensors", filled(DiT, META)
    save_dit(file, META, params, layout="meta", positions=sincos_positions(4, 4, 16))
    how = ["convert", str(file), "--model", "dit-small"]
    assert main([*how, "--format", "meta", "--out", str(tmp_path / "half.safetensors"), "--dtype", "float16"]) == 0
    assert equal(load_dit(tmp_path / "half.safetensors", config=META)[1], params)
    save_unet(tmp_path / "unet", ADM, filled(UNet, ADM), complete_unet, sample_size=8)
    capsys.readouterr()
    for asked, said in (
        ([*how, "--format", "latent", "--out", str(tmp_path / "x.pt")], "format 'latent' holds no DiT"),
        ([*how, "--format", "diffusers", "--out", str(tmp_path / "x")], "has no time_shift 0.0, only 1.0"),
        (["convert", str(tmp_path / "unet"), "--format", "meta", "--out", str(tmp_path / "x.pt")], "holds DiTs alone"),
    ):
        assert main(asked) != 0
        assert said in capsys.readouterr().err
