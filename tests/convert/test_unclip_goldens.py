"""unCLIP's prior and text projection give what diffusers gave, recorded by tests/parity/make_unclip_goldens.py."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled import fill
from safetensors.numpy import save_file
from unclip_cases import PRIORS, PROJECTION, TIMES, of_prior, of_projection

from diffusion_jax import load_pretrained
from diffusion_jax.convert import prior, unclip_text
from diffusion_jax.convert.files import write_json
from diffusion_jax.nets import Network, TextProjection

GOLDENS = Path(__file__).parent / "goldens" / "unclip.npz"


def written(folder, told, rules):
    """The folder of a case."""
    shapes = {key: shape for rule in rules for key, shape in zip(rule.theirs, rule.shapes)}
    write_json(folder / "config.json", told)
    save_file(fill(shapes), folder / "diffusion_pytorch_model.safetensors")
    return folder


def close(found, wanted):
    assert 0.3 < np.abs(wanted).max() < 30
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_gives_what_diffusers_gave(name, tmp_path):
    told = PRIORS[name]
    found = load_pretrained(written(tmp_path, told, prior.entries(prior.from_diffusers(told, "case"))))
    x, cond = of_prior(name)
    cond = {key: jnp.asarray(value) for key, value in cond.items()}
    y = jax.jit(found.network.apply)(found.params, jnp.asarray(x), jnp.array(TIMES), cond)
    with np.load(GOLDENS) as stored:
        close(y, stored[name])
        close(found.network.method("denormalize")(found.params, y), stored[f"{name}, embedding"])


def test_a_text_projection_gives_what_diffusers_gave(tmp_path):
    rules = unclip_text.entries(unclip_text.from_diffusers(PROJECTION, "case"))
    config, params = unclip_text.load_text_projection(written(tmp_path, PROJECTION, rules))
    net = Network(lambda rngs: TextProjection(rngs, **config))
    image, text, tokens, length = map(jnp.asarray, of_projection())
    without, given = net.apply(params, None, text, tokens, length), net.apply(params, image, text, tokens, length)
    with np.load(GOLDENS) as stored:
        for name in ("tokens", "embedding"):
            close(np.concatenate([without[name], given[name]]), stored[name])
