"""Autoencoders in files: every layout there and back, bit for bit, and what is refused."""

import functools
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled import fill
from safetensors.numpy import load_file, save_file

from diffusion_jax import load_pretrained
from diffusion_jax.convert.entries import flatten
from diffusion_jax.convert.files import read_tensors
from diffusion_jax.convert.vae import FIRST_STAGE, load_vae, save_vae
from diffusion_jax.convert.vae_config import from_diffusers, to_diffusers
from diffusion_jax.nets import Network, complete_vae, vae_keywords, vae_model
from diffusion_jax.typing import UserError

STEM = "diffusion_pytorch_model"
KL = {"kind": "kl", "channels": (16, 32), "layers": 1, "groups": 8, "scale": 0.18215, "sample_size": 64, "upcast": True}
WIDE = KL | {"latent_channels": 8, "quant": False, "post_quant": False, "shift": 0.0609, "middle_attention": False}
ATTENDING = KL | {
    "channels": (16, 24, 32), "attends": (False, False, True), "up_attends": (True, False, True), "scale": 0.5,
    "mean": (0.5, -1.0, 0.25, 2.0), "std": (1.5, 2.0, 0.5, 1.0), "act": "gelu",
}  # fmt: skip
VQ = {
    "kind": "vq", "channels": (16, 32), "layers": 1, "groups": 8, "latent_channels": 4, "codes": 24, "dim": 3,
    "attends": (False, True),
}  # fmt: skip
CONFIGS = {"kl": KL, "wide": WIDE, "attending": ATTENDING, "vq": VQ}
HELD = [
    *(("diffusers", name, {}) for name in CONFIGS),
    ("diffusers", "kl", {"dtype": "float16"}),
    ("diffusers", "vq", {"dtype": "bfloat16"}),
    *(("latent", name, {}) for name in CONFIGS),
    ("latent", "kl", {"prefix": FIRST_STAGE, "dtype": "float16"}),
]


def network(config, **how):
    make, keywords = vae_keywords(config)
    return Network(lambda rngs: make(rngs, **keywords, **how))


def filled(config):
    """Weights of an autoencoder: random, by their names, in the numbers that float16 and bfloat16 hold as well."""
    return _filled(json.dumps(config))


@functools.cache
def _filled(told):
    shapes = jax.eval_shape(network(json.loads(told)).init, jax.random.key(0))
    values = fill({path: leaf.shape for path, leaf in flatten(shapes)})
    leaves, tree = jax.tree.flatten(shapes)
    coarse = [np.round(values[path] * 16) / 16 for path, _ in flatten(shapes)]
    assert [leaf.shape for leaf in leaves] == [leaf.shape for leaf in coarse]
    return tree.unflatten(coarse)


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
    return True


def picture(*sizes):
    return np.random.default_rng(0).uniform(-1, 1, sizes).astype(np.float32)


@pytest.mark.parametrize(("layout", "name", "how"), HELD, ids=lambda value: value if isinstance(value, str) else "")
def test_an_autoencoder_comes_back_from_its_file_bit_for_bit(layout, name, how, tmp_path):
    config, params = CONFIGS[name], filled(CONFIGS[name])
    out = tmp_path / ("vae" if layout == "diffusers" else "vae.safetensors")
    assert save_vae(out, config, params, complete_vae, layout=layout, **how) == out
    tensors = load_file(out / f"{STEM}.safetensors" if layout == "diffusers" else out)
    assert {str(value.dtype) for value in tensors.values()} == {how.get("dtype", "float32")}
    assert all(key.startswith(how.get("prefix", "")) for key in tensors)
    found, back = load_vae(out, complete_vae, config=None if layout == "diffusers" else config)
    wanted = complete_vae(config)
    # A folder of diffusers has a size of pictures, told or not.
    assert found == wanted | ({"sample_size": wanted["sample_size"] or 32} if layout == "diffusers" else {})
    assert equal(back, params)


