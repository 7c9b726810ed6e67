"""What a format holds: every model comes back as it was, to the bit, or is refused by one line and no file is made."""

import dataclasses
import inspect
import re
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.convert import FORMATS, clip_save, load_clip, resize_image, resize_text, save_clip
from diffusion_jax.convert.clip_compare import DEFAULTS, HOW, OPENING, differences
from diffusion_jax.convert.clip_keys import entries
from diffusion_jax.convert.entries import read
from diffusion_jax.data.pictures.preprocess import Preprocess
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
    rules = entries(config, "hf" if config["vision"].get("pool") == "map" else "open_clip")
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
    assert set(fields) - {*OPENING, "mean", "std", "crop"} == DEFAULTS["preprocess"].keys()  # the crop is the model's
    assert all(fields[name] == value for name, value in DEFAULTS["preprocess"].items() if name != "size")


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
        ({"vision": {"activation": "gelu"}, "text": {"activation": "gelu_tanh"}}, {"openai": "nearest: 'open_clip'"}),
        (
            {"preprocess": {"std": (0.5, 0.5, 0.5)}},
            {"openai": "preprocess.std (0.5, 0.5, 0.5) would come back as (0.26"},
        ),
        ({"preprocess": {"resize": "squash"}}, {"openai": "preprocess.resize 'squash' would come back as 'shortest'"}),
        ({"vision": {"channels": 1}}, {"open_clip": "vision.channels 1 would come back as 3; nearest: 'hf'"}),
        (
            {"text": {"end_token": 2}},
            dict.fromkeys(("hf", "openai"), "text.end_token 2 would come back as None; nearest: 'open_clip'"),
        ),
        (
            {"vision": RESNET | {"heads": 2}, "embed": 16},
            {"openai": "vision.heads 2 would come back as 4; nearest: 'open_clip'"}
            | {"hf": "a ResNet tower has no layout in Hugging Face folders; nearest: 'open_clip'"},
        ),
        (
            {"vision": {"pool": "map"}, "text": {"pool": "last"}, "logit_bias": True},
            {"openai": "nearest: 'hf'", "open_clip": "nearest: 'hf'"},
        ),
        ({"logit_bias": True}, {"hf": "nearest: 'open_clip'", "openai": "nearest: 'open_clip'"}),
        ({"vision": {"eps": 1e-6}, "text": {"eps": 1e-7}}, {"openai": "vision.eps 1e-06 would come back as 1e-05"}),
        (
            {"vision": {"eps": 1e-6, "channels": 1}, "text": {"end_token": 2}},
            dict.fromkeys(("openai", "open_clip", "hf"), "nor can any other format"),
        ),
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


@st.composite
def configs(draw):
    """Small models of every kind, whose settings the formats hold or not."""
    pick = lambda *values: draw(st.sampled_from(values))  # noqa: E731
    siglip = draw(st.booleans())
    width, embed = pick(8, 64, 128), pick(8, 64)
    blocks = [
        {
            "width": width, "layers": pick(1, 2), "heads": pick(1, 2, 4), "mlp_ratio": pick(4.0, 2.0, 3.3),
            "activation": pick("quick_gelu", "gelu", "gelu_tanh"), "eps": pick(1e-5, 1e-6),
        }
        for _ in range(2)
    ]  # fmt: skip
    vision = {
        **blocks[0],
        "image_size": pick(8, 9),
        "patch": 4,
        "channels": pick(3, 3, 1),
        "pool": "map" if siglip else "class",
    }
    if not siglip and draw(st.booleans()):
        vision = {
            "tower": "resnet",
            "layers": (1, pick(1, 2), 1, 1),
            "width": pick(8, 16),
            "image_size": 32,
            "channels": 3,
        }
        vision |= {"heads": pick(None, 2)}
    text = {**blocks[1], "vocabulary_size": 20, "context_length": pick(4, 7), "end_token": pick(None, None, 19, 5, 2)}
    odd = pick(False, False, True)
    if odd and not siglip:
        text |= {
            "pool": pick("end", "first", "last"),
            "causal": pick(None, True, False),
            "proj_bias": pick(None, True, False),
        }
        if "tower" not in vision:
            vision |= {
                "pool": pick("class", "avg"),
                "pre_norm": pick(True, False),
                "norm_after_pool": pick(True, False),
            }
    preprocess = {
        "mean": pick(OPENAI["mean"], (0.5, 0.4, 0.3)), "std": pick(OPENAI["std"], (0.25, 0.5, 1.0)),
        "resize": pick("shortest", "squash"), "interpolation": pick("bicubic", "bilinear"),
    }  # fmt: skip
    text = {"pool": "last" if siglip else "end"} | text
    found = model(vision, text, preprocess, logit_bias=siglip or (odd and pick(True, False)))
    return found | {"embed": vision["width"] if siglip else embed}


def round_trip_or_line(folder, config):
    params = weights(config)
    for format in FORMATS:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            found = saved(Path(place), config, params, format)
            assert isinstance(found, Path) or re.search(r"; (nearest: '\w+'|nor can any other format)$", found), found
            if isinstance(found, str) and (nearest := re.search(r"nearest: '(\w+)'$", found)):
                (Path(place) / "other").mkdir()
                assert isinstance(saved(Path(place) / "other", config, params, nearest[1]), Path)


