"""Autoencoders against diffusers on random weights: latents and pictures, and weights there and back bit for bit."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from diffusion_jax import load_pretrained  # noqa: E402
from diffusion_jax.convert import entries as entry_rules  # noqa: E402
from diffusion_jax.convert.vae import save_vae  # noqa: E402
from diffusion_jax.convert.vae_config import from_diffusers  # noqa: E402
from diffusion_jax.convert.vae_keys import vae_entries  # noqa: E402
from diffusion_jax.nets import Network, complete_vae, tiled, vae_keywords  # noqa: E402

BOUND = 1e-5


def kinds(*attends, up=None):
    """The types of blocks of levels that attend or not, the finest first."""
    down = [("Attn" if here else "") + "DownEncoderBlock2D" for here in attends]
    return {
        "down_block_types": down,
        "up_block_types": [("Attn" if here else "") + "UpDecoderBlock2D" for here in reversed(up or attends)],
    }


SMALL = {"block_out_channels": [16, 32], "layers_per_block": 1, "norm_num_groups": 8, **kinds(False, False)}
KL = {
    "as it is": {},
    "three levels": {"block_out_channels": [16, 24, 32], "layers_per_block": 2, **kinds(False, False, False)},
    "one level": {"block_out_channels": [16], **kinds(False)},
    "attention": kinds(False, True),
    "attention on one way": kinds(True, False, up=(False, True)),
    "no attention": {"mid_block_add_attention": False},
    "one channel, wide latents": {"in_channels": 1, "out_channels": 1, "latent_channels": 7},
    "five channels in, two out": {"in_channels": 5, "out_channels": 2, "latent_channels": 3},
    "no maps": {"use_quant_conv": False, "use_post_quant_conv": False, "latent_channels": 16},
    "one map": {"use_post_quant_conv": False},
    "gelu": {"act_fn": "gelu"},
    "mish": {"act_fn": "mish"},
    "groups": {"norm_num_groups": 2},
    "true width": {
        "block_out_channels": [128, 256, 512, 512], "norm_num_groups": 32, **kinds(False, False, False, False),
    },
}  # fmt: skip
VQ = {
    "as it is": {},
    "another width": {"latent_channels": 4, "vq_embed_dim": 6, "num_vq_embeddings": 100},
    "attention": kinds(False, True),
    "no attention": {"mid_block_add_attention": False},
    "true width": {
        "block_out_channels": [128, 256, 512], "norm_num_groups": 32, "num_vq_embeddings": 8192,
        **kinds(False, False, False),
    },
}  # fmt: skip


def random(peer, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in peer.named_parameters():
            scale = 0.1 if value.ndim < 2 else value[0].numel() ** -0.5
            scale = 0.5 if name == "quantize.embedding.weight" else scale
            value.copy_(torch.randn(value.shape, generator=generator) * scale + (0.5 if value.ndim == 1 else 0.0))
    return peer.eval()


def config_of(peer):
    return json.loads(peer.to_json_string()) | {"_class_name": type(peer).__name__}


def ours(peer):
    """(network, parameters) of the same; its weights come back as they went."""
    config = complete_vae(from_diffusers(config_of(peer), "config.json"))
    tensors = {name: value.detach().numpy() for name, value in peer.state_dict().items()}
    rules = vae_entries(config)
    params = entry_rules.read(rules, tensors, "the peer", lambda name: False)
    back = entry_rules.write(rules, params, "the peer")
    assert back.keys() == tensors.keys() and all(np.array_equal(back[name], tensors[name]) for name in tensors)
    make, keywords = vae_keywords(config)
    return Network(lambda rngs: make(rngs, **keywords)), params


def picture(peer, height=16, width=24, batch=2):
    shape = (batch, height, width, peer.config.in_channels)
    return np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)


def there(x):
    return torch.tensor(np.asarray(x).transpose(0, 3, 1, 2))


def back(x):
    return x.numpy().transpose(0, 2, 3, 1)


def close(found, wanted):
    assert found.shape == wanted.shape and 0.1 < np.abs(wanted).max() < 100
    worst = np.abs(np.asarray(found) - wanted).max()
    assert worst <= BOUND * max(1.0, np.abs(wanted).max()), worst


@pytest.mark.parametrize("name", KL)
def test_autoencoder_kl(name):
    peer = random(diffusers.AutoencoderKL(**SMALL | KL[name]))
    network, params = ours(peer)
    x = picture(peer)
    with torch.no_grad():
        posterior = peer.encode(there(x)).latent_dist
        decoded = peer.decode(posterior.mean).sample
    found = network.method("encode")(params, jnp.asarray(x))
    close(found.mean, back(posterior.mean))
    close(found.logvar, back(posterior.logvar))
    np.testing.assert_allclose(found.kl(), posterior.kl().numpy(), rtol=1e-4)
    close(network.method("decode")(params, jnp.asarray(back(posterior.mean))), back(decoded))


def test_a_whole_kl_f8_is_as_near_to_the_peer_in_float64():
    """Of the published depth and widths, as a peer begins: in float32 the peer itself is further from it."""
    levels = {"block_out_channels": [128, 256, 512, 512], **kinds(False, False, False, False)}
    torch.manual_seed(0)
    peer = diffusers.AutoencoderKL(**levels, layers_per_block=2, norm_num_groups=32).eval()
    network, params = ours(peer)
    x = picture(peer, 64, 64, 1)
    with torch.no_grad():
        peer = peer.double()
        mean = peer.encode(there(x).double()).latent_dist.mean
        decoded = peer.decode(mean.float().double()).sample
    close(network.method("encode")(params, jnp.asarray(x)).mean, back(mean))
    close(network.method("decode")(params, jnp.asarray(back(mean.float()))), back(decoded))


def test_logvars_are_clipped_alike():
    peer = random(diffusers.AutoencoderKL(**SMALL))
    with torch.no_grad():
        peer.quant_conv.weight[4:] *= 100
    network, params = ours(peer)
    x = picture(peer)
    with torch.no_grad():
        posterior = peer.encode(there(x)).latent_dist
    found = network.method("encode")(params, jnp.asarray(x))
    assert float(found.logvar.min()) == -30 and float(found.logvar.max()) == 20
    np.testing.assert_allclose(found.logvar, back(posterior.logvar), atol=1e-3)  # a hundred times the values
    np.testing.assert_allclose(found.kl(), posterior.kl().numpy(), rtol=1e-3)


@pytest.mark.parametrize("name", VQ)
def test_vq_model(name):
    peer = random(diffusers.VQModel(**SMALL | VQ[name]))
    network, params = ours(peer)
    x = picture(peer)
    with torch.no_grad():
        h = peer.encode(there(x)).latents
        decoded, loss = peer.decode(h, return_dict=False)
        zq, _, (_, _, indices) = peer.quantize(h)
    close(network.method("encode")(params, jnp.asarray(x)), back(h))
    quantized = network.method("quantize")(params, jnp.asarray(back(h)))
    np.testing.assert_array_equal(np.asarray(quantized.indices).ravel(), indices.numpy().ravel())
    close(quantized.zq, back(zq))
    close(network.method("decode")(params, jnp.asarray(back(h))), back(decoded))
    np.testing.assert_allclose(quantized.loss().mean(), float(loss), rtol=1e-5)
    peer.quantize.legacy = False
    with torch.no_grad():
        loss = peer.quantize(h)[1]
    np.testing.assert_allclose(quantized.loss(legacy=False).mean(), float(loss), rtol=1e-5)


@pytest.mark.parametrize("size", [(40, 24), (16, 40), (28, 36), (64, 14), (24, 16)])
def test_tiles(size):
    """Tiles of 16 pixels that begin every 12; also where no whole number of them fits, and where one way has one tile."""
    peer = random(diffusers.AutoencoderKL(**SMALL, sample_size=16))
    peer.enable_tiling()
    network, params = ours(peer)
    x = picture(peer, *size)
    with torch.no_grad():
        mean = peer.encode(there(x)).latent_dist.mean
        decoded = peer.decode(mean).sample

    def run(name):
        method = jax.jit(network.method(name))
        return lambda x: method(params, x)

    close(tiled(run("moments"), jnp.asarray(x), 16)[..., :4], back(mean))
    close(tiled(run("decode"), jnp.asarray(back(mean)), 8), back(decoded))


@pytest.mark.parametrize("make", ["AutoencoderKL", "VQModel"])
def test_folders_both_ways_and_old_names(make, tmp_path):
    """What it writes is read here, by old names of attention too, and what is written here is read by it."""
    told = SMALL | {"scaling_factor": 0.5} | ({"force_upcast": False} if make == "AutoencoderKL" else {})
    peer = random(getattr(diffusers, make)(**told))
    peer.save_pretrained(tmp_path / "theirs")
    vae = load_pretrained(tmp_path / "theirs")
    x = picture(peer)

    def latents(peer, x):
        with torch.no_grad():
            found = peer.encode(there(x))
            return back(found.latent_dist.mean if make == "AutoencoderKL" else found.latents)

    close(vae.encode(x) / 0.5, latents(peer, x))
    numpy = jax.tree.map(np.asarray, vae.params)
    save_vae(tmp_path / "ours", vae.config, numpy, complete_vae)
    again = getattr(diffusers, make).from_pretrained(tmp_path / "ours")
    assert {k: v for k, v in config_of(again).items() if k[0] != "_"} == {
        k: v for k, v in config_of(peer).items() if k[0] != "_"
    } | ({"vq_embed_dim": 3} if make == "VQModel" else {})
    np.testing.assert_array_equal(latents(again.eval(), x), latents(peer, x))

    from safetensors.numpy import load_file, save_file

    file = tmp_path / "theirs" / "diffusion_pytorch_model.safetensors"
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    tensors = load_file(file)
    for now, before in old.items():
        tensors = {name.replace(now, before): value for name, value in tensors.items()}
    save_file(tensors, file, metadata={"format": "pt"})
    np.testing.assert_array_equal(load_pretrained(tmp_path / "theirs").encode(x), vae.encode(x))
    np.testing.assert_array_equal(
        latents(getattr(diffusers, make).from_pretrained(tmp_path / "theirs").eval(), x), latents(peer, x)
    )


def test_a_file_of_latent_diffusion(tmp_path):
    """diffusers' own conversion of a single file, which knows the middle's attention alone, reads what is written here."""
    peer = random(diffusers.AutoencoderKL(**SMALL))
    _, params = ours(peer)
    config = complete_vae(from_diffusers(config_of(peer), "config.json"))
    file = save_vae(
        tmp_path / "vae.safetensors", config, params, complete_vae, layout="latent", prefix="first_stage_model."
    )

    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
    from safetensors.torch import load_file

    converted = convert_ldm_vae_checkpoint(load_file(file), peer.config)
    wanted = peer.state_dict()
    assert converted.keys() == wanted.keys()
    assert all(torch.equal(converted[name].reshape(value.shape), value) for name, value in wanted.items())