def test_the_names_are_those_of_the_published_files(tmp_path):
    save_vae(tmp_path / "a", ATTENDING, filled(ATTENDING), complete_vae)
    save_vae(tmp_path / "b.safetensors", ATTENDING, filled(ATTENDING), complete_vae, layout="latent")
    theirs, latent = load_file(tmp_path / "a" / f"{STEM}.safetensors"), load_file(tmp_path / "b.safetensors")
    assert len(theirs) == len(latent)
    for here, there in (
        ("encoder.down_blocks.1.resnets.0.conv_shortcut.weight", "encoder.down.1.block.0.nin_shortcut.weight"),
        ("encoder.down_blocks.0.downsamplers.0.conv.bias", "encoder.down.0.downsample.conv.bias"),
        ("encoder.down_blocks.2.attentions.0.to_k.bias", "encoder.down.2.attn.0.k.bias"),
        ("encoder.mid_block.attentions.0.group_norm.weight", "encoder.mid.attn_1.norm.weight"),
        ("decoder.mid_block.resnets.1.norm2.bias", "decoder.mid.block_2.norm2.bias"),
        ("decoder.up_blocks.0.resnets.1.conv2.weight", "decoder.up.2.block.1.conv2.weight"),
        ("decoder.up_blocks.1.upsamplers.0.conv.weight", "decoder.up.1.upsample.conv.weight"),
        ("decoder.up_blocks.2.attentions.1.to_out.0.bias", "decoder.up.0.attn.1.proj_out.bias"),
        ("decoder.conv_norm_out.weight", "decoder.norm_out.weight"),
        ("post_quant_conv.bias", "post_quant_conv.bias"),
    ):
        np.testing.assert_array_equal(theirs[here], latent[there])
    q = "decoder.mid.attn_1.q.weight"
    assert latent[q].shape == (32, 32, 1, 1)
    np.testing.assert_array_equal(latent[q][:, :, 0, 0], theirs["decoder.mid_block.attentions.0.to_q.weight"])


@pytest.mark.parametrize("convolved", [False, True], ids=["matrices", "convolutions"])
def test_old_names_of_attention_are_known(convolved, tmp_path):
    folder = save_vae(tmp_path / "vae", KL, filled(KL), complete_vae)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, value in load_file(folder / f"{STEM}.safetensors").items():
        for now, before in old.items():
            name = name.replace(f".{now}.", f".{before}.")
        tensors[name] = value[:, :, None, None] if convolved and "attentions" in name and value.ndim == 2 else value
    assert any(".proj_attn." in name for name in tensors)
    save_file(tensors, folder / f"{STEM}.safetensors")
    assert equal(load_vae(folder, complete_vae)[1], filled(KL))


