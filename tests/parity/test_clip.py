"""CLIP's towers against transformers' with the same random weights, and InfoNCE against PyTorch's cross-entropy."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.contrastive import infonce
from diffusion_jax.nets import CLIP, Network

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

WIDTH, LAYERS, HEADS, EMBED = 32, 3, 4, 24


def same(got, wanted):
    """max |a - b| <= 1e-5 max(1, max |b|)."""
    got, wanted = np.asarray(got), wanted.detach().numpy()
    assert np.abs(got - wanted).max() <= 1e-5 * max(1, np.abs(wanted).max())


@pytest.fixture(scope="module")
def peer():
    import torch
    import transformers

    torch.manual_seed(0)
    common = {
        "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "hidden_act": "quick_gelu", "projection_dim": EMBED,
    }  # fmt: skip
    text = common | {"vocab_size": 50, "max_position_embeddings": 12, "eos_token_id": 49, "bos_token_id": 48}
    vision = common | {"image_size": 16, "patch_size": 4}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=EMBED)
    return transformers.CLIPModel(config).eval()


def linear(state, name):
    return {"kernel": state[f"{name}.weight"].T, "bias": state[f"{name}.bias"]}


def norm(state, name):
    return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}


def block(state, name):
    parts = [linear(state, f"{name}.self_attn.{p}_proj") for p in "qkv"]
    fused = {key: jnp.concatenate([part[key] for part in parts], axis=-1) for key in ("kernel", "bias")}
    return {
        "ln_1": norm(state, f"{name}.layer_norm1"),
        "attn": {"in_proj": fused, "out_proj": linear(state, f"{name}.self_attn.out_proj")},
        "ln_2": norm(state, f"{name}.layer_norm2"),
        "mlp": {"c_fc": linear(state, f"{name}.mlp.fc1"), "c_proj": linear(state, f"{name}.mlp.fc2")},
    }


def stacked(state, name):
    import jax

    layers = [block(state, f"{name}.encoder.layers.{i}") for i in range(LAYERS)]
    return {"layers": jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)}


def ours(peer):
    state = {name: jnp.asarray(value.numpy()) for name, value in peer.state_dict().items()}
    text, vision = "text_model", "vision_model"
    patches = state[f"{vision}.embeddings.patch_embedding.weight"]  # [out, in, rows, columns]
    return {
        "logit_scale": jnp.asarray(state["logit_scale"]),
        "text": {
            "token_embedding": state[f"{text}.embeddings.token_embedding.weight"],
            "positional_embedding": state[f"{text}.embeddings.position_embedding.weight"],
            "blocks": stacked(state, text),
            "ln_final": norm(state, f"{text}.final_layer_norm"),
            "proj": {"kernel": state["text_projection.weight"].T},
        },
        "visual": {
            "patchify": {"proj": {"kernel": patches.transpose(2, 3, 1, 0).reshape(-1, WIDTH)}},
            "class_embedding": state[f"{vision}.embeddings.class_embedding"],
            "positional_embedding": state[f"{vision}.embeddings.position_embedding.weight"],
            "ln_pre": norm(state, f"{vision}.pre_layrnorm"),
            "blocks": stacked(state, vision),
            "ln_post": norm(state, f"{vision}.post_layernorm"),
            "proj": {"kernel": state["visual_projection.weight"].T},
        },
    }


@pytest.fixture(scope="module")
def network():
    shape = {"width": WIDTH, "layers": LAYERS, "heads": HEADS}
    vision = shape | {"image_size": 16, "channels": 3, "patch": 4}
    text = shape | {"vocabulary_size": 50, "context_length": 12}
    return Network(lambda rngs: CLIP(rngs, embed=EMBED, vision=vision, text=text))


def test_text_tower_token_by_token(peer, network):
    import torch

    tokens = np.array([[48, 3, 7, 9, 49, 0, 0, 0, 0, 0, 0, 0], [48, *range(1, 11), 49]])
    with torch.no_grad():
        wanted = peer.text_model(input_ids=torch.tensor(tokens))
        projected = peer.text_projection(wanted.pooler_output)
    got = network.method("encode_text")(ours(peer), jnp.asarray(tokens))
    same(got.tokens, wanted.last_hidden_state)
    same(got.pooled, wanted.pooler_output)
    same(got.embedding, projected)


def test_vision_tower_token_by_token(peer, network):
    import torch

    images = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype(np.float32)
    with torch.no_grad():
        wanted = peer.vision_model(pixel_values=torch.tensor(images.transpose(0, 3, 1, 2).copy()))
        projected = peer.visual_projection(wanted.pooler_output)
    got = network.method("encode_image")(ours(peer), jnp.asarray(images))
    same(got.tokens, wanted.last_hidden_state)
    same(got.pooled, wanted.pooler_output)
    same(got.embedding, projected)


def test_the_loss_is_the_peers(peer, network):
    import torch

    tokens = np.array([[48, 3, 7, 9, 49, 0], [48, 5, 49, 0, 0, 0], [48, 1, 2, 2, 2, 49]])
    images = np.random.default_rng(1).normal(size=(3, 16, 16, 3)).astype(np.float32)
    with torch.no_grad():
        wanted = peer(
            input_ids=torch.tensor(tokens),
            pixel_values=torch.tensor(images.transpose(0, 3, 1, 2).copy()),
            return_loss=True,
        )
    out = network.apply(ours(peer), jnp.asarray(images), jnp.asarray(tokens))
    same(out.image, wanted.image_embeds)
    same(out.text, wanted.text_embeds)
    same(infonce(out.image, out.text, out.scale).mean(), wanted.loss)
