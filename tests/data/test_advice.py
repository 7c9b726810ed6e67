"""What the messages about one's own pictures advise exists: the keys in a config of such pictures, the options in a command."""

import re
from pathlib import Path

import pytest

import diffusion_jax
from diffusion_jax.cli import parser
from diffusion_jax.config import load_config
from diffusion_jax.data.sources.caption_folder import CaptionFolder
from diffusion_jax.data.sources.captioned import setting
from diffusion_jax.data.sources.tar_shards import TarShards
from diffusion_jax.systems.table import keys

ROOT = Path(diffusion_jax.__file__).parent
CONFIGS = ROOT.parent / "configs"
SPEAKERS = [*sorted((ROOT / "data").rglob("*.py")), *sorted((ROOT / "systems" / "clip").glob("*.py"))]
TEXT = "\n".join(path.read_text() for path in SPEAKERS)
SETTINGS = sorted(set(re.findall(r"""setting\(\s*["'](\w+)["']""", TEXT)))
TABLE = {"captions": "x.csv", "empty": "drop", "image_key": "jpg", "caption_key": "llm", "index": "x"}


def options(command):
    """The option strings of a command."""
    (commands,) = (action for action in parser()._actions if action.dest == "command")
    return set(commands.choices[command]._option_string_actions)


def test_every_setting_that_a_message_names_is_one():
    assert {"captions", "caption_key", "image_key", "index"} <= set(SETTINGS)
    folder, tar = (load_config(str(CONFIGS / f"{name}.py")) for name in ("clip_folder", "clip_b16"))
    advised = {*SETTINGS, *re.findall(r"--config\.data\.(\w+)=", TEXT)} - {"path"}
    for name in advised | {"image_column", "caption_column"}:
        known = [made for made, config in ((CaptionFolder, folder), (TarShards, tar)) if f"data.{name}" in keys(config)]
        assert known, name
        assert name == "on_error" or any(name in made.__dataclass_fields__ for made in known), name
        said = setting(name, "NAME")
        for command in ("evaluate", "vocabulary") if "evaluate" in said else ():
            assert re.search(r"(--[\w-]+)=NAME\)", said)[1] in options(command)
    for option in set(re.findall(r"evaluate: (--[\w-]+)=", TEXT)) | {"--on-error", "--exif"}:
        assert option in options("evaluate"), option


@pytest.mark.parametrize(("name", "value"), TABLE.items())
def test_an_advised_key_is_taken_by_a_config(name, value):
    file = "clip_b16" if name in ("image_key", "caption_key", "index") else "clip_folder"
    config = load_config(str(CONFIGS / f"{file}.py"), {f"data.{name}": value}, keys)
    assert config.data[name] == value
    assert load_config(str(CONFIGS / "clip_folder.py"), {"preprocess.exif": "False"}, keys).preprocess.exif is False
