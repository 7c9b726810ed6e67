"""`diffusion-jax config check`: all of a run but its steps, and what they will cost.

The system's task is built in a temporary place, so that its data are read and its parts go together or do not; the parameters
and the optimizer's state are shapes alone, so that a model larger than this machine can be asked about on it.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax.cli.notices import say
from diffusion_jax.config import load_config, not_found, parse_overrides, variants_of
from diffusion_jax.files import check_file
from diffusion_jax.parallel.accelerator import configure
from diffusion_jax.parallel.memory import enough_memory
from diffusion_jax.parallel.rules import split_over_mesh
from diffusion_jax.report.pictures import save_grid
from diffusion_jax.systems.table import keys, system_of
from diffusion_jax.train.flops import flops
from diffusion_jax.train.loop import jitted_step
from diffusion_jax.train.state import TrainState, state_shardings
from diffusion_jax.train.step import make_train_step
from diffusion_jax.training import Built, build_run, validate
from diffusion_jax.typing import Batch, PyTree, UserError

__all__ = ["check"]

MOST_PICTURES, COLUMNS = 64, 8
SIDE = 96
"""Small pictures are enlarged to about so many pixels."""
PRINTED = 8


def check(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Builds the config of `arguments.file`, prints what it comes to and writes its first batch. UserError where it cannot."""
    config = load_config(arguments.file, parse_overrides(rest), keys)
    file, variant, _ = variants_of(arguments.file)
    out = Path(arguments.out or "_".join(filter(None, (file.stem, variant, "batch.png"))))
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {arguments.out!r} is not a .png file; did you mean {out.with_suffix('.png').name!r}?")
    if check_file(out).exists() and not arguments.overwrite:
        raise UserError(f"{out} exists; choose another --out, or --overwrite to replace it")
    configure(say)
    with tempfile.TemporaryDirectory(prefix="diffusion_jax_check_") as place:
        try:
            with enough_memory(system_of(config).lighter(config)):
                say("reading the data and building")
                validate(config)
                built = build_run(config, Path(place) / "run")
                _tell(built, config, arguments.compile)
                _picture(built, out)
        except UserError as error:
            raise UserError(f"{error}{not_found(config, keys, arguments.file, str(error))}") from error
    return 0


def _tell(built: Built, config: ConfigDict, compiled: bool) -> None:
    """Prints what a run costs."""
    state, task = built.shapes(), built.task
    batch = built.rehearse(state)
    _line("system", config.system)
    _line("examples", task.counts or "the system does not say how many")
    parts = {name: _count(tree) for name, tree in state.params.items()}
    several = f": {', '.join(f'{name} {count:,}' for name, count in parts.items())}" if len(parts) > 1 else ""
    _line("parameters", f"{sum(parts.values()):,}{several}")
    _line("state", _bytes(state, built))
    _line("batch", f"{config.batch_size} examples: {', '.join(_shapes(batch))}")
    say("counting operations")
    step = make_train_step(built.loss_fn, built.tx, built.ema)
    counted = flops(step, state, batch, built.key)
    _line("a training image", f"{_si(counted / config.batch_size)}FLOP: forward, backward and what is frozen")
    if task.drawing is not None:
        steps, draw = task.drawing
        drawn = flops(draw, state.params)
        _line("a sampling step", f"{_si(drawn / steps)}FLOP an image, {_si(drawn)}FLOP in all {steps}, with guidance")
    _line("", "(of matrix products and convolutions, counted in the traced program; --compile: also XLA's count)")
    _line("all steps", f"{_si(float(counted) * config.steps)}FLOP: {config.steps:,} of {_si(counted)}FLOP")
    if compiled:
        _compiled(built, config, state, batch)


def _compiled(built: Built, config: ConfigDict, state: TrainState, batch: PyTree) -> None:
    """Compiles the step as training would, and prints what XLA says of it."""
    say("compiling the step")
    layout = state_shardings(state, split_over_mesh(state.params, built.mesh), built.mesh)
    step: Any = jitted_step(built.loss_fn, built.tx, built.ema, layout, built.mesh)
    live = dataclasses.replace(state, frozen=None)
    made = step.lower(live, state.frozen, batch, built.key).compile()
    said = made.cost_analysis()
    found = (said[0] if isinstance(said, list) else said or {}).get("flops", math.nan)
    each = f"{_si(found * built.mesh.size / config.batch_size)}FLOP a training image" if found > 0 else "no count"
    _line("compiled", f"{each} (XLA's, all operations, a loop's body once)")
    memory = made.memory_analysis()
    if memory is not None:
        whole = memory.temp_size_in_bytes + memory.argument_size_in_bytes
        _line("", f"{_size(memory.temp_size_in_bytes)} beside state and batch on a device, {_size(whole)} in all")


