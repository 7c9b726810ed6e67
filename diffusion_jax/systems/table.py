"""The one table of systems, what a config of one may hold, and the runs that they load."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax import runs
from diffusion_jax.build.key_ranges import RANGES, range_of
from diffusion_jax.build.keys import COMMON, REQUIRED, Group, Key, common_groups
from diffusion_jax.build.own import fits, is_own, own
from diffusion_jax.build.ranges import Range, declared, named
from diffusion_jax.systems.system import Published, System
from diffusion_jax.typing import UserError, one_of, path_of

__all__ = [
    "PUBLISHED",
    "SYSTEMS",
    "config_at",
    "groups",
    "keys",
    "load_pretrained",
    "load_run",
    "ranges_of",
    "system_at",
    "system_named",
    "system_of",
    "with_data",
]

SYSTEMS: dict[str, str] = {
    "diffusion": "diffusion_jax.systems.diffusion.system:DIFFUSION",
    "clip": "diffusion_jax.systems.clip.system:CLIP",
    "vae": "diffusion_jax.systems.vae.system:VAE",
    "fine_tune": "diffusion_jax.pipelines.fine_tuning.system:FINE_TUNE",
}
"""Each by its name, imported when it is asked for. A folder that holds runs of several stands for the first of them."""

PUBLISHED: dict[str, str] = {"an autoencoder": "diffusion_jax.systems.vae.pretrained:AUTOENCODERS"}
"""Published weights that are no run of a system, by what they are. They are asked before the systems, which claim all else."""

KEY_AND_GROUP = ("sampler.guidance", "schedule.base", "condition.parts")
"""What may be a name alone, or a group with a name and its options; and what is a group of members called as one likes."""


def system_named(name: Any) -> System:
    """The system of a name, or of one's own. UserError where there is none."""
    found = own("system", name if is_own(name) else SYSTEMS[one_of("system", name, SYSTEMS)])
    if not isinstance(found, System):
        raise UserError(f"system {name!r} is a {type(found).__name__}, not a diffusion_jax.systems.system.System")
    return found


def system_of(config: ConfigDict) -> System:
    """The system that a config's `system` picks. UserError where it picks none."""
    named("system", SYSTEMS).check("system", config.get("system"))
    return system_named(config.system)


def _candidates(config: ConfigDict) -> list[System]:
    """The system of a config, or all of the table for one that is wrong."""
    name = config.get("system")
    return [system_named(each) for each in ((name,) if fits(name, SYSTEMS) else SYSTEMS)]


def ranges_of(config: ConfigDict) -> dict[str, Range]:
    """The rows of every key that a config of its system may have, by `build.key_ranges.row_of`."""
    found = dict(RANGES)
    for system in _candidates(config):
        found |= system.ranges
    return found


def groups(config: ConfigDict) -> dict[str, Group]:
    """Every group that this config may have, by its dotted name."""
    found = common_groups(config)
    for system in _candidates(config):
        found |= system.groups(config)
    return found


def keys(config: ConfigDict) -> dict[str, Key]:
    """Every dotted key that this config may have, with what it may be and what it is when nothing is said.

    A key of a file that is not among them is read by nothing and refused; one that the file lacks but that is among them may be
    set from the command line.
    """
    rows, inside = ranges_of(config), groups(config)
    theirs: dict[str, Any] = {key: value for system in _candidates(config) for key, value in system.keys.items()}
    found = {"system": Key(named("system", SYSTEMS), REQUIRED)}
    for key, default in (dict.fromkeys(COMMON, REQUIRED) | {"locked": ()} | theirs).items():
        found[key] = Key(_range(rows, "", None, key, default, config), default)
    for group, known in inside.items():
        for key, default in known.defaults.items():
            dotted = f"{group}.{key}"
            if dotted not in inside or dotted in KEY_AND_GROUP:
                what = known.ranges.get(key) or _range(rows, group, known.name, key, default, config)
                found[dotted] = Key(what, default)
    return found


def _range(rows: dict[str, Range], group: str, name: str | None, key: str, default: Any, config: ConfigDict) -> Range:
    """The row of a key; where a system of one's own has none for it, what the type of its default says."""
    try:
        return range_of(rows, group, name, key)
    except KeyError:
        if not is_own(config.get("system")):
            raise
        return declared(type(default))


def system_at(path: str | Path) -> tuple[System, Path]:
    """(the system, the folder) of the run at `path`, which is its folder or one that holds it under its system's name."""
    path = runs.run_folder(path)
    for folder in (path, *(path / name for name in SYSTEMS)):
        if runs.is_run(folder):
            runs.remember_parts(folder, warn=False)  # the system may be one of them
            return system_of(runs.read_run(folder)[0]), folder
    raise UserError(f"there is no run in {runs.place(path)}{runs.nearest(path)}")


def config_at(path: str | Path, data: str | Path | None = None) -> ConfigDict:
    """The config of the run at `path`, as of today, with its data at `data`, as in `load_run`. UserError as `system_at`."""
    system, folder = system_at(path)
    return with_data(system.upgrade(*runs.read_run(folder)), data)


def load_run(path: str | Path, *, which: str = "ema", step: int | None = None, data: str | Path | None = None) -> Any:
    """The run in the folder `path`, or of a folder that holds runs (`runs/digits` with `clip` and `diffusion`) the main one.

    `which` weights: "ema" (averaged) or "params" (raw); `step` None is the last checkpoint. `data`: where the data lie that it
    was trained on, if no longer where its config's `data.path` says. What it gives is its system's:
    a `ClipRun`, a `DiffusionRun`. Raises UserError where there is no run or it cannot be read, and for `data` of a run whose
    data are no files.
    """
    system, folder = system_at(path)
    runs.remember_parts(folder)
    return system.load(folder, with_data(system.upgrade(*runs.read_run(folder)), data), which, step)


def with_data(config: ConfigDict, data: str | Path | None) -> ConfigDict:
    """The config with another `data.path`, None for its own."""
    if data is not None:
        own = config.get("data") or {}
        if "path" not in own:
            raise UserError(
                f"--data {str(data)!r}: the run's data {own.get('name')!r} have no `data.path`, and lie in no folder or file"
            )
        config.data.path = str(data)
    return config


def load_pretrained(path: str | Path, **options: Any) -> Any:
    """Published weights in a folder or file: a CLIP or SigLIP as a `ClipRun`, a U-Net, DiT or prior as `Pretrained`, an
    autoencoder as `Autoencoder`.

    `options` are those of `systems.clip.pretrained.load_pretrained`, of `systems.diffusion.pretrained.load_network` and of
    `systems.vae.pretrained.load_vae_network`. Raises UserError for what is not read here, and for an option of another kind of
    weights.
    """
    path = path_of("path", path)
    for name, published in _published():
        if published.claims(path, options.get("model")):
            try:
                inspect.signature(published.load).bind(path, **options)
            except TypeError as error:
                raise UserError(f"{str(path)!r} holds weights of {name}: load_pretrained {error}") from error
            return published.load(path, **options)
    raise UserError(f"{str(path)!r} holds no weights that are read here")


def _published() -> Iterator[tuple[str, Published]]:
    """Every kind of published weights by its name, in the order in which they are asked."""
    for name, place in PUBLISHED.items():
        yield name, own("published weights", place)
    for name in SYSTEMS:
        system = system_named(name)
        if system.published is not None:
            yield name, Published(system.published, system.publishes)
