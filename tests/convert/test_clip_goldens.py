"""Every family's outputs, layer by layer, against what the peers gave for these weights (tests/parity/families.py)."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from diffusion_jax.convert import load_clip
from diffusion_jax.nets import CLIP, Network

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from filled import fill, inputs  # noqa: E402

NAMES = ("openai_vit", "laion_vit", "openai_resnet", "hf_clip", "hf_siglip")
MODEL = ("embed", "vision", "text", "logit_bias")


def checkpoint(name, folder):
    """The golden, and its weights in `folder` as the peer would have saved them."""
    golden = dict(np.load(HERE / "goldens" / f"{name}.npz"))
    weights = fill(json.loads(str(golden["shapes"])))
    hugging = str(golden["kind"]) == "hf"
    save_file(weights, folder / ("model.safetensors" if hugging else "open_clip_model.safetensors"))
    (folder / ("config.json" if hugging else "open_clip_config.json")).write_text(str(golden["config"]))
    return golden, weights


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_is_the_peers(name, tmp_path):
    golden, _ = checkpoint(name, tmp_path)
    config, params = load_clip(tmp_path)
    network = Network(lambda rngs: CLIP(rngs, **{key: config[key] for key in MODEL}))
    images, tokens = inputs(*golden["sizes"])

    def outputs(params, images, tokens):
        towers = [network.method(f"encode_{tower}") for tower in ("image", "text")]
        states = [network.method(f"{tower}_states") for tower in ("image", "text")]
        given = (images, tokens)
        return [f(params, x) for f, x in zip(towers, given)], [f(params, x) for f, x in zip(states, given)]

    found, states = jax.jit(outputs)(params, images, tokens)
    pairs = [(tower, out.embedding) for tower, out in zip(("image", "text"), found)]
    for tower, hidden in zip(("image", "text"), states):
        pairs += [(f"{tower}_{i}", state) for i, state in enumerate(hidden[1:])]
    assert {name for name, _ in pairs} == {n for n in golden if n.startswith(("image", "text"))}
    for output, got in pairs:
        wanted = golden[output]
        error = np.abs(np.asarray(got).reshape(wanted.shape) - wanted).max()
        assert error <= 1e-5 * max(1, np.abs(wanted).max()), (output, error)
    if config["vision"].get("tower") != "resnet":
        last = [np.asarray(s[-2]) for s in states]
        for out, before in zip(found, last):
            np.testing.assert_allclose(out.penultimate, before, atol=1e-5)
