"""Autoencoders of each kind give what diffusers gave, recorded by tests/parity/make_vae_goldens.py."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled import fill
from safetensors.numpy import save_file
from vae_cases import CASES, TILED, pictures

from diffusion_jax import load_pretrained
from diffusion_jax.convert.files import write_json
from diffusion_jax.convert.vae_config import from_diffusers
from diffusion_jax.convert.vae_keys import vae_entries
from diffusion_jax.nets import complete_vae

GOLDENS = Path(__file__).parent / "goldens" / "vaes.npz"


def autoencoder(name, folder):
    """A folder as diffusers writes it, of weights that are a function of their names, as `load_pretrained` reads it."""
    told = CASES[name]
    rules = vae_entries(complete_vae(from_diffusers(told, "case")))
    shapes = {key: shape for rule in rules for key, shape in zip(rule.theirs, rule.shapes)}
    write_json(folder / "config.json", told)
    save_file(fill(shapes), folder / "diffusion_pytorch_model.safetensors")
    return load_pretrained(folder)


def same(found, wanted):
    assert 0.3 < np.abs(wanted).max() < 30
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * max(1.0, np.abs(wanted).max()))


@pytest.mark.parametrize("name", CASES)
def test_it_gives_what_diffusers_gave(name, tmp_path):
    vae = autoencoder(name, tmp_path)
    with np.load(GOLDENS) as stored:
        kept = {key.partition("/")[2]: stored[key] for key in stored.files if key.partition("/")[0] == name}
    x = pictures()
    z = kept["latents"] if vae.kind == "VQModel" else kept["mean"]
    same(vae.encode(x) / vae.scale + vae.shift, z)
    unit = (z - vae.shift) * vae.scale
    same(vae.decode(unit), kept["decoded"])
    if vae.kind == "AutoencoderKL":
        same(jax.jit(vae.network.method("encode"))(vae.params, jnp.asarray(x)).logvar, kept["logvar"])
    if name == TILED:
        size = CASES[name]["sample_size"]
        same(vae.encode(x, tile=size) / vae.scale + vae.shift, kept["tiled mean"])
        same(vae.decode(unit, tile=size // vae.factor), kept["tiled decoded"])
