"""Stable Diffusion's U-Nets at their true width with fewer blocks, level by level, and DiT, against diffusers."""

import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import jax.numpy as jnp  # noqa: E402
from test_unet import BOUND, normal, random, told_text  # noqa: E402

from diffusion_jax.nets.unet import levels  # noqa: E402
from diffusion_jax.systems.diffusion.pretrained import load_network  # noqa: E402

FEWER = {"layers_per_block": 1, "sample_size": 8}
STABLE = {
    "sd-1.5": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "sd-2.1": {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
    "sdxl": {
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 1, 2],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "sdxl-refiner": {
        "block_out_channels": [384, 768, 1536, 1536],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": 1,
        "attention_head_dim": [6, 12, 24, 24],
        "cross_attention_dim": 1280,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2560,
    },
}


def close(found, wanted):
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= BOUND * max(1.0, np.abs(wanted).max())


def watched(monkeypatch):
    """The outputs of every level of ours, in order: a list that fills when the network is called."""
    seen = []
    for kind in (levels.Down, levels.Middle, levels.Up):
        before = kind.__call__

        def call(self, *given, before=before, **options):
            y = before(self, *given, **options)
            seen.append(y[-1] if isinstance(y, list) else y)
            return y

        monkeypatch.setattr(kind, "__call__", call)
    return seen


def hooked(peer):
    """The same of the peer."""
    seen = []
    for part in (*peer.down_blocks, peer.mid_block, *peer.up_blocks):
        part.register_forward_hook(lambda _, given, y: seen.append((y[0] if isinstance(y, tuple) else y).detach()))
    return seen


@pytest.mark.parametrize("name", STABLE)
def test_stable_diffusion_at_its_true_width_level_by_level(name, tmp_path, monkeypatch):
    peer = random(diffusers.UNet2DConditionModel(**FEWER | STABLE[name]), 0)
    told = dict(peer.config)
    cond, given = told_text(told, keys=7)
    if name == "sdxl-refiner":  # 2560 = 1280 of the pooled text and five numbers of 256 features; of XL six
        cond["ids"] = cond["ids"][:, :5]
        given["added_cond_kwargs"]["time_ids"] = torch.tensor(cond["ids"])
    peer.save_pretrained(tmp_path)
    loaded = load_network(tmp_path)
    if name.startswith("sdxl"):
        hearing = loaded.config["hearing"]
        assert (hearing["ids"], hearing["pooled"]) == ((5, 1280) if name == "sdxl-refiner" else (6, 1280))
    theirs, ours = hooked(peer), watched(monkeypatch)
    x, t = normal(1, 2, 8, 8, 4), np.array([17.0, 803.0], np.float32)
    with torch.no_grad():
        wanted = peer(torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor(t), **given).sample.numpy()
    found = loaded.network.apply(
        loaded.params, jnp.asarray(x), jnp.asarray(t), {k: jnp.asarray(v) for k, v in cond.items()}
    )
    assert len(ours) == len(theirs) == 2 * len(told["block_out_channels"]) + 1
    for mine, its in zip(ours, theirs, strict=True):
        close(mine, its.numpy().transpose(0, 2, 3, 1))
    close(found, wanted.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("learned", [True, False])
def test_dit(learned, tmp_path):
    peer = random(
        diffusers.DiTTransformer2DModel(
            num_attention_heads=3, attention_head_dim=16, in_channels=4, out_channels=8 if learned else 4, num_layers=2,
            sample_size=8, num_embeds_ada_norm=10,
        ),
        0,
    )  # fmt: skip
    # The published weights hold copies of one embedding of time and class.
    first = peer.transformer_blocks[0].norm1.emb.state_dict()
    for block in peer.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(first)
    peer.save_pretrained(tmp_path)
    loaded = load_network(tmp_path)
    x, t, label = normal(1, 2, 8, 8, 4), np.array([17.0, 803.0], np.float32), np.array([3, 10])
    with torch.no_grad():
        wanted = peer(torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor(t), torch.tensor(label)).sample.numpy()
    found = loaded.network.apply(loaded.params, jnp.asarray(x), jnp.asarray(t), {"label": jnp.asarray(label)})
    close(found, wanted.transpose(0, 2, 3, 1))
