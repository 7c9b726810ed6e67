"""The table of what keys may be: every key of every constructor has a row, and every row refuses what it should."""

import contextlib
import importlib.util
import json
import math
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from diffusion_jax.build import NETWORKS, SCHEDULES, SOURCES, TIMES, TOKENIZERS, WEIGHTS
from diffusion_jax.build.guidance import GUIDANCE
from diffusion_jax.build.key_ranges import row_of
from diffusion_jax.build.keys import REQUIRED
from diffusion_jax.build.learning import AVERAGES, OPTIMIZERS
from diffusion_jax.config import flatten, load_config
from diffusion_jax.nets.clip import TOWERS
from diffusion_jax.pipelines.fine_tuning.trains import TRAINS
from diffusion_jax.systems.diffusion.conditions import CONDITIONS
from diffusion_jax.systems.diffusion.spaces import SPACES
from diffusion_jax.systems.table import groups, keys, ranges_of
from diffusion_jax.systems.vae.network import ADVERSARIES, AUTOENCODERS
from diffusion_jax.training import validate
from diffusion_jax.typing import UserError

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs").glob("*.py"))


def named() -> list[str]:
    """Every config and variant of configs/."""
    found = []
    for path in FILES:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found += [str(path), *(f"{path}:{name}" for name in module.VARIANTS)]
    return found


NAMED = named()
CHOICES = {
    "clip": {
        "optimizer.name": list(OPTIMIZERS),
        "ema.name": list(AVERAGES),
        "data.name": list(SOURCES),
        "tokenizer.name": list(TOKENIZERS),
        "model.vision.tower": list(TOWERS),
    },
    "diffusion": {
        "data.name": list(SOURCES),
        "model.name": list(NETWORKS),
        "condition.name": list(CONDITIONS),
        "space.name": list(SPACES),
        "schedule.name": list(SCHEDULES),
        "loss.weight": list(WEIGHTS),
        "loss.times": list(TIMES),
        "sampler.guidance": list(GUIDANCE),
    },
    "fine_tune": {
        "trains.name": list(TRAINS),
        "data.name": list(SOURCES),
        "loss.weight": list(WEIGHTS),
        "loss.times": list(TIMES),
    },
    "vae": {"data.name": list(SOURCES), "model.name": list(AUTOENCODERS), "adversary.name": list(ADVERSARIES)},
}
"""The keys whose value brings other keys."""


def with_key(dotted, value, base=None):
    config = ConfigDict(base or {})
    node = config
    *inner, last = dotted.split(".")
    for name in inner:
        node[name] = node.get(name) or ConfigDict()
        node = node[name]
    node[last] = value
    return config


def test_every_key_that_a_constructor_takes_has_a_row_that_holds_its_default():
    """`keys` looks each up, and raises KeyError for one without a row; each row is used by some config."""
    used, every = set(), set()
    for system, choices in CHOICES.items():
        configs = [ConfigDict({"system": system})]
        configs += [with_key(key, name, {"system": system}) for key, names in choices.items() for name in names]
        for config in configs:
            inside, rows = groups(config), ranges_of(config)
            every |= set(rows)
            for dotted, key in keys(config).items():
                group, _, last = dotted.rpartition(".")
                used.add(row_of(rows, group, inside[group].name if group in inside else None, last))
                if key.default is not REQUIRED:
                    key.range.check(dotted, key.default)
                if key.range.kind is float and group.partition(".")[0] != "sampler":
                    assert not key.range.holds(math.inf), dotted
                assert not key.range.holds(math.nan) and not key.range.holds(object()), dotted
                assert isinstance(key.range.words, str) and "\n" not in key.range.words
    assert used - {"system"} == every


@pytest.mark.parametrize("spec", NAMED, ids=lambda spec: spec.rpartition("/")[2])
def test_every_key_of_every_config_is_known(spec):
    config = load_config(spec)
    assert set(flatten(config)) <= set(keys(config))


@pytest.mark.parametrize(
    "spec",
    [str(p) if "digits" in p.stem else pytest.param(str(p), marks=pytest.mark.slow) for p in FILES],
    ids=lambda spec: spec.rpartition("/")[2],
)
def test_a_value_of_another_type_is_one_line_for_every_key(spec):
    """None, a bool, a text, a list, NaN, a group, an object and a huge number: refused by name, or right."""
    config = load_config(spec, {"batch_size": "64"})
    for dotted in flatten(config):
        *inner, last = dotted.split(".")
        node = config
        for name in inner:
            node = node[name]
        before = node[last]
        for wrong in (None, True, "seven", "", [1], float("nan"), -math.inf, 2**200, -1, {"a": 1}, len):
            with node.ignore_type():
                node[last] = ConfigDict(wrong) if isinstance(wrong, dict) else wrong
            with contextlib.suppress(UserError):
                validate(config)
        with node.ignore_type():
            node[last] = before
    validate(config)
    json.dumps(config.to_dict())


