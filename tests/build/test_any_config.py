"""Configs with wrong types and values through `validate` and the networks' shapes: fine, or one UserError; nothing else."""

import contextlib
import math
from pathlib import Path

import jax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from diffusion_jax import build
from diffusion_jax.config import flatten, load_config
from diffusion_jax.systems.clip.network import clip_network
from diffusion_jax.systems.table import keys
from diffusion_jax.training import validate
from diffusion_jax.typing import UserError

ROOT = Path(__file__).parents[2]
SMALL = {
    "digits_clip": {"model.vision.width": "8", "model.text.width": "8", "model.embed": "4"},
    "clip_folder": {"model.vision.width": "8", "model.text.width": "8", "model.vision.image_size": "16"},
    "digits_diffusion": {"model.width": "8"},
}
WIDTHS = ("width", "layers", "image_size", "context_length", "embed", "channels")
values = st.one_of(
    st.sampled_from([None, True, False, "", "seven", "64", 3.0, 0, 1, 2, 3, -1, 0.5, 1.0, math.nan, math.inf, 2**70]),
    st.sampled_from([[], [1], (0.3, 5), (1, 1, 1, 1), ("a", 2), b"bytes", len, object(), {"name": "apg"}, {1: 2}]),
    st.integers(-3, 40),
    st.floats(allow_nan=True, allow_infinity=True, width=32),
    st.text(max_size=8),
)


def put(config, dotted, value):
    """Sets a key, and makes the groups on the way."""
    node = config
    *inner, last = dotted.split(".")
    for name in inner:
        if not isinstance(node.get(name), ConfigDict):
            with node.unlocked(), node.ignore_type():
                node[name] = ConfigDict()
        node = node[name]
    with node.unlocked(), node.ignore_type():
        node[last] = ConfigDict(value) if isinstance(value, dict) else value


def built(config):
    """The shapes of the network that the config makes; of one too large to be tried, nothing."""
    flat = flatten(config)
    if any(isinstance(v, int) and v > 64 for k, v in flat.items() if k.startswith("model.") and k.endswith(WIDTHS)):
        return
    if config.model.get("preset"):
        return
    if config.system == "clip":
        digits = not build.gives_pictures(config.data)
        sizes = {"image_size": 8, "channels": 1} if digits else {}
        network = clip_network(config.model, vocabulary_size=20, **sizes)
    else:
        network = build.diffusion_network(config.model, (8, 8, 1), {"pooled": (4,), "tokens": (5, 8), "length": ()})
    jax.eval_shape(network.init, jax.random.key(0))


def drive(name, data):
    config = load_config(str(ROOT / "configs" / f"{name}.py"), {"batch_size": "64", **SMALL[name]})
    try:
        for _ in range(data.draw(st.integers(1, 2))):
            known = sorted(keys(config))
            wrong = st.sampled_from(["model", "data", "nope", "ema", "sampler.nope", "loss", "model.vision", "mesh"])
            put(config, data.draw(st.one_of(st.sampled_from(known), wrong)), data.draw(values))
        validate(config)
        built(config)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize("name", SMALL)
@given(data=st.data())
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_value_is_fine_or_one_line(name, data):
    drive(name, data)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
@given(data=st.data())
@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_value_is_fine_or_one_line_widely(name, data):
    drive(name, data)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("digits_diffusion", {"model.patch": 3}, "image_size 8 is not divided by patch 3"),
        ("digits_diffusion", {"model.width": 10}, "width 10 is not divided by 4"),
        ("digits_diffusion", {"model.heads": 3}, "width 8 is not divided by 3 heads"),
        ("digits_clip", {"model.vision.patch": 3}, "image_size 8 is not divided by patch 3; nearest: 9"),
        ("digits_clip", {"model.vision.heads": 5}, "width 8 is not divided by 5 heads"),
        ("digits_clip", {"model.text.heads": 16}, "width 8 is not divided by 16 heads"),
        ("clip_folder", {"model.vision.patch": 32, "model.vision.trim": True}, "'model.vision.patch' is 32, above"),
        ("clip_folder", {"data.validation": 0.6, "data.test": 0.4}, "'data.validation' and 'data.test' sum to 1"),
        ("clip_folder", {"model.embed": None}, "needs 'embed', 'vision' and 'text', or a 'preset'"),
        ("clip_folder", {"preprocess.size": 12}, "crop 16 is not in 1 .. 12"),
    ],
)
def test_sizes_that_do_not_agree_are_one_line(name, changes, said):
    config = load_config(str(ROOT / "configs" / f"{name}.py"), SMALL[name])
    for key, value in changes.items():
        put(config, key, value)

    def make():
        validate(config)
        built(config)

    with contextlib.ExitStack() as stack:
        stack.enter_context(pytest.raises(UserError, match=said.replace("..", r"\.\.")))
        make()
