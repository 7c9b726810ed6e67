"""Config files as people write them: what goes wrong in one is one line, and what the system knows may be set."""

from pathlib import Path

import pytest

from diffusion_jax.config import flatten, load_config, not_found, project_of
from diffusion_jax.systems.clip.network import beside_preset, clip_sizes
from diffusion_jax.systems.table import keys
from diffusion_jax.training import validate
from diffusion_jax.typing import UserError

ROOT = Path(__file__).parent.parent
CONFIGS = {name: str(ROOT / "configs" / f"{name}.py") for name in ("digits_clip", "digits_diffusion", "clip_folder")}
GOOD = "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'a': 1, 'b': {'c': 2}})\n"


def one_line(make, *said):
    with pytest.raises(UserError) as error:
        make()
    assert "\n" not in str(error.value)
    for word in said:
        assert word in str(error.value), str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def get_config():\n    return 3", ["returns 3", "ml_collections.ConfigDict"]),
        ("def get_config():\n    return None", ["returns None"]),
        ("def get_config():\n    return 1 / 0", ["line 2", "ZeroDivisionError: division by zero"]),
        ("def get_config(size):\n    return 1", ["TypeError", "size"]),
        ("import sys\nsys.exit(3)", ["line 2", "SystemExit: 3"]),
        ("def get_config():\n    raise SystemExit", ["SystemExit"]),
        ("def get_config():\n    raise ValueError('a\\nb')", ["ValueError: a b"]),
        ("def get_config():\n    return get_config()", ["RecursionError"]),
        ("x = (", ["SyntaxError"]),
        ("import nowhere_at_all", ["ModuleNotFoundError"]),
        ("get_config = 3", ["defines no get_config()"]),
        ("", ["defines no get_config()"]),
        (b"\xff\xfe not UTF-8", ["cannot be read"]),
        (b"x = 1\0", ["cannot be read"]),
        (
            "from ml_collections import config_dict\ndef get_config():\n"
            "    return config_dict.ConfigDict({'a': config_dict.required_placeholder(int)})",
            ["RequiredValueError"],
        ),
        (
            "from ml_collections import ConfigDict\ndef get_config():\n    c = ConfigDict({'a': 1})\n    return c.b",
            ["line 4", "AttributeError"],
        ),
    ],
    ids=lambda value: str(value)[:30] if not isinstance(value, list) else "",
)
def test_a_file_that_goes_wrong_is_one_line(tmp_path, text, said):
    file = tmp_path / "mine.py"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    one_line(lambda: load_config(str(file), {}, keys), repr(str(file)), *said)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("{}", "is a folder; name a file in it: "),
        ("{}/other.txt", "is not a Python file"),
        ("{}/good.pi", "does not exist; did you mean"),
        ("{}/good.py:", None),
        ("{}/good.py:fast", "variant of"),
        ("{}/bad.py:fast", "VARIANTS of"),
        ("{}/half.py:fast", "variant 'fast' of"),
        ("{}/half.py:slow", "variant 'slow' of"),
        ("{}/half.py:wide", "config key 'b' is a group"),
        ("{}/" + "x" * 5000, "is no path"),
        ("{}/\0.py", "does not exist"),
        ("{}/a:b.py", None),
    ],
    ids=lambda value: None if value is None else value[:24],
)
def test_a_file_or_variant_that_is_not_there_is_one_line(tmp_path, spec, said):
    for name in ("good.py", "a:b.py"):
        (tmp_path / name).write_text(GOOD)
    (tmp_path / "other.txt").write_text(GOOD)
    (tmp_path / "bad.py").write_text(f"{GOOD}VARIANTS = 3\n")
    (tmp_path / "half.py").write_text(
        f"{GOOD}VARIANTS = {{'fast': 3, 'slow': {{'b.d': 1}}, 'wide': {{'b': 1}}, 'new': {{'b': {{'x': 1}}}}}}\n"
    )
    if said is None:
        assert flatten(load_config(spec.format(tmp_path))) == {"a": 1, "b.c": 2}
    else:
        one_line(lambda: load_config(spec.format(tmp_path)), said)
    assert flatten(load_config(f"{tmp_path}/half.py:new")) == {"a": 1, "b.x": 1}