WRONG = [  # key, value, what is said; the first is the digits' CLIP, "d " marks diffusion
    ("optimizer.clip_norm", -1.0, "'optimizer.clip_norm' is -1.0; it is a number of at least 0, or None (off, as is 0)"),
    ("optimizer.clip_norm", math.nan, "is nan; it is a number of at least 0"),
    ("optimizer.learning_rate", -1e-3, "is -0.001; it is a number above 0, finite and of at least 1e-12; nearest: 0.001"),
    ("optimizer.learning_rate", math.nan, "is nan"),
    ("optimizer.learning_rate", "fast", "is 'fast'; it is a number above 0"),
    ("optimizer.b1", 1.0, "is 1.0; it is a share in [0, 1); nearest: 0.999999"),
    ("optimizer.b2", 1.5, "it is a share in [0, 1)"),
    ("optimizer.b2", 1 - 1e-9, "it is a share in [0, 1)"),
    ("optimizer.b1", -0.1, "nearest: 0.9"),
    ("optimizer.eps", 0.0, "'optimizer.eps' is 0.0; it is a number from 1e-15 to 1; nearest: 1e-15"),
    ("optimizer.eps", 1e9, "nearest: 1.0"),
    ("optimizer.weight_decay", -0.1, "is -0.1; it is a number from 0 to 100; nearest: 0.0"),
    ("optimizer.warmup_steps", 600, "'optimizer.warmup_steps' is 600, which is not below key 'steps', 600; nearest: 599"),
    ("optimizer.warmup_steps", 50.0, "is 50.0; it is a whole number of at least 0; nearest: 50"),
    ("optimizer.end_scale", -1.0, "is -1.0; it is a share from 0 to 1; nearest: 0.0"),
    ("optimizer.no_decay", ("(",), "it is a list of patterns"),
    ("ema.decay", 1.0, "is 1.0; it is a share in [0, 1)"),
    ("ema.decay", 1 - 1e-9, "it is a share in [0, 1)"),
    ("ema.decay", -0.5, "nearest: 0.999"),
    ("ema.warmup", 1, "is 1; it is True or False; nearest: True"),
    ("ema", 0.99, "config key 'ema' is 0.99; it is a group of keys"),
    ("data.shift", "half", "config key 'data.shift' is 'half'; it is a number of pixels from 0 to 8"),
    ("data.shift", 100.0, "nearest: 8.0"),
    ("data.noise", math.inf, "config key 'data.noise' is inf"),
    ("data.nois", 0.0, "data 'digits' takes no 'nois'; did you mean 'noise'?"),
    ("data.crop", "random", "data 'digits' takes no 'crop'"),
    ("loss.identity", True, "loss takes no 'identity'"),
    ("ema.decya", 0.5, "ema takes no 'decya'; did you mean 'decay'?"),
    ("model.vision.layer", 3, "model.vision takes no 'layer'; did you mean 'layers'?"),
    ("optimizer.momentum", 0.9, "optimizer 'adamw' takes no 'momentum'"),
    ("model.vision.layers", 3.0, "config key 'model.vision.layers' is 3.0; it is a whole number of at least 1; nearest: 3"),
    ("model.vision.layers", 0, "nearest: 1"),
    ("model.vision.layers", [3], "is [3]; it is a whole number of at least 1; nearest: 3"),
    ("model.text.width", "64", "is '64'; it is a whole number of at least 1; nearest: 64"),
    ("model.text.heads", None, "is None; it is a whole number"),
    ("model.embed", 0, "config key 'model.embed' is 0; it is a whole number of at least 1"),
    ("model.vision.width", 10**12, "nearest: 65536"),
    ("model.vision.mlp_ratio", 0.001, "config key 'model.vision.mlp_ratio' is 0.001: 64 times it is below 1; usual: 4.0"),
    ("model.vision.patch_dropout", 1.0, "it is a share in [0, 1)"),
    ("model.remat", "dots", "model.remat 'dots' is not known (known: checkpoint_dots"),
    ("model.preset", "ViT-B-31", "model.preset 'ViT-B-31' is not known"),
    ("model.text.vocabulary_size", 10, "model.text takes no 'vocabulary_size'"),
    ("batch_size", "64", "config key 'batch_size' is '64'; it is a whole number of at least 1; nearest: 64"),
    ("batch_size", True, "config key 'batch_size' is True"),
    ("steps", 2**40, "nearest: 2147483647"),
    ("workdir", 3, "config key 'workdir' is 3; it is the path of a folder to write, as text"),
    ("locked", "^visual/", "it is a list of patterns of parameters' paths"),
    ("mesh.data", 0, "each size is at least 1"),
    ("weights.pth", "x", "weights takes no 'pth'; did you mean 'path'?"),
    ("d sampler.num_stepz", 3, "sampler takes no 'num_stepz'; did you mean 'num_steps'?"),
    ("d condition.drop", 1.0, "config key 'condition.drop' is 1.0; it is a share in [0, 1)"),
    ("d condition.name", "none", "no 'drop' (it takes name); where that is left of another name, --config.condition={} before"),
    ("d condition", ConfigDict({"name": "embedding"}), "'condition.encoder' is missing: condition 'embedding' needs it (the"),
    ("d condition", ConfigDict({}), "'condition.name' is missing; a config of system 'diffusion' has one (one of"),
    ("d loss.uncertainty", "yes", "it is True or False"),
    ("d model.dropout_rate", 1.0, "config key 'model.dropout_rate' is 1.0; it is a share in [0, 1); nearest: 0.999999"),
    ("d model.mlp_ratio", 0.0, "config key 'model.mlp_ratio' is 0.0; it is a number above 0 and at most 64; nearest: 4.0"),
    ("d model.time_scale", 0.0, "'model.time_scale' is 0.0"),
    ("d schedule.beta_max", 12.0, "schedule 'cosine' takes no 'beta_max'"),
    ("d schedule", ConfigDict({"name": "shifted", "shift": 0.0, "base": "cosine"}), "'schedule.shift' is 0.0; it is"),
    ("d schedule", ConfigDict({"name": "shifted", "shift": 2.0, "base": "cosin"}), "schedule.base 'cosin' is not known"),
    ("d schedule", ConfigDict({"name": "shifted", "shift": 2.0, "base": {"name": "ve", "t_mim": 0.1}}), "takes no 't_mim'"),
    ("d schedule", ConfigDict({"name": "shifted", "shift": 2.0, "base": {"name": "ve", "t_min": -1}}), "base.t_min' is -1"),
    ("d schedule", ConfigDict({"name": "shifted", "shift": 2.0}), "'schedule.base' is missing: schedule 'shifted' needs it ("),
    ("d schedule.t_max", math.nan, "config key 'schedule.t_max' is nan; it is a time from 0 to 1"),
    ("d schedule.t_min", 1.0, "must satisfy 0 <= t_min < t_max <= 1"),
    ("d sigma_data", -1, "config key 'sigma_data' is -1.0; it is a standard deviation above 0; nearest: 0.5"),
    ("d sampler.guidance", "agp", "guidance 'agp' is not known; did you mean 'apg'?"),
    ("d sampler.guidance", "cfg_plus_plus", "guidance_scale of CFG++ 3 is not from 0 to 1; nearest: 1"),
    ("d sampler.guidance", ConfigDict({"name": "apg", "etta": 1.0}), "guidance 'apg' takes no 'etta'; did you mean 'eta'?"),
    ("d sampler.guidance", ConfigDict({"rescale": 1.5}), "config key 'sampler.guidance.rescale' is 1.5"),
    ("d sampler.guidance_scale", -2.0, "config key 'sampler.guidance_scale' is -2.0"),
    ("d loss.weight_options", ConfigDict({"gamma": 5.0}), "loss.weight 'simple' takes no 'gamma' (it takes nothing)"),
    ("d loss.weight_options", 3, "config key 'loss.weight_options' is 3; it is a group of keys"),
    ("d data.name", "folder", "data 'folder' takes no 'shift' (it takes crop"),
    ("d data.noise", 0.4, "data 'digits' takes no 'noise'"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "said"), WRONG, ids=[f"{row[0]}={row[1]!r:.20}" for row in WRONG])
def test_what_does_not_train_is_one_line(key, value, said):
    name, dotted = ("digits_diffusion", key[2:]) if key.startswith("d ") else ("digits_clip", key)
    config = load_config(str(ROOT / "configs" / f"{name}.py"))
    *inner, last = dotted.split(".")
    node = config
    for group in inner:
        with node.unlocked():
            node[group] = node.get(group) or ConfigDict()
        node = node[group]
    with node.unlocked(), node.ignore_type():
        node[last] = value
    with pytest.raises(UserError) as error:
        validate(config)
    assert said in str(error.value) and "\n" not in str(error.value), str(error.value)


@pytest.mark.parametrize("value", [None, 0, 0.0, 1])
def test_what_means_off_is_taken(value):
    config = load_config(str(ROOT / "configs" / "digits_clip.py"))
    with config.optimizer.ignore_type():
        config.optimizer.clip_norm = value
    config.optimizer.weight_decay = config.data.shift = config.data.noise = 0.0
    config.tokenizer = config.weights = None
    validate(config)
