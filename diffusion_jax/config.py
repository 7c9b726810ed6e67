"""Configs: ml_collections files, overridden from the command line and checked before anything is built.

A config file defines `get_config(variant=None) -> ConfigDict` and may define `VARIANTS`, a dict of named overrides: an
ablation is `--config file.py:name`. Overrides are dotted: `--config.optimizer.learning_rate=3e-4`. A key that the
file does not have, or a value of another type, is a `UserError` that names it and the nearest valid one.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax.typing import UserError, one_of

__all__ = ["apply_overrides", "changes", "flatten", "load_config", "parse_overrides", "to_dict"]

PREFIX = "--config."


def load_config(spec: str, overrides: Mapping[str, str] | None = None) -> ConfigDict:
    """The config of `path.py` or `path.py:variant` with textual `overrides` (dotted key -> value) applied.

    Raises UserError for a missing file, an unknown variant or key, or a value of another type.
    """
    name, _, variant = spec.partition(":")
    path = Path(name)
    if not path.is_file():
        raise UserError(f"config file {name!r} does not exist{_nearest_file(path)}")
    loader = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    if loader is None or loader.loader is None:
        raise UserError(f"config file {name!r} is not a Python file")
    module = importlib.util.module_from_spec(loader)
    try:
        loader.loader.exec_module(module)
    except (SyntaxError, ImportError, NameError) as error:
        raise UserError(f"config file {name!r} cannot be read: {type(error).__name__}: {error}") from error
    if not hasattr(module, "get_config"):
        raise UserError(f"config file {name!r} defines no get_config()")
    config = module.get_config()
    if variant:
        variants = getattr(module, "VARIANTS", {})
        for key, value in variants[one_of(f"variant of {name}", variant, variants)].items():
            if isinstance(value, Mapping):  # a whole group in place of the file's
                _replace(config, key, value)
            else:
                _assign(config, key, value)
    return apply_overrides(config, overrides or {})


def parse_overrides(arguments: list[str]) -> dict[str, str]:
    """`--config.a.b=value` and `--config.a.b value` -> {"a.b": "value"}; anything else is a UserError."""
    found: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith(PREFIX):
            raise UserError(f"argument {argument!r} is not known; overrides are written {PREFIX}KEY=VALUE")
        key, equals, value = argument[len(PREFIX) :].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"override {argument!r} has no value; write {argument}=VALUE")
            value = rest.pop(0)
        found[key] = value
    return found


def apply_overrides(config: ConfigDict, overrides: Mapping[str, str]) -> ConfigDict:
    """`config` with each dotted key set to its text, read as the type that the key has now."""
    for key, text in overrides.items():
        _assign(config, key, _parse(key, text, _lookup(config, key)))
    return config


def flatten(config: Mapping[str, Any] | ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Dotted keys to plain values; lists become tuples."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = tuple(value) if isinstance(value, list) else value
    return flat


def to_dict(config: ConfigDict) -> dict[str, Any]:
    """A plain nested dict that JSON can hold."""
    return {key: to_dict(value) if isinstance(value, ConfigDict) else value for key, value in config.items()}


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two configs, a line each: `key: old -> new`; `(absent)` stands for a key that is not there."""
    a, b = flatten(old), flatten(new)
    absent = "(absent)"
    keys = sorted(key for key in a.keys() | b.keys() if a.get(key, absent) != b.get(key, absent))
    return [f"{key}: {a.get(key, absent)} -> {b.get(key, absent)}" for key in keys]


def _lookup(config: ConfigDict, key: str) -> Any:
    flat = flatten(config)
    if key in flat:
        return flat[key]
    if any(known.startswith(f"{key}.") for known in flat):
        inner = ", ".join(known for known in flat if known.startswith(f"{key}."))
        raise UserError(f"config key {key!r} is a group; set one of {inner}")
    near = difflib.get_close_matches(key, flat, n=1, cutoff=0.4)
    near = near or [known for known in flat if known.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]][:1]
    hint = f"; did you mean {near[0]!r}?" if near else f"; the keys are {', '.join(sorted(flat))}"
    raise UserError(f"config key {key!r} does not exist{hint}")


def _parse(key: str, text: str, current: Any) -> Any:
    """`text` as a value of the type of `current`; a None may become anything, an int may stand for a float."""
    if isinstance(current, str):
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):  # all that literal_eval may raise
        value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    if current is None or (value is None and not isinstance(current, bool | int | float)):
        return value
    if isinstance(current, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(current, tuple) and isinstance(value, list):
        return tuple(value)
    if type(value) is not type(current):
        wanted = type(current).__name__
        raise UserError(f"config key {key!r} takes a value of type {wanted}, like {current!r}; {text!r} is not one")
    return value


def _replace(config: ConfigDict, key: str, group: Mapping[str, Any]) -> None:
    *groups, last = key.split(".")
    node: Any = config
    for name in groups:
        node = node[name]
    if not isinstance(node.get(last), ConfigDict):
        raise UserError(f"config key {key!r} is no group; a variant cannot put one in its place")
    node[last] = ConfigDict(dict(group))


def _assign(config: ConfigDict, key: str, value: Any) -> None:
    _lookup(config, key)
    *groups, last = key.split(".")
    node = config
    for group in groups:
        node = node[group]
    with node.ignore_type():
        node[last] = value


def _nearest_file(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path("configs")
    names = [str(p) for p in sorted(folder.glob("*.py"))] if folder.is_dir() else []
    near = difflib.get_close_matches(str(path), names, n=1, cutoff=0.3)
    return f"; did you mean {near[0]!r}?" if near else ""
