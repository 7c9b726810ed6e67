"""Config files: overrides, variants, and errors that name the nearest valid thing."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from diffusion_jax import build, process
from diffusion_jax.config import apply_overrides, changes, flatten, load_config, parse_overrides, to_dict
from diffusion_jax.process import from_x0
from diffusion_jax.sampling import Heun, sample
from diffusion_jax.sampling.natural import doubt, spread_kept
from diffusion_jax.training import validate
from diffusion_jax.typing import UserError

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "configs").glob("*.py"))


def config():
    return ConfigDict(
        {"steps": 10, "rate": 0.5, "on": True, "name": "a", "sizes": (1, 2), "none": None, "in": {"x": 1}}
    )


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("steps", "500", 500),
        ("rate", "1", 1.0),
        ("rate", "3e-4", 3e-4),
        ("on", "false", False),
        ("on", "True", True),
        ("name", "12", "12"),
        ("sizes", "(3, 4, 5)", (3, 4, 5)),
        ("sizes", "[3]", (3,)),
        ("none", "7", 7),
        ("none", "word", "word"),
        ("in.x", "2", 2),
    ],
)
def test_an_override_is_read_as_the_type_of_its_key(key, text, value):
    found = flatten(apply_overrides(config(), {key: text}))[key]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("stesp", "1", "'stesp' does not exist; did you mean 'steps'"),
        ("x", "1", "did you mean 'in.x'"),
        ("in.q", "1", "'in.q' does not exist; the keys are in.x"),
        ("zebra.q", "1", "'zebra.q' does not exist, nor a group 'zebra'; the groups are in"),
        ("in", "1", "is a group; set one of in.x"),
        ("steps", "1.5", "'steps' takes a value of type int, like 10; '1.5' is not one"),
        ("steps", "true", "type int"),
        ("rate", "fast", "type float"),
        ("on", "1", "type bool"),
        ("sizes", "3", "type tuple"),
    ],
)
def test_a_wrong_override_is_one_line(key, text, message):
    with pytest.raises(UserError, match=message) as error:
        apply_overrides(config(), {key: text})
    assert "\n" not in str(error.value)


def test_overrides_are_parsed_in_both_forms():
    assert parse_overrides(["--config.a=1", "--config.b.c", "x=y", "--config.d="]) == {"a": "1", "b.c": "x=y", "d": ""}
    for arguments, message in [(["--a=1"], "'--a=1' is not known"), (["--config.a", "--config.b=1"], "no value")]:
        with pytest.raises(UserError, match=message):
            parse_overrides(arguments)


def test_changes_name_both_values():
    old, new = {"a": 1, "b": {"c": (1, 2)}, "gone": 0}, {"a": 2, "b": {"c": [1, 2]}, "new": "x"}
    assert changes(old, new) == ["a: 1 -> 2", "gone: 0 -> (absent)", "new: (absent) -> x"]


def heun_keeps(ts, schedule, std):
    """What `spread_kept` is of DDIM: an affine solver's gain from the noise to the samples, over the data's spread."""
    model = from_x0(lambda x, t, cond: x * std**2 / (std**2 + jnp.exp(-schedule.logsnr(t))), schedule)
    noise = schedule.sigma(jnp.float32(ts[0])) * jnp.array([[0.0], [1.0]])
    made = sample(model, schedule, Heun(), noise, ts, jax.random.key(0))
    return float((made[1] - made[0])[0]) / std


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_config_and_variant_is_valid_and_survives_json(path):
    import importlib.util

    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for variant in ("", *(f":{name}" for name in module.VARIANTS)):
        loaded = load_config(f"{path}{variant}", {"batch_size": "64"})
        validate(loaded)
        again = json.loads(json.dumps(to_dict(loaded)))
        assert changes(to_dict(loaded), again) == []
        build.optimizer(loaded.optimizer, loaded.steps)
        build.ema(loaded.ema)
        if loaded.system == "diffusion":
            schedule = build.schedule(loaded.schedule)
            ts = build.grid(loaded.sampler.grid, loaded.sampler.num_steps, schedule)
            assert doubt(ts, schedule, loaded.sigma_data) is None
            kept = heun_keeps if loaded.sampler.solver == "heun" else spread_kept
            assert kept(ts, schedule, loaded.sigma_data) > 0.85
            build.solver(loaded.sampler.solver)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build.schedule({"name": "cosin"}), "did you mean 'cosine'"),
        (lambda: build.schedule({"name": "shifted", "base": "cosin", "shift": 2.0}), "did you mean 'cosine'"),
        (
            lambda: build.schedule({"name": "shifted", "base": 3, "shift": 2.0}),
            "'schedule.base' is 3; it is the name of a",
        ),
        (lambda: build.schedule({"name": "shifted", "base": {}, "shift": 2.0}), "or a group with a name"),
        (lambda: build.schedule({"name": "shifted", "base": "cosine"}), "is without 'shift'"),
        (lambda: build.schedule({"name": "shifted", "base": "sub_vp", "shift": 2.0}), "SubVP cannot be shifted"),
        (lambda: build.schedule({"name": "cosine", "tmax": 0.5}), "takes no 'tmax'; did you mean 't_max'"),
        (lambda: build.solver("ddim", etta=1.0), "takes no 'etta'; did you mean 'eta'"),
        (lambda: build.grid("logsrn", 3, build.schedule({"name": "cosine"})), "did you mean 'logsnr'"),
        (lambda: build.source({"name": "digits"}, "tset"), "did you mean 'test'"),
        (lambda: build.compute_dtype("float8"), "'float8'"),
    ],
)
def test_the_tables_name_the_nearest(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_files_that_are_not_configs_are_one_line(tmp_path):
    for text, message in [
        ("x = (", "cannot be read: SyntaxError"),
        ("import nowhere_at_all", "ModuleNotFound"),
        ("", "no get_config"),
    ]:
        (tmp_path / "c.py").write_text(text)
        with pytest.raises(UserError, match=message):
            load_config(str(tmp_path / "c.py"))


@pytest.mark.parametrize("base", ["ve", {"name": "ve", "sigma_max": 40.0}], ids=["name", "group"])
def test_a_schedule_is_shifted_by_name_or_group(base):
    spec = {"name": "shifted", "base": base, "shift": 2.0}
    wanted = process.Shifted(process.VE(**({} if base == "ve" else {"sigma_max": 40.0})), 2.0)
    assert build.schedule(spec) == build.schedule(ConfigDict(spec)) == wanted
