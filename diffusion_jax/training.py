"""From a config to a trained run: what `diffusion-jax train` does, as a function.

The config's system gives a `Task` (its network, loss, batches and held-out evaluation); everything after that is the one loop.
A run is never overwritten unasked: an existing folder is resumed when its config is the same but for keys that do not
change what is learned step by step, and what changed is said.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffusion_jax import build, runs
from diffusion_jax.build.own import fits
from diffusion_jax.files import write_atomic
from diffusion_jax.parallel.hosts import first_decides
from diffusion_jax.parallel.mesh import check_batch
from diffusion_jax.parallel.rules import split_over_mesh
from diffusion_jax.runs import CHECKPOINTS, CONFIG
from diffusion_jax.systems import resume
from diffusion_jax.systems.check import check
from diffusion_jax.systems.system import Task
from diffusion_jax.systems.table import SYSTEMS, system_of
from diffusion_jax.train.checkpoint import Checkpointer
from diffusion_jax.train.ema import Average
from diffusion_jax.train.lock import locked_loss, locked_optimizer
from diffusion_jax.train.loop import fit
from diffusion_jax.train.optim import HIDDEN, parted
from diffusion_jax.train.runlog import RunLog
from diffusion_jax.train.state import TrainState, init_state
from diffusion_jax.typing import Array, Batch, Context, LossFn, Params, PyTree, UserError

__all__ = ["INPUTS", "Built", "build_run", "train_run", "validate"]

INPUTS = "inputs.json"
"""What lay at the config's paths when the run began (`systems.resume.contents_of`), so that they may move."""


def validate(config: ConfigDict) -> None:
    """UserError for what is wrong with a config: keys, values, a batch that the devices do not divide."""
    check(config)
    check_batch(config.batch_size, build.mesh(config.get("mesh")))


@dataclasses.dataclass(frozen=True, eq=False)
class Built:
    """All that a config comes to before its first step; `key` is that of training."""

    config: ConfigDict
    task: Task
    loss_fn: LossFn
    tx: optax.GradientTransformation
    ema: Average
    mesh: Mesh
    key: Array
    init_key: Array

    def params(self) -> Params:
        """The first parameters: fresh ones, or those that the task begins with."""
        return (self.task.initial or self.task.network.init(self.init_key)) | self.task.beside

    def shapes(self) -> TrainState:
        """The state before the first step as shapes alone: no parameter is made."""
        made = jax.eval_shape(lambda: init_state(self.params(), self.tx, self.ema, aux=self.task.aux))
        frozen = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype), self.task.frozen)
        return dataclasses.replace(made, frozen=frozen)

    def rehearse(self, state: TrainState) -> PyTree:
        """The shapes of the global batch of a step, of whose loss the shapes are worked out: what is wrong is raised here."""
        batch = _whole(self.task.batches(0))
        ctx = Context(state.step, state.ema, state.frozen, state.aux)
        jax.eval_shape(self.loss_fn, state.params, ctx, batch, self.key)
        return batch


def build_run(config: ConfigDict, folder: Path, *, begun: bool = False) -> Built:
    """What trains a valid `config` in `folder`, of which nothing is written; of a run that has `begun`, without its weights.

    Raises UserError for what cannot be built: data that are not there, a condition that the network does not read.
    """
    key = jax.random.key(config.seed)
    init_key, train_key, eval_key = (jax.random.fold_in(key, i) for i in range(3))
    asked = config.copy_and_resolve_references()
    if asked.get("weights") is not None and begun:
        asked.weights = None  # they were read at step 0, and need not lie there any more
    task = system_of(config).task(asked, folder, eval_key)
    locks = tuple(config.get("locked", ()))
    tx = build.optimizer(config.optimizer, config.steps, clamp=task.clamp, project=task.project)
    hidden = config.optimizer.get("hidden", HIDDEN) if config.optimizer.name == "muon" else ()
    tx = parted(tx, task.apart, hidden)
    return Built(
        config,
        task,
        locked_loss(task.loss_fn, locks),
        locked_optimizer(tx, locks),
        build.ema(config.ema, config.batch_size),
        build.mesh(config.get("mesh")),
        train_key,
        init_key,
    )


