"""U-Nets against diffusers on random weights: outputs, and weights there and back bit for bit."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from diffusion_jax.convert import entries as entry_rules  # noqa: E402
from diffusion_jax.convert.unet_config import from_diffusers  # noqa: E402
from diffusion_jax.convert.unet_keys import Names, entries  # noqa: E402
from diffusion_jax.nets import Network, UNet, complete_unet  # noqa: E402
from diffusion_jax.nets.unet.levels import How, Level, attention_of  # noqa: E402

BOUND = 1e-5
SMALL = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [32, 48],
    "layers_per_block": 1,
    "norm_num_groups": 8,
}
ATTENDING = SMALL | {
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": 8,
}
CROSS = SMALL | {
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 24,
    "attention_head_dim": [4, 3],
}
ADDED = CROSS | {
    "down_block_types": ["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
    "up_block_types": ["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "attention_head_dim": 8,
    "resnet_time_scale_shift": "scale_shift",
}
PLAIN = {
    "attention": {},
    "three levels": {
        "block_out_channels": [16, 32, 48],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        "layers_per_block": 2,
    },
    "as DDPM": {"flip_sin_to_cos": False, "freq_shift": 1, "downsample_padding": 0, "norm_eps": 1e-6},
    "one head": {"attention_head_dim": None},
    "scale and shift": {"resnet_time_scale_shift": "scale_shift"},
    "scale and shift, norm": {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 4},
    "resnets change the size": {"downsample_type": "resnet", "upsample_type": "resnet"},
    "fourier": {"time_embedding_type": "fourier"},
    "fourier, of a level too": {"time_embedding_type": "fourier", "class_embed_type": "timestep"},
    "learned": {"time_embedding_type": "learned", "num_train_timesteps": 1000},
    "classes": {"num_class_embeds": 7},
    "class as time": {"class_embed_type": "timestep"},
    "class as it is": {"class_embed_type": "identity"},
    "no middle": {"mid_block_type": None},
    "middle without attention": {"add_attention": False},
    "middle scaled": {"mid_block_scale_factor": 1.4},
    "centred": {"center_input_sample": True},
    "embedding": {"time_embedding_dim": 40},
    "mish": {"act_fn": "mish"},
}
CONDITION = {
    "cross": {},
    "linear ends": {"use_linear_projection": True},
    "deeper": {"transformer_layers_per_block": [2, 1]},
    "upwards otherwise": {"transformer_layers_per_block": [1, 1], "reverse_transformer_layers_per_block": [1, [2, 1]]},
    "only text": {"only_cross_attention": [True, False]},
    "widths of text": {"cross_attention_dim": [24, 24]},
    "layers of levels": {"layers_per_block": [2, 1]},
    "padding": {"downsample_padding": 0},
    "kernels": {"conv_in_kernel": 5, "conv_out_kernel": 1},
    "no middle": {"mid_block_type": None},
    "middle of one block": {"mid_block_type": "UNetMidBlock2D"},
    "gelu": {"act_fn": "gelu", "time_embedding_act_fn": "silu", "timestep_post_act": "silu"},
    "guidance": {"time_cond_proj_dim": 16},
    "fourier": {"time_embedding_type": "fourier"},
    "fourier, of a level too": {"time_embedding_type": "fourier", "class_embed_type": "timestep"},
    "fourier, narrower": {"time_embedding_type": "fourier", "time_embedding_dim": 40, "flip_sin_to_cos": False},
    "classes": {"num_class_embeds": 7},
    "class as time": {"class_embed_type": "timestep"},
    "class as it is": {"class_embed_type": "identity"},
    "projection": {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 12},
    "simple projection, joined": {
        "class_embed_type": "simple_projection", "projection_class_embeddings_input_dim": 12,
        "class_embeddings_concat": True,
    },
    "text projected": {"encoder_hid_dim": 20},
    "picture as tokens": {"encoder_hid_dim": 20, "encoder_hid_dim_type": "image_proj"},
    "both": {"encoder_hid_dim": 20, "encoder_hid_dim_type": "text_image_proj"},
    "text pooled": {"addition_embed_type": "text", "addition_embed_type_num_heads": 4},
    "text and picture": {"addition_embed_type": "text_image", "encoder_hid_dim": 20, "encoder_hid_dim_type": "text_image_proj"},
    "sizes": {
        "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 1280,
    },
    "picture": {"addition_embed_type": "image", "encoder_hid_dim": 20, "encoder_hid_dim_type": "image_proj"},
    "hint": {
        "addition_embed_type": "image_hint", "encoder_hid_dim": 20, "encoder_hid_dim_type": "image_proj", "in_channels": 8,
    },
    "attention without text": {
        "down_block_types": ["AttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "AttnUpBlock2D"],
        "attention_head_dim": [8, 4],
    },
}  # fmt: skip
KARLO = {
    "added": {},
    "only text": {"only_cross_attention": True},
    "only text in the middle": {"mid_block_only_cross_attention": True},
    "text normed": {"cross_attention_norm": "layer_norm", "cross_attention_dim": 48},
    "text normed in groups": {
        "cross_attention_norm": "group_norm",
        "cross_attention_dim": 64,
        "block_out_channels": [32, 64],
    },
    "embedding activated before": {"resnet_skip_time_act": True, "time_embedding_act_fn": "silu"},
    "scaled": {"resnet_out_scale_factor": 1.4, "mid_block_scale_factor": 1.2},
    "shift": {"resnet_time_scale_shift": "default"},
}


def random(peer, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in peer.parameters():
            scale = 0.1 if value.ndim < 2 else value[0].numel() ** -0.5
            value.copy_(torch.randn(value.shape, generator=generator) * scale + (1.0 if value.ndim == 1 else 0.0) * 0.5)
    return peer.eval()


def config_of(peer):
    return json.loads(peer.to_json_string()) | {"_class_name": type(peer).__name__}


def same(peer, cond=None, peer_given=(), size=(8, 8), times=(17.0, 803.0)):
    """Outputs on the same input, relative to their size; the weights come back as they went."""
    told = config_of(peer)
    config = from_diffusers(told, "config.json")
    tensors = {name: value.detach().numpy() for name, value in peer.state_dict().items()}
    rules = entries(complete_unet(config), projections="linear" if told.get("use_linear_projection") else "conv")
    params = entry_rules.read(rules, tensors, "the peer", lambda name: False)
    back = entry_rules.write(rules, params, "the peer")
    assert back.keys() == tensors.keys() and all(np.array_equal(back[name], tensors[name]) for name in tensors)

    given = dict(peer_given)
    channels = config["in_channels"]
    x = np.random.default_rng(1).normal(size=(2, *size, channels)).astype(np.float32)
    t = np.asarray(times)
    with torch.no_grad():
        wanted = peer(
            torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor(t if t.dtype == int else t.astype(np.float32)), **given
        ).sample.numpy()
    network = Network(lambda rngs: UNet(rngs, **config))
    cond = None if cond is None else {name: jnp.asarray(value) for name, value in cond.items()}
    found = np.asarray(network.apply(params, jnp.asarray(x), jnp.asarray(t, jnp.float32), cond)).transpose(0, 3, 1, 2)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= BOUND * max(1.0, np.abs(wanted).max())


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", PLAIN)
def test_unet2d(name):
    told = ATTENDING | PLAIN[name]
    peer = random(diffusers.UNet2DModel(**told), 0)
    cond, given, times = None, {}, (17.0, 803.0)
    if told.get("num_class_embeds"):
        cond, given = {"label": np.array([2, 6])}, {"class_labels": torch.tensor([2, 6])}
    if told.get("class_embed_type") == "timestep":
        cond, given = {"level": np.array([3.0, 40.0])}, {"class_labels": torch.tensor([3.0, 40.0])}
    if told.get("class_embed_type") == "identity":
        vector = normal(3, 2, 128)
        cond, given = {"embedding": vector}, {"class_labels": torch.tensor(vector)}
    if told.get("time_embedding_type") == "learned":
        times = np.array([17, 803])
    same(peer, cond, given, times=times)


def told_text(told, seed=5, keys=5):
    """What a condition model hears here and there."""
    wide = told.get("encoder_hid_dim") if told.get("encoder_hid_dim_type", "text_proj") != "image_proj" else None
    context = told["cross_attention_dim"]
    width = wide or (context if isinstance(context, int) else context[0])
    tokens = normal(seed, 2, keys, width)
    cond, given, added = {"tokens": tokens}, {"encoder_hidden_states": torch.tensor(tokens)}, {}
    if told.get("num_class_embeds"):
        cond["label"], given["class_labels"] = np.array([2, 6]), torch.tensor([2, 6])
    kind = told.get("class_embed_type")
    if kind == "timestep":
        cond["level"], given["class_labels"] = np.array([3.0, 40.0]), torch.tensor([3.0, 40.0])
    elif kind is not None:
        vector = normal(6, 2, 128 if kind == "identity" else 12)
        cond["embedding"], given["class_labels"] = vector, torch.tensor(vector)
    added_kind = told.get("addition_embed_type")
    if told.get("encoder_hid_dim_type") in ("image_proj", "text_image_proj"):
        size = 20 if told["encoder_hid_dim_type"] == "image_proj" else 24
        cond["embedding"] = normal(7, 2, size)
        added["image_embeds"] = torch.tensor(cond["embedding"])
    if added_kind == "text_image":
        cond["pooled"] = normal(8, 2, 24)
        added["text_embeds"] = torch.tensor(cond["pooled"])
    if added_kind == "text_time":
        cond["pooled"], cond["ids"] = normal(8, 2, 1280), np.abs(normal(9, 2, 6)) * 500
        added |= {"text_embeds": torch.tensor(cond["pooled"]), "time_ids": torch.tensor(cond["ids"])}
    if added_kind == "image_hint":
        hint = normal(10, 2, 64, 64, 3)
        cond["hint"], added["hint"] = hint, torch.tensor(hint.transpose(0, 3, 1, 2))
    if told.get("time_cond_proj_dim"):
        # The formula of its LatentConsistencyModelPipeline, whose import needs transformers.
        cond["guidance"] = np.array([7.5, 3.0], np.float32)
        half = told["time_cond_proj_dim"] // 2
        angles = 1000.0 * (cond["guidance"][:, None] - 1) * np.exp(-np.log(1e4) * np.arange(half) / (half - 1))
        given["timestep_cond"] = torch.tensor(np.concatenate([np.sin(angles), np.cos(angles)], 1), dtype=torch.float32)
    return cond, given | ({"added_cond_kwargs": added} if added else {})


@pytest.mark.parametrize("name", CONDITION)
def test_unet2d_condition(name):
    told = CROSS | CONDITION[name]
    if "hint" in name:
        told["in_channels"] = 8
    peer = random(diffusers.UNet2DConditionModel(**told), 0)
    cond, given = told_text(told)
    same(peer, cond, given)


@pytest.mark.parametrize("name", KARLO)
def test_simple_cross_attention(name):
    told = ADDED | KARLO[name]
    peer = random(diffusers.UNet2DConditionModel(**told), 0)
    same(peer, *told_text(told))


@pytest.mark.parametrize("size", [(5, 7), (9, 6)])
def test_sizes_that_two_does_not_divide(size):
    same(random(diffusers.UNet2DConditionModel(**CROSS), 0), *told_text(CROSS), size=size)


@pytest.mark.parametrize("kind", ["cross", "added"])
def test_a_length_hides_what_a_mask_hides(kind):
    told = CROSS if kind == "cross" else ADDED
    peer = random(diffusers.UNet2DConditionModel(**told), 0)
    cond, given = told_text(told, keys=6)
    length = np.array([2, 5])
    mask = torch.tensor(np.arange(6)[None] < length[:, None])
    same(peer, cond | {"length": length}, given | {"encoder_attention_mask": mask}, size=(8, 8))


def test_two_transformers_for_two_parts_of_a_text():
    """DualTransformer2DModel alone: in a U-Net diffusers 0.42 calls it with an argument that it does not take."""
    from diffusers.models.transformers.dual_transformer_2d import DualTransformer2DModel

    peer = random(
        DualTransformer2DModel(
            num_attention_heads=4, attention_head_dim=8, in_channels=32, num_layers=1, cross_attention_dim=24,
            norm_num_groups=8,
        ),
        0,
    )  # fmt: skip
    config = {"channels": (32,), "context": (24,), "only_text": (False,), "dual": True, "hearing": {}}
    rules = Names(config, "conv")._attention("dual", "peer", "cross", 0, 1)
    tensors = {f"peer.{name}": value.detach().numpy() for name, value in peer.state_dict().items()}
    params = entry_rules.read(rules, tensors, "the peer", lambda name: False)["dual"]
    x, text = normal(1, 2, 6, 4, 32), normal(2, 2, 77 + 257, 24)
    with torch.no_grad():
        wanted = peer(torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor(text), return_dict=False)[0].numpy()
    level, how = Level(32, 1, "cross", 4, 1, 24), How(None, 8, dual=True)
    network = Network(lambda rngs: attention_of(level, 0, how, rngs))
    found = np.asarray(network.apply(params, jnp.asarray(x), jnp.asarray(text))).transpose(0, 3, 1, 2)
    assert np.abs(found - wanted).max() <= BOUND * np.abs(wanted).max()
