"""unCLIP's networks against diffusers on random weights: the prior, the text projection, the decoder, both upsamplers."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
sys.path.insert(0, str(Path(__file__).parents[1] / "convert"))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from test_unet import BOUND, random  # noqa: E402
from unclip_cases import (  # noqa: E402
    DECODER,
    LENGTH,
    PRIORS,
    PROJECTION,
    TIMES,
    UPSAMPLER,
    normal,
    of_prior,
    of_projection,
)
from unclip_peer import peer_of, predicted, projected  # noqa: E402

from diffusion_jax.convert.prior import save_prior  # noqa: E402
from diffusion_jax.convert.unclip_text import load_text_projection, save_text_projection  # noqa: E402
from diffusion_jax.nets import Network, TextProjection  # noqa: E402
from diffusion_jax.systems.diffusion.pretrained import load_network  # noqa: E402


def close(found, wanted):
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= BOUND * np.abs(wanted).max()


def same(again, peer):
    """That weights written here are in diffusers' hands what they were, bit for bit."""
    before = peer.state_dict()
    assert again.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in again.state_dict().items())


def told(cond):
    return {name: jnp.asarray(value) for name, value in cond.items()}


@pytest.mark.parametrize("name", PRIORS)
def test_prior(name, tmp_path):
    peer = random(peer_of(PRIORS[name]), 0)
    assert min(peer.clip_mean.abs().max(), peer.clip_std.abs().max()) > 0.1
    peer.save_pretrained(tmp_path / "peer")
    ours, (x, cond) = load_network(tmp_path / "peer"), of_prior(name)
    wanted = predicted(peer, x, cond)
    found = ours.network.apply(ours.params, jnp.asarray(x), jnp.array(TIMES), told(cond))
    close(found, wanted)
    with torch.no_grad():
        close(ours.network.method("denormalize")(ours.params, found), peer.post_process_latents(wanted))
    save_prior(tmp_path / "back", ours.config, jax.tree.map(np.asarray, ours.params))
    same(diffusers.PriorTransformer.from_pretrained(tmp_path / "back"), peer)


def test_prior_of_karlos_sequence_width_of_a_head_and_depth(tmp_path):
    """77 tokens, heads of 64, 20 layers; of a width of 128."""
    peer = random(diffusers.PriorTransformer(num_attention_heads=2, embedding_dim=48), 1)
    peer.save_pretrained(tmp_path)
    ours = load_network(tmp_path)
    cond = {"pooled": normal(2, 2, 48), "tokens": normal(3, 2, 77, 48), "length": np.array([2, 30])}
    wanted = predicted(peer, normal(1, 2, 48), cond)
    close(ours.network.apply(ours.params, jnp.asarray(normal(1, 2, 48)), jnp.array(TIMES), told(cond)), wanted)


@pytest.fixture
def heard(tmp_path):
    """(tokens, embedding) of the peer's projection, and the conditions of ours: without and with a picture."""
    peer = random(peer_of(PROJECTION), 2)
    peer.save_pretrained(tmp_path / "text")
    config, params = load_text_projection(tmp_path / "text")
    net = Network(lambda rngs: TextProjection(rngs, **config))
    image, text, tokens, length = of_projection()
    conds = [
        net.apply(params, picture, *map(jnp.asarray, (text, tokens, length))) for picture in (None, jnp.asarray(image))
    ]
    save_text_projection(tmp_path / "back", config, params)
    same(type(peer).from_pretrained(tmp_path / "back"), peer)
    return projected(peer, image, text, tokens), jax.tree.map(lambda *parts: jnp.concatenate(parts), *conds)


def test_text_projection(heard):
    (tokens, embedding), cond = heard
    close(cond["tokens"], tokens)
    close(cond["embedding"], embedding)


def drawn(peer, x, t, folder, cond=None, **given):
    """(ours, the peer's) of pictures [batch, height, width, channels]."""
    peer.save_pretrained(folder)
    ours = load_network(folder)
    with torch.no_grad():
        wanted = peer(torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor(t), **given).sample.numpy()
    return ours.network.apply(ours.params, jnp.asarray(x), jnp.asarray(t), cond), wanted.transpose(0, 2, 3, 1)


def test_decoder(heard, tmp_path):
    """Told by the projection, under the mask that its pipeline gives it: the picture's four tokens always count."""
    (tokens, embedding), cond = heard
    peer = random(peer_of(DECODER), 3)
    visible = torch.arange(4 + 7)[None] < 4 + torch.tensor(LENGTH * 2)[:, None]
    x, t = normal(4, 4, 16, 16, 3), np.array(TIMES * 2, np.float32)
    given = {"encoder_hidden_states": tokens, "class_labels": embedding, "attention_mask": visible}
    close(*drawn(peer, x, t, tmp_path / "decoder", cond, **given))


@pytest.mark.parametrize("seed", [4, 5], ids=["first steps", "last step"])
def test_upsamplers(seed, tmp_path):
    close(*drawn(random(peer_of(UPSAMPLER), seed), normal(seed, 2, 16, 16, 6), np.array(TIMES, np.float32), tmp_path))