def _picture(built: Built, out: Path) -> None:
    """Writes the pictures of the first batch, and prints what they are called."""
    batch = built.task.batches(0)
    words = list(built.task.words(0, batch))
    images = _pictures(batch)
    shown = 0 if images is None else min(MOST_PICTURES, len(images))
    if images is None:
        _line("first batch", "no pictures of 1 or 3 channels in it: no PNG is written")
    else:
        note = {"words": "\n".join(words[:shown]), "rows": f"the first {shown} of {len(images)}, by rows"}
        scale = max(1, SIDE // max(images.shape[1:3]))
        # As the network has it: -1 is black. Whether more is ink, of one channel, no data say.
        save_grid(out, _unit(images[:shown]), COLUMNS, scale, {k: v for k, v in note.items() if v}, ink=False)
        _line(
            "first batch", f"{out}: {shown} of {len(images)} pictures, {COLUMNS} in a row, -1 as black and 1 as white"
        )
    for row, text in enumerate(words[:PRINTED]):
        _line("" if row else "in words", f"{row}: {text[:100] or '(nothing)'}")
    if len(words) > PRINTED:
        kept = "; those of the picture stand in its metadata, as 'words'" if shown else ""
        _line("", f"and {len(words) - PRINTED} more{kept}")


def _pictures(batch: Batch) -> np.ndarray | None:
    """The pictures of a batch: its "image", or else the first array that is of pictures."""
    leaves = [batch["image"]] if "image" in batch else jax.tree.leaves(batch)
    return next((np.asarray(leaf) for leaf in leaves if np.ndim(leaf) == 4 and np.shape(leaf)[-1] in (1, 3)), None)


def _unit(images: np.ndarray) -> np.ndarray:
    return images / np.float32(127.5) - 1 if images.dtype == np.uint8 else images.astype(np.float32)


def _bytes(state: TrainState, built: Built) -> str:
    """The size of the state, by its parts and on a device."""
    parts = {
        "parameters": state.params,
        "optimizer": state.opt_state,
        "average": state.ema,
        "the loss's own": state.aux,
        "frozen": state.frozen,
    }
    sizes = {name: sum(map(_leaf_bytes, jax.tree.leaves(tree))) for name, tree in parts.items()}
    told = ", ".join(f"{name} {_size(size)}" for name, size in sizes.items() if size)
    mesh = built.mesh
    layout = state_shardings(state, split_over_mesh(state.params, mesh), mesh)
    each = sum(
        _leaf_bytes(leaf, where.shard_shape(leaf.shape))
        for leaf, where in zip(jax.tree.leaves(state), jax.tree.leaves(layout), strict=True)
    )
    axes = ", ".join(f"{name}={size}" for name, size in mesh.shape.items())
    place = f"{_size(each)} on each of {mesh.size} devices ({axes})" if mesh.size > 1 else "on one device"
    return f"{_size(sum(sizes.values()))} ({told}), {place}"


def _leaf_bytes(leaf: Any, shape: Sequence[int] | None = None) -> int:
    return math.prod(leaf.shape if shape is None else shape) * leaf.dtype.itemsize


def _shapes(batch: PyTree) -> Iterable[str]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        name = "/".join(str(getattr(key, "key", key)) for key in path)
        yield f"{name} {leaf.dtype} [{', '.join(map(str, leaf.shape))}]"


def _count(tree: PyTree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _size(count: int) -> str:
    """Bytes, in powers of 1024."""
    return _scaled(count, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))


def _si(count: int | float) -> str:
    """A number before its unit, in powers of 1000."""
    return _scaled(count, 1000, ("", "k", "M", "G", "T", "P", "E", "Z", "Y"))


def _scaled(count: int | float, base: int, units: Sequence[str]) -> str:
    power = 0
    while count >= base and power < len(units) - 1:
        count, power = count / base, power + 1
    return f"{count:.4g} {units[power]}"


def _line(name: str, text: str) -> None:
    print(f"{name:<16}  {text}", file=sys.stdout, flush=True)