@settings(max_examples=6, deadline=None)
@given(configs())
def test_every_small_model_comes_back_or_is_refused(tmp_path_factory, config):
    round_trip_or_line(tmp_path_factory.getbasetemp(), config)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(configs())
def test_many_small_models_come_back_or_are_refused(tmp_path_factory, config):
    round_trip_or_line(tmp_path_factory.getbasetemp(), config)


def test_weights_out_of_a_dtype_s_reach_or_not_finite_are_refused(tmp_path):
    config = model()
    for value, dtype, said in (
        (70000.0, "float16", "ln_post.weight reaches 7e+04, which is infinite in dtype 'float16'; nearest: 'bfloat16'"),
        (3.4e38, "bfloat16", "which is infinite in dtype 'bfloat16'; nearest: 'float32'"),
        (np.nan, "float32", "the weights are not finite: visual.ln_post.weight has 1 such values"),
        (-np.inf, "float16", "the weights are not finite"),
    ):
        params = weights(config)
        params["visual"]["ln_post"]["scale"] = np.array([value, *[1.0] * 63], np.float32)
        for format in ("open_clip", "openai"):
            assert said in saved(tmp_path, config, params, format, dtype=dtype)
    params["visual"]["ln_post"]["scale"] = np.array([65504.0, -0.0, *[1.0] * 62], np.float32)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float16).astype(np.float32), params)
    assert isinstance(saved(tmp_path, config, params, "hf", dtype="float16"), Path)


def test_what_does_not_read_back_or_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    config = model()
    params = weights(config)
    (tmp_path / "new").mkdir()
    real = clip_save.write_tensors

    def spoilt(file, tensors):
        name = next(name for name in tensors if name.endswith("ln_final.weight"))
        real(file, tensors | {name: np.nextafter(tensors[name], 2, dtype=np.float32)})

    monkeypatch.setattr(clip_save, "write_tensors", spoilt)
    for format in ("open_clip", "openai"):
        said = saved(tmp_path / "new", config, params, format)
        assert said.endswith("is not kept: 1 differ, the first text/ln_final/scale")
    monkeypatch.undo()

    save_clip(tmp_path / "kept", config, params, "hf")
    before = {file.name: file.read_bytes() for file in (tmp_path / "kept").iterdir()}

    def full(file, value):
        raise UserError(f"{str(file)!r} cannot be written: No space left on device")

    monkeypatch.setattr(clip_save, "write_json", full)
    assert "No space" in saved(tmp_path / "new", config, params, "hf")
    with pytest.raises(UserError, match="No space"):
        save_clip(tmp_path / "kept", config, jax.tree.map(np.zeros_like, params), "hf")
    with pytest.raises(UserError, match="No space"):
        save_clip(tmp_path / "new" / "a" / "b", config, params, "hf")
    assert not list((tmp_path / "new").iterdir())
    assert {file.name: file.read_bytes() for file in (tmp_path / "kept").iterdir()} == before
    monkeypatch.undo()
    for place in (tmp_path / "kept" / "config.json" / "x", tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match="cannot be written"):
            save_clip(place, config, params, "hf")
    with pytest.raises(UserError, match="is a file; format 'hf' writes a folder"):
        save_clip(tmp_path / "kept" / "config.json", config, params, "hf")


def test_a_folder_s_other_weights_and_configs_are_not_taken_for_the_new_ones(tmp_path):
    config, other = model(), model(text={"heads": 4})
    save_clip(tmp_path / "a", config, weights(config), "hf")
    with pytest.raises(UserError, match=r"holds model\.safetensors, which would be read in place of open_clip_model"):
        save_clip(tmp_path / "a", config, weights(config), "open_clip")
    save_clip(tmp_path / "b", other, weights(other), "open_clip")
    with pytest.raises(UserError, match=r"is not kept: 1 differ, the first text\.heads"):
        save_clip(tmp_path / "b" / "x.safetensors", config, weights(config), "openai")
    assert not (tmp_path / "b" / "x.safetensors").exists()
    save_clip(tmp_path / "b", other, weights(other), "hf")
    assert not differences(load_clip(tmp_path / "b")[0], other)


@pytest.mark.parametrize("tower", ["text", "vision"])
def test_one_tower_goes_to_hugging_face_s_format_alone(tower, tmp_path):
    whole = model()
    other = {"text": "vision", "vision": "text"}[tower]
    config = {key: value for key, value in whole.items() if key not in (other, "preprocess" if tower == "text" else "")}
    params = {{"vision": "visual"}.get(tower, tower): weights(whole)[{"vision": "visual"}.get(tower, tower)]}
    assert isinstance(saved(tmp_path, config, params, "hf"), Path)
    for format in ("open_clip", "openai"):
        (tmp_path / format).mkdir()
        said = saved(tmp_path / format, config, params, format)
        assert f"its models have two towers; this one is without {other}; nearest: 'hf'" in said
    resize = {"text": resize_image, "vision": resize_text}[tower]
    with pytest.raises(UserError, match=f"the model has no {other} tower"):
        resize(config, params, 12)
