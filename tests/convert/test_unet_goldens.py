"""U-Nets of each published kind give what diffusers gave, recorded by tests/parity/make_unet_goldens.py."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled import fill
from safetensors.numpy import save_file
from unet_cases import CASES, TIMES, given

from diffusion_jax import load_pretrained
from diffusion_jax.convert.files import write_json
from diffusion_jax.convert.unet_config import from_diffusers
from diffusion_jax.convert.unet_keys import entries
from diffusion_jax.nets import complete_unet

GOLDENS = Path(__file__).parent / "goldens" / "unets.npz"


@pytest.mark.parametrize("name", CASES)
def test_it_gives_what_diffusers_gave(name, tmp_path):
    told = CASES[name]
    rules = entries(complete_unet(from_diffusers(told, "case")), projections="conv")
    shapes = {key: shape for rule in rules for key, shape in zip(rule.theirs, rule.shapes)}
    write_json(tmp_path / "config.json", told)
    save_file(fill(shapes), tmp_path / "diffusion_pytorch_model.safetensors")
    unet = load_pretrained(tmp_path)
    x, cond = given(name)
    found = jax.jit(unet.network.apply)(
        unet.params, jnp.asarray(x), jnp.array(TIMES), {k: jnp.asarray(v) for k, v in cond.items()}
    )
    with np.load(GOLDENS) as stored:
        wanted = stored[name]
    assert 0.3 < np.abs(wanted).max() < 30
    np.testing.assert_allclose(found, wanted, atol=1e-5 * max(1.0, np.abs(wanted).max()))
