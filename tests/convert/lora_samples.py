"""Small networks for LoRA files, and adapters of them in the names that files have."""

import jax
import numpy as np

from diffusion_jax.convert.clip_keys import entries as clip_entries
from diffusion_jax.convert.entries import flatten, read
from diffusion_jax.convert.lora_names import places
from diffusion_jax.convert.unet_keys import entries as unet_entries
from diffusion_jax.nets import complete_unet
from diffusion_jax.train.lora import init_lora

STABLE = complete_unet(
    {
        "in_channels": 4, "channels": (16, 32), "layers": 1, "down": ("cross", "plain"), "middle": "cross", "heads": (2, 4),
        "groups": 8, "hearing": {"tokens": 12},
    }
)  # fmt: skip
LARGE = complete_unet(
    {
        "in_channels": 4, "channels": (8, 16, 16), "layers": 1, "down": ("plain", "cross", "cross"), "middle": "cross",
        "heads": (1, 2, 4), "groups": 4, "transformer_layers": (1, 1, 2),
        "hearing": {"tokens": 12, "ids": 6, "id_features": 4, "pooled": 10},
    }
)  # fmt: skip
TEXT = {
    "embed": None,
    "text": {
        "width": 8, "layers": 2, "heads": 2, "mlp_ratio": 2.0, "activation": "quick_gelu", "eps": 1e-5, "pool": "end",
        "vocabulary_size": 20, "context_length": 6, "end_token": None,
    },
}  # fmt: skip
TEXT_2 = {"embed": 6, "text": TEXT["text"]}
HEADER = "lora_adapter_metadata"
Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
V = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
CONV = "down_blocks.0.resnets.0.conv1"
OF_TEXT = "text_model.encoder.layers.1.self_attn.k_proj"
LDM = {
    "input_blocks_0_0": "conv_in",
    "input_blocks_1_0_emb_layers_1": "down_blocks.0.resnets.0.time_emb_proj",
    "input_blocks_2_0_op": "down_blocks.0.downsamplers.0.conv",
    "input_blocks_3_0_skip_connection": "down_blocks.1.resnets.0.conv_shortcut",
    "input_blocks_3_1_transformer_blocks_0_attn2_to_k": "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
    "input_blocks_5_1_transformer_blocks_1_attn1_to_out_0": "down_blocks.2.attentions.0.transformer_blocks.1.attn1.to_out.0",
    "middle_block_1_proj_in": "mid_block.attentions.0.proj_in",
    "middle_block_2_in_layers_2": "mid_block.resnets.1.conv1",
    "output_blocks_0_0_out_layers_3": "up_blocks.0.resnets.0.conv2",
    "output_blocks_1_2_conv": "up_blocks.0.upsamplers.0.conv",
    "output_blocks_3_1_transformer_blocks_0_ff_net_2": "up_blocks.1.attentions.1.transformer_blocks.0.ff.net.2",
    "time_embed_0": "time_embedding.linear_1",
    "label_emb_0_2": "add_embedding.linear_2",
    "out_2": "conv_out",
}
STABLE_KOHYA = {
    name.replace(".", "_"): name
    for name in (
        Q, V, CONV, "down_blocks.0.attentions.0.proj_in", "down_blocks.0.downsamplers.0.conv", "time_embedding.linear_1",
        "up_blocks.1.attentions.1.transformer_blocks.0.ff.net.0.proj", "up_blocks.1.resnets.0.conv_shortcut",
    )
}  # fmt: skip


def coarse(seed, *shape):
    """Random numbers that float16 and bfloat16 hold as well."""
    return (np.random.default_rng(seed).integers(-16, 17, shape) / 16).astype(np.float32)


def halves(component, config, module, rank, seed=0, linear=True):
    """(A, B) of a weight, as they lie in a file."""
    shape = places(component, config, linear=linear)[module].shape
    ones = (1,) * (len(shape) - 2)
    return coarse([seed, 1, len(module)], rank, *shape[1:]), coarse([seed, 2, len(module)], shape[0], rank, *ones)


def peft(component, config, modules, rank=2, linear=True):
    tensors = {}
    for i, module in enumerate(modules):
        a, b = halves(component, config, module, rank, i, linear)
        tensors |= {f"{component}.{module}.lora_A.weight": a, f"{component}.{module}.lora_B.weight": b}
    return tensors


def zeros(component, config):
    """The network's parameters, all 0."""
    rules = unet_entries(config) if component == "unet" else clip_entries(config, "hf")
    tensors = {name: np.zeros(shape) for entry in rules for name, shape in zip(entry.theirs, entry.shapes)}
    return read(rules, tensors, "zeros", lambda name: False)


def filled(component, config, rank, paths=(".",), alpha=None):
    lora = init_lora(zeros(component, config), jax.random.key(0), rank=rank, paths=paths, alpha=alpha)
    return jax.tree.map(lambda leaf: np.asarray(leaf) if leaf.ndim < 2 else coarse(leaf.size, *leaf.shape), lora)


def same(a, b):
    a, b = dict(flatten(a)), dict(flatten(b))
    assert a.keys() == b.keys()
    for path, leaf in a.items():
        assert np.asarray(leaf).dtype == np.asarray(b[path]).dtype == np.float32
        np.testing.assert_array_equal(leaf, b[path], err_msg=path)
    return True