@pytest.mark.parametrize(
    ("name", "overrides", "found"),
    [
        ("digits_diffusion", {"schedule.beta_max": "12", "schedule.name": "vp_linear"}, {"schedule.beta_max": 12.0}),
        ("digits_diffusion", {"sampler.guidance": "apg"}, {"sampler.guidance": "apg"}),
        (
            "digits_diffusion",
            {"sampler.guidance.eta": "0.2", "sampler.guidance": "apg", "sampler.guidance.interval": "(0.3, 5)"},
            {"sampler.guidance.name": "apg", "sampler.guidance.eta": 0.2, "sampler.guidance.interval": (0.3, 5)},
        ),
        ("digits_diffusion", {"sampler.guidance.rescale": "1"}, {"sampler.guidance.rescale": 1.0}),
        (
            "digits_diffusion",
            {"loss.weight_options.gamma": "3", "loss.weight": "min_snr"},
            {"loss.weight_options.gamma": 3.0},
        ),
        ("digits_diffusion", {"loss.times": "mode", "loss.times_options.scale": "-1"}, {"loss.times_options.scale": -1.0}),
        ("digits_diffusion", {"model.remat": "dots_saveable", "model.time_scale": "2"}, {"model.time_scale": 2.0}),
        ("digits_diffusion", {"loss.uncertainty": "true"}, {"loss.uncertainty": True}),
        ("digits_diffusion:edm", {"schedule.sigma_max": "10"}, {"schedule.sigma_max": 10.0}),
        ("digits_clip", {"optimizer.end_scale": "0.1"}, {"optimizer.end_scale": 0.1}),
        ("digits_clip", {"optimizer.clip_norm": "none"}, {"optimizer.clip_norm": None}),
        ("digits_clip", {"optimizer.no_decay": "['bias']"}, {"optimizer.no_decay": ("bias",)}),
        ("digits_clip", {"ema.warmup": "false"}, {"ema.warmup": False}),
        ("digits_clip", {"weights.path": "somewhere"}, {"weights.path": "somewhere"}),
        ("digits_clip", {"tokenizer.path": "words", "tokenizer.name": "bpe"}, {"tokenizer.path": "words"}),
        ("digits_clip", {"loss.chunk": "8", "loss.name": "infonce"}, {"loss.chunk": 8}),
        ("digits_clip", {"locked": "['^visual/']"}, {"locked": ("^visual/",)}),
        ("clip_folder", {"preprocess.exif": "False", "data.captions": "12"}, {"preprocess.exif": False, "data.captions": "12"}),
        ("clip_folder", {"model.vision.patch_dropout": "0.5"}, {"model.vision.patch_dropout": 0.5}),
        ("clip_folder", {"zero_shot.classes": "names.json"}, {"zero_shot.classes": "names.json"}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)  # fmt: skip
def test_what_a_constructor_takes_may_be_set(name, overrides, found):
    file, colon, variant = name.partition(":")
    config = load_config(CONFIGS[file] + colon + variant, {"batch_size": "64", **overrides}, keys)
    flat = flatten(config)
    for key, value in found.items():
        assert flat[key] == value and type(flat[key]) is type(value)
    validate(config)


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        ("digits_diffusion", {"schedule.beta_max": "12"}, "'schedule.beta_max' does not exist"),
        ("digits_diffusion", {"sampler.guidanse": "apg"}, "did you mean 'sampler.guidance'?"),
        ("digits_diffusion", {"loss.weight_options.gamma": "3"}, "'loss.weight_options.gamma' does not exist"),
        ("digits_diffusion", {"loss.weight": "min_snr", "loss.weight_options.gama": "3"}, "mean 'loss.weight_options.gamma'?"),
        ("digits_clip", {"optimizer.end_scal": "1"}, "did you mean 'optimizer.end_scale'?"),
        ("digits_clip", {"weights": "x"}, "'weights' is a group; set one of weights.model, weights.path"),
        ("digits_clip", {"preprocess.exif": "True"}, "'preprocess.exif' does not exist"),  # the digits take none
        ("digits_clip", {"steps": "9" * 400}, "9" * 10),
        ("digits_diffusion", {"data.name": "folder", "data.path": "x"}, "data 'folder' takes no 'shift' (it takes crop"),
        ("digits_diffusion", {"preprocess": "{}"}, "the data 'digits' are arrays, taken as they are"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value[:9],
)  # fmt: skip
def test_what_nothing_takes_may_not_be_set(name, overrides, said):
    one_line(lambda: validate(load_config(CONFIGS[name], overrides, keys)), said)


def test_relative_paths_are_found_from_the_config_s_project(tmp_path, monkeypatch):
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    for folder in (project / "configs", project / "pictures", project / "shards", elsewhere / "words"):
        folder.mkdir(parents=True)
    (project / "words").write_text("")
    (project / "shards" / "00.tar").write_text("")
    file = project / "configs" / "mine.py"
    file.write_text(Path(CONFIGS["clip_folder"]).read_text())
    assert project_of(file) == project and project_of(tmp_path / "lone" / "x.py") == tmp_path / "lone"
    monkeypatch.chdir(elsewhere)
    config = load_config(str(file), {"tokenizer.path": "words", "zero_shot.path": "classes"}, keys)
    assert config.data.path == str(project / "pictures")
    assert config.tokenizer.path == "words"  # the working folder comes first
    assert config.zero_shot.path == "classes" and config.weights.path == ""
    assert config.workdir == "runs/clip_folder"  # where it is written is the user's
    looked = not_found(config, keys, str(file), "there is no folder 'classes'")
    assert str(elsewhere) in looked and str(project) in looked
    assert not_found(config, keys, str(file), "something else") == ""
    over = {"data.name": "tar", "data.path": "shards/{00..00}.tar"}
    file.write_text(file.read_text().replace('"image_column": None,', "").replace('"caption_column": None,', ""))
    assert load_config(str(file), over, keys).data.path == str(project / "shards" / "{00..00}.tar")
    monkeypatch.chdir(project)
    assert load_config(str(file), {}, keys).data.path == "pictures"


def test_an_emptied_group_leaves_the_preset_its_sizes():
    said = {"model.preset": "ViT-B-32"}
    mixed = load_config(CONFIGS["clip_folder"], said, keys)
    assert "model.vision.width 96 in place of 768" in beside_preset(mixed.model)
    emptied = {"model.vision": "{}", "model.text": "{}", "model.embed": "none"}
    whole = load_config(CONFIGS["clip_folder"], said | emptied, keys)
    validate(whole)
    assert beside_preset(whole.model) == "" and clip_sizes(whole.model)["vision"]["width"] == 768
