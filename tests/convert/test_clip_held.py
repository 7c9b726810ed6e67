"""What a format holds: every model comes back as it was, to the bit, or is refused by one line and no file is made."""

import dataclasses
import inspect
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from diffusion_jax.convert import FORMATS, load_clip, save_clip
from diffusion_jax.convert.clip_compare import DEFAULTS, HOW, OPENING, differences
from diffusion_jax.convert.clip_keys import entries
from diffusion_jax.convert.entries import read
from diffusion_jax.data.preprocess import Preprocess
from diffusion_jax.nets.clip import TOWERS
from diffusion_jax.nets.text import TextTransformer
from diffusion_jax.typing import UserError

sys.path.insert(0, str(Path(__file__).parent))

from filled import fill

OPENAI = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
OPENAI |= {"resize": "shortest", "interpolation": "bicubic"}
BLOCKS = {"width": 64, "layers": 1, "heads": 1, "mlp_ratio": 4.0, "activation": "quick_gelu", "eps": 1e-5}
VISION = {**BLOCKS, "image_size": 8, "patch": 4, "channels": 3, "pool": "class"}
TEXT = {**BLOCKS, "vocabulary_size": 20, "context_length": 6, "pool": "end", "end_token": None}
RESNET = {"tower": "resnet", "layers": (1, 1, 1, 1), "width": 8, "image_size": 32, "channels": 3, "heads": None}
SIGLIP = {"pool": "map"}, {"pool": "last"}


def model(vision=None, text=None, preprocess=None, **more):
    """A small model that OpenAI's format holds, changed as given."""
    preprocess = {**OPENAI, **(preprocess or {})}
    vision = {**({} if "tower" in (vision or {}) else VISION), **(vision or {})}
    found = {"embed": 64, "logit_bias": False, "vision": vision, "text": {**TEXT, **(text or {})}}
    return {**found, "preprocess": preprocess, **more}


def weights(config):
    """Parameters of a model, filled by the names that they have in a file."""
    resnet = config.get("vision", {}).get("tower") == "resnet"
    rules = entries(config, "open_clip" if resnet else "hf")
    return read(rules, fill({n: s for rule in rules for n, s in zip(rule.theirs, rule.shapes)}), "", lambda name: False)


def saved(folder, config, params, format, **options):
    """The place that a model was written to and read back from, or the line that refused it, when there is no file."""
    place = folder / ("x.safetensors" if format == "openai" else "x")
    try:
        save_clip(place, config, params, format, **options)
    except UserError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert "\n" not in refused
        assert not list(folder.iterdir())
        return refused
    found, back = load_clip(place)
    assert not differences(config, found)
    assert jax.tree.structure(params) == jax.tree.structure(back)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(back)):
        assert np.asarray(a, np.float32).tobytes() == b.tobytes()
    return place


def test_the_settings_compared_are_those_of_the_networks_and_their_defaults():
    for name, make in {**TOWERS, "text": TextTransformer}.items():
        parameters = inspect.signature(make.__init__).parameters
        taken = {n: p.default for n, p in parameters.items() if n not in {"self", "rngs", "embed", *HOW}}
        assert {n: DEFAULTS[name][n] for n in taken} == taken
    fields = {field.name: field.default for field in dataclasses.fields(Preprocess)}
    assert set(fields) == {*DEFAULTS["preprocess"], "size", "mean", "std", *OPENING} & set(fields)
    assert all(fields[name] == value for name, value in DEFAULTS["preprocess"].items())


# (what is changed, what each format says comes back: None where it is held)
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, {}),
        (
            {"vision": {"heads": 4}, "text": {"heads": 4}},
            {"openai": "vision.heads 4 would come back as 1, text.heads 4 would come back as 1; nearest: 'open_clip'"},
        ),
        (
            {"text": {"activation": "gelu"}},
            {
                "openai": "text.activation 'gelu' would come back as 'quick_gelu'; nearest: 'hf'",
                "open_clip": "vision.activation 'quick_gelu' would come back as 'gelu'; nearest: 'hf'",
            },
        ),
        (
            {"preprocess": {"std": (0.5, 0.5, 0.5)}},
            {"openai": "preprocess.std (0.5, 0.5, 0.5) would come back as (0.26"},
        ),
        ({"preprocess": {"resize": "squash"}}, {"openai": "preprocess.resize 'squash' would come back as 'shortest'"}),
        ({"vision": {"channels": 1}}, {"open_clip": "vision.channels 1 would come back as 3; nearest: 'hf'"}),
        (
            {"text": {"end_token": 2}},
            dict.fromkeys(FORMATS, "text.end_token 2 would come back as None; nor can any other format"),
        ),
        (
            {"vision": RESNET | {"heads": 2}, "embed": 16},
            dict.fromkeys(("openai", "open_clip"), "vision.heads 2 would come back as 4; nor can any other format")
            | {"hf": "a ResNet tower has no layout in Hugging Face folders; nor can any other format"},
        ),
        (
            {"vision": {"pool": "map"}, "text": {"pool": "last"}, "logit_bias": True},
            {"openai": "nearest: 'hf'", "open_clip": "nearest: 'hf'"},
        ),
        ({"logit_bias": True}, dict.fromkeys(FORMATS, "nor can any other format")),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) and value else None,
)
def test_what_a_format_cannot_hold_is_named_with_the_nearest_that_can(changed, said, tmp_path):
    config = model(**changed)
    params = weights(config)
    for format in FORMATS:
        (tmp_path / format).mkdir()
        found = saved(tmp_path / format, config, params, format)
        if format in said:
            assert isinstance(found, str) and said[format] in found, found
        else:
            assert isinstance(found, Path), found