def train_run(config: ConfigDict, *, overwrite: bool = False, progress: bool = True, say: Any = print) -> Path:
    """Trains or resumes the run of `config` in `config.workdir`, and returns that folder.

    Raises UserError for a config that is wrong, for a folder that holds a run of another config (unless `overwrite`),
    and what the loop raises: a loss that is not finite, a full disk, a damaged checkpoint. KeyboardInterrupt after
    Ctrl-C.
    """
    validate(config)
    folder = Path(config.workdir)
    if marks := sorted(set("[]*?") & set(str(folder.absolute()))):
        # The library of the checkpoints takes them for a pattern, and loses what it wrote.
        raise UserError(
            f"config key 'workdir' is {config.workdir!r}: no checkpoint can lie below {' '.join(marks)} in a path"
        )
    # Building comes before anything is written: a config that cannot be built leaves no folder behind.
    built = build_run(config, folder, begun=_begun(folder) and not overwrite)
    task, mesh, params = built.task, built.mesh, built.params()
    rules = split_over_mesh(params, mesh)
    state = init_state(params, built.tx, built.ema, frozen=task.frozen, aux=task.aux, mesh=mesh, rules=rules)
    built.rehearse(state)
    first_decides(lambda: _prepare(folder, config, task, overwrite, say))
    if progress and task.counts:
        say(f"{config.system}: {task.counts}")
    with (
        Checkpointer(folder / CHECKPOINTS) as checkpointer,
        contextlib.closing(RunLog(folder, runs.written(config))) as log,
    ):
        fit(
            state=state,
            loss_fn=built.loss_fn,
            tx=built.tx,
            ema=built.ema,
            batches=task.batches,
            steps=config.steps,
            mesh=mesh,
            batch_size=config.batch_size,
            key=built.key,
            rules=rules,
            log=log,
            checkpointer=checkpointer,
            log_every=config.log_every,
            eval_every=config.eval_every,
            evaluate=task.evaluate,
            checkpoint_every=config.checkpoint_every,
            name=config.system,
            progress=progress,
        )
    return folder


def _whole(batch: Batch) -> Any:
    """The shapes of the global batch of which each process makes its share."""
    count = jax.process_count()
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((count * x.shape[0], *x.shape[1:]), jax.dtypes.canonicalize_dtype(x.dtype)),
        batch,
    )


def _prepare(folder: Path, config: ConfigDict, task: Task, overwrite: bool, say: Any) -> None:
    """Makes the run's folder, or decides what to do with one that is there."""
    here = runs.is_run(folder)
    if here and not fits(runs.read_config(folder).get("system"), SYSTEMS):
        raise UserError(f"{folder / CONFIG} is not that of a run: choose another --config.workdir")
    task.agrees(folder, overwrite)
    if overwrite and here:
        shutil.rmtree(folder)
        here = False
    if here:
        _check_same(folder, config, say)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty and holds no run: choose another --config.workdir")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the run folder {folder}: {error.strerror}") from error
    # Also of a run that goes on: who loads it finds its notes and its sampler as they are now.
    runs.write_json(folder / CONFIG, runs.written(config))
    if contents := resume.contents_of(config):
        runs.write_json(folder / INPUTS, contents)
    for name, note in task.notes.items():
        runs.write_json(folder / name, note)
    runs.keep_parts(folder, config)
    for name, file in task.copies.items():
        copy = folder / name
        # One by one: the copying may have been stopped, and what is copied may have moved and have another name.
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(copy, file.read_bytes())


def _check_same(folder: Path, config: ConfigDict, say: Any) -> None:
    """UserError where the run is of another config; what has changed and may is said."""
    old, version = runs.read_run(folder)
    old = system_of(old).upgrade(old, version)
    found = resume.differences(old, config)
    fixed, free = found[resume.FIXED], found[resume.FREE]
    before, now = _contents(folder, old), resume.contents_of(config)
    moved = {line.partition(": ")[0]: line for line in found[resume.MOVED]}
    for key, line in moved.items():
        if key not in before or key not in now:
            free.append(f"{line} (what lay there before is not known)")
        elif before[key] == now[key]:
            free.append(f"{line} (the same {_WHAT[key]})")
        else:
            fixed.append(f"{line}, where {_WHAT[key]} are others than those trained on")
    for key in (key for key in now if key not in moved and before.get(key, now[key]) != now[key]):
        # A picture that was mended or taken away is no reason to begin anew; a word of another number is.
        (free if key == "data.path" else fixed).append(f"{key}: {_WHAT[key]} are others than before")
    free += [f"{module}: its file is another than before" for module in runs.changed_parts(folder, config)]
    if fixed:
        raise UserError(
            f"{folder} holds a run of another config ({'; '.join(fixed)}): choose --config.workdir=..., or "
            "--overwrite to begin anew"
        )
    if free:
        say(f"{config.system}: going on with changes: {'; '.join(free)}")


_WHAT = {"data.path": "pictures", "tokenizer.path": "words"}


def _contents(folder: Path, config: ConfigDict) -> Mapping[str, str]:
    """What lay at the paths of the run: as it was noted, or else as it lies there now."""
    if not (folder / INPUTS).is_file():
        return resume.contents_of(config)
    return runs.read_json(folder / INPUTS)


def _begun(folder: Path) -> bool:
    """Whether there is a checkpoint to go on from."""
    kept = folder / CHECKPOINTS
    return kept.is_dir() and any(path.name.isdigit() for path in kept.iterdir())