@pytest.mark.parametrize("precision", ["", ".fp16"])
def test_shards_and_weights_in_half_precision_are_found(precision, tmp_path):
    folder = save_vae(tmp_path / "vae", KL, filled(KL), complete_vae, dtype="float16" if precision else "float32")
    file = folder / f"{STEM}.safetensors"
    tensors = load_file(file)
    file.unlink()
    save_file(tensors, folder / f"{STEM}{precision}.safetensors")
    assert equal(load_vae(folder, complete_vae)[1], filled(KL))
    (folder / f"{STEM}{precision}.safetensors").unlink()
    names = sorted(tensors)
    shards = [f"{STEM}{precision}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for i, shard in enumerate(shards):
        save_file({name: tensors[name] for name in names[i::2]}, folder / shard)
    told = {"weight_map": {name: shards[i % 2] for i, name in enumerate(names)}}
    (folder / f"{STEM}.safetensors.index{precision}.json").write_text(json.dumps(told))
    assert equal(load_vae(folder, complete_vae)[1], filled(KL))


@pytest.mark.parametrize("told", [None, ["a"], {"a": 5}], ids=str)
def test_an_index_that_names_no_files_is_one_line(told, tmp_path):
    file = tmp_path / f"{STEM}.safetensors.index.json"
    file.write_text(json.dumps({"weight_map": told}))
    with pytest.raises(UserError, match=re.escape(f"weight_map {told!r} does not name the file of each array")):
        read_tensors(file)


def test_of_a_whole_checkpoint_the_first_stage_is_read(tmp_path):
    file = save_vae(tmp_path / "all.safetensors", KL, filled(KL), complete_vae, layout="latent", prefix=FIRST_STAGE)
    more = {
        "model.diffusion_model.out.2.bias": np.zeros(4, np.float32),
        f"{FIRST_STAGE}loss.logvar": np.zeros((), np.float32),
    }
    save_file(load_file(file) | more, file)
    found, params = load_vae(file, complete_vae, config=KL)
    assert found["scale"] == KL["scale"] and equal(params, filled(KL))
    save_file(load_file(file) | {"scale_factor": np.array(0.25, np.float32)}, file)
    assert load_vae(file, complete_vae, config=KL)[0]["scale"] == 0.25


@pytest.mark.slow
def test_a_folder_is_loaded_as_an_autoencoder(tmp_path):
    x = jnp.asarray(picture(2, 8, 8, 3))
    for name in ("attending", "vq"):
        config = CONFIGS[name]
        vae = load_pretrained(save_vae(tmp_path / name, config, filled(config), complete_vae))
        net, params = network(config), filled(config)
        assert vae.kind == ("VQModel" if name == "vq" else "AutoencoderKL") and vae.told["layers_per_block"] == 1
        assert vae.factor == 2 ** (len(config["channels"]) - 1)
        shape = vae.latent_shape(8, 8)
        encoded = net.method("encode")(params, x)
        z = encoded if name == "vq" else encoded.mean
        scale = np.asarray(config.get("scale", 1.0) / np.asarray(config.get("std", 1.0)), np.float32)
        shift = np.asarray(config.get("mean", 0.0), np.float32)
        latents = vae.encode(x)
        assert latents.shape == (2, *shape) and latents.dtype == jnp.float32
        np.testing.assert_allclose(latents, (np.asarray(z) - shift) * scale, atol=1e-5)
        images = vae.decode(latents)
        assert images.shape == x.shape and images.dtype == jnp.float32
        np.testing.assert_allclose(images, net.method("decode")(params, z), atol=2e-5)
        np.testing.assert_allclose(vae.decode(latents, tile=16, slices=True), images, atol=1e-5)


@pytest.mark.slow
def test_a_sample_belongs_to_its_key_and_params_may_be_an_argument(tmp_path):
    vae = load_pretrained(save_vae(tmp_path / "vae", KL, filled(KL), complete_vae))
    assert (vae.scale, vae.shift) == (0.18215, 0.0)
    x, key = picture(3, 8, 8, 3), jax.random.key(1)
    drawn, mean = vae.encode(x, key), vae.encode(x)
    assert np.abs(drawn - mean).max() > 1e-3
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(3))
    np.testing.assert_allclose(vae.encode(x[1:], keys[1:]), drawn[1:], atol=1e-6)

    @jax.jit
    def step(params, x, key):
        return vae.decode(vae.encode(x, key, params=params), params=params)

    np.testing.assert_allclose(step(vae.params, x, key), vae.decode(drawn), atol=1e-4)
    gradient = jax.grad(lambda params: step(params, x, key).sum())(vae.params)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_vae(tmp_path_factory.mktemp("kl") / "vae", KL, filled(KL), complete_vae)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"act_fn": "tanh"}, "act_fn 'tanh'"),
        (
            {"_class_name": "AutoencoderTiny"},
            "holds a AutoencoderTiny, which is not read here; read are AutoencoderKL, VQModel",
        ),
        ({"_class_name": "AsymmetricAutoencoderKL"}, "AsymmetricAutoencoderKL, which is not read here"),
        ({"down_block_types": ["DownEncoderBlock2D", "DownBlock2D"]}, "down_block_types[1] 'DownBlock2D' is not known"),
        ({"down_block_types": ["DownEncoderBlock2D"]}, "down_block_types are 1 for 2"),
        ({"unheard_of": 3}, "unheard_of 3 is not known"),
        ({"scaling_factor": 0}, "scaling_factor 0 is not a finite number above 0"),
        ({"latents_mean": [0.0] * 4}, "latents_mean and latents_std are told together"),
        ({"latents_mean": [0.0] * 3, "latents_std": [1.0] * 3}, "mean of latents has 3 numbers for 4 channels"),
        (
            {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4, "shift_factor": 0.1},
            "shift_factor 0.1 and latents_mean are two shifts",
        ),
        ({"norm_num_groups": 5}, "16 channels are not divided by 5 groups of a norm; nearest: 4"),
        ({"latent_channels": 5}, "encoder.conv_out.weight [8, 32, 3, 3] (should be [10, 32, 3, 3])"),
        ({"use_quant_conv": False}, "2 extra: quant_conv."),
        ({"layers_per_block": 2}, "missing: encoder.down_blocks.{0,1}.resnets.1.norm1.weight"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_a_folder_that_is_not_read_is_one_line(fields, said, folder, tmp_path):
    file = shutil.copytree(folder, tmp_path / "vae") / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        load_pretrained(tmp_path / "vae")
    assert "\n" not in str(caught.value)


def test_files_that_are_not_read(folder, tmp_path):
    out = shutil.copytree(folder, tmp_path / "vae")
    file = out / f"{STEM}.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="is damaged or no safetensors file"):
        load_pretrained(out)
    file.unlink()
    with pytest.raises(UserError, match=f"no weights in .*none of {STEM}.safetensors"):
        load_pretrained(out)
    save_vae(tmp_path / "a.safetensors", KL, filled(KL), complete_vae, layout="latent")
    with pytest.raises(UserError, match=r"config\.json is missing beside the weights .*or name them"):
        load_vae(tmp_path / "a.safetensors", complete_vae)
    with pytest.raises(UserError, match=r"config\.json is missing beside the weights .*read from its run"):
        load_pretrained(tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"missing.*misshapen"):
        load_pretrained(tmp_path / "a.safetensors", model="kl-f8")
    with pytest.raises(
        UserError, match=r"holds weights of an autoencoder: load_pretrained got an unexpected keyword .*'order'"
    ):
        load_pretrained(folder, order="parts")


def test_what_no_layout_holds_is_refused(tmp_path):
    for config, said in (
        (VQ | {"shift": 0.5}, "no VQModel with shift 0.5"),
        (KL | {"std": (1.0,) * 4}, "are told together"),
    ):
        with pytest.raises(UserError, match=said):
            save_vae(tmp_path / "vae", config, filled(config), complete_vae)
    with pytest.raises(UserError, match="a key of an autoencoder 'kl', 'codes' is not known"):
        save_vae(tmp_path / "vae", KL | {"codes": 5}, filled(KL), complete_vae)
    with pytest.raises(UserError, match=r"prefix 'a\.' is for the layout 'latent'"):
        save_vae(tmp_path / "vae", KL, filled(KL), complete_vae, prefix="a.")
    large = jax.tree.map(lambda leaf: leaf * 1e6, filled(KL))
    with pytest.raises(UserError, match="is infinite in dtype 'float16'; nearest: 'bfloat16'"):
        save_vae(tmp_path / "vae", KL, large, complete_vae, dtype="float16")
    with pytest.raises(UserError, match=r"do not fit .* missing: .*quant/kernel"):
        save_vae(tmp_path / "vae", KL, filled(WIDE), complete_vae)
    assert not list(tmp_path.iterdir())


def test_a_config_comes_back_as_it_went():
    for name in ("kl-f8", "kl-f16", "vq-f8", "sdxl-vae", "flux-vae"):
        config = complete_vae(vae_model(name))
        told = to_diffusers(config, complete_vae)
        assert complete_vae(from_diffusers(told, "config.json")) == config
    # What Stable Diffusion's oldest folders say, and nothing else.
    told = {
        "_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4, "in_channels": 3, "latent_channels": 4, "layers_per_block": 2,
        "out_channels": 3, "sample_size": 512, "up_block_types": ["UpDecoderBlock2D"] * 4,
    }  # fmt: skip
    assert complete_vae(from_diffusers(told, "config.json")) == complete_vae(vae_model("kl-f8", {"upcast": True}))
