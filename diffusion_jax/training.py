"""From a config to a trained run: what `diffusion-jax train` does, as a function.

Each system gives a `Task` (its network, loss, batches and held-out evaluation); everything after that is the one loop.
A run is never overwritten unasked: an existing folder is resumed when its config is the same but for keys that do not
change what is learned step by step, and what changed is said.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import build
from diffusion_jax.build.keys import systems
from diffusion_jax.config import to_dict
from diffusion_jax.data.pictures.augmentation import random_shift
from diffusion_jax.data.pipeline import batches
from diffusion_jax.data.sources.digits import CLASS_NAMES, with_article
from diffusion_jax.files import write_atomic
from diffusion_jax.parallel.hosts import first_decides
from diffusion_jax.parallel.mesh import check_batch, make_mesh
from diffusion_jax.parallel.rules import split_over_fsdp
from diffusion_jax.process import uncertainty
from diffusion_jax.process.importance import Importance
from diffusion_jax.process.times import stratified
from diffusion_jax.report.pictures import save_grid
from diffusion_jax.systems import resume
from diffusion_jax.systems.check import check
from diffusion_jax.systems.clip.task import clip_task
from diffusion_jax.systems.diffusion.loss import UNCERTAINTY, diffusion_loss
from diffusion_jax.systems.diffusion.run import (
    CHECKPOINTS,
    CONFIG,
    TEXT_ENCODER,
    VOCABULARY,
    ClipRun,
    DiffusionRun,
    diffusion_network,
    fingerprint,
    load_clip,
    read_config,
    read_text_encoder,
)
from diffusion_jax.systems.system import Task, captioned, process_slice
from diffusion_jax.train.checkpoint import Checkpointer
from diffusion_jax.train.lock import locked_loss, locked_optimizer
from diffusion_jax.train.loop import fit
from diffusion_jax.train.runlog import RunLog
from diffusion_jax.train.state import TrainState, init_state
from diffusion_jax.train.step import make_eval_step
from diffusion_jax.typing import Batch, Context, UserError, one_of

__all__ = ["Task", "train_run", "validate"]

INPUTS = "inputs.json"
"""What lay at the config's paths when the run began (`build.resume.contents_of`), so that they may move."""

SAMPLE_PROMPTS = tuple(with_article(f"a {name}") for name in CLASS_NAMES)


def validate(config: ConfigDict) -> None:
    """UserError for what is wrong with a config: keys, values, a batch that the devices do not divide."""
    check(config)
    check_batch(config.batch_size, make_mesh(**config.mesh))


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
    key = jax.random.key(config.seed)
    init_key, train_key, eval_key = (jax.random.fold_in(key, i) for i in range(3))
    # Building comes before anything is written: a config that cannot be built leaves no folder behind.
    asked = config.copy_and_resolve_references()
    if asked.get("weights") is not None and _begun(folder) and not overwrite:
        asked.weights = None  # they were read at step 0, and need not lie there any more
    task = TASKS[config.system](asked, folder, eval_key)
    locks = tuple(config.get("locked", ()))
    loss_fn = locked_loss(task.loss_fn, locks)
    tx = locked_optimizer(build.optimizer(config.optimizer, config.steps, clamp=task.clamp), locks)
    ema, mesh = build.ema(config.ema), make_mesh(**config.mesh)
    params = (task.initial or task.network.init(init_key)) | task.beside
    rules = split_over_fsdp(params, mesh)
    state = init_state(params, tx, ema, frozen=task.frozen, aux=task.aux, mesh=mesh, rules=rules)
    ctx = Context(state.step, state.ema, state.frozen, state.aux)
    jax.eval_shape(loss_fn, state.params, ctx, _whole(task.batches(0)), train_key)
    first_decides(lambda: _prepare(folder, config, task.text_encoder, overwrite, say))
    if progress and task.counts:
        say(f"{config.system}: {task.counts}")
    with Checkpointer(folder / CHECKPOINTS) as checkpointer, contextlib.closing(RunLog(folder, to_dict(config))) as log:
        fit(
            state=state,
            loss_fn=loss_fn,
            tx=tx,
            ema=ema,
            batches=task.batches,
            steps=config.steps,
            mesh=mesh,
            batch_size=config.batch_size,
            key=train_key,
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
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count * x.shape[0], *x.shape[1:]), x.dtype), batch)


def _prepare(folder: Path, config: ConfigDict, text_encoder: ClipRun | None, overwrite: bool, say: Any) -> None:
    """Makes the run's folder, or decides what to do with one that is there."""
    here = (folder / CONFIG).is_file()
    if here and read_config(folder).get("system") not in systems():
        raise UserError(f"{folder / CONFIG} is not that of a run: choose another --config.workdir")
    if text_encoder is not None and text_encoder.path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{folder} holds the text encoder {text_encoder.path}: choose another --config.workdir")
    if overwrite and here:
        shutil.rmtree(folder)
        here = False
    note = None if text_encoder is None else _text_encoder_note(folder, text_encoder)
    if here:
        _check_same(folder, config, note, say)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty and holds no run: choose another --config.workdir")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the run folder {folder}: {error.strerror}") from error
    # Also of a run that goes on: who loads it finds its vocabulary, text encoder and sampler as they are now.
    write_atomic(folder / CONFIG, _json(to_dict(config)))
    if contents := resume.contents_of(config):
        write_atomic(folder / INPUTS, _json(contents))
    if note is not None:
        write_atomic(folder / TEXT_ENCODER, _json(note))
    _keep_vocabulary(folder, config)


def _keep_vocabulary(folder: Path, config: ConfigDict) -> None:
    """A copy of the vocabulary's files in the run, which can then be used wherever it lies."""
    path = (config.get("tokenizer") or {}).get("path")
    for file in resume.vocabulary_files(path) if path else []:
        copy = folder / VOCABULARY / file.name
        if (
            not copy.exists()
        ):  # one by one: the copying may have been stopped, and a moved vocabulary may have another name
            copy.parent.mkdir(exist_ok=True)
            write_atomic(copy, file.read_bytes())


def _check_same(folder: Path, config: ConfigDict, note: dict[str, str] | None, say: Any) -> None:
    """UserError where the run is of another config; what has changed and may is said."""
    found = resume.differences(read_config(folder), config)
    fixed, free = found[resume.FIXED], found[resume.FREE]
    before, now = _contents(folder), resume.contents_of(config)
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
    if fixed:
        raise UserError(
            f"{folder} holds a run of another config ({'; '.join(fixed)}): choose --config.workdir=..., or "
            "--overwrite to begin anew"
        )
    if note is not None and (folder / TEXT_ENCODER).is_file():
        before = read_text_encoder(folder)
        if before["fingerprint"] != note["fingerprint"]:
            raise UserError(
                f"{folder} was trained on another text encoder than {config.text_encoder} holds now: choose another "
                "--config.workdir, or --overwrite to begin anew"
            )
    if free:
        say(f"{config.system}: going on with changes: {'; '.join(free)}")


_WHAT = {"data.path": "pictures", "tokenizer.path": "words"}


def _contents(folder: Path) -> dict[str, str]:
    """What lay at the paths of the run: as it was noted, or else as it lies there now."""
    if not (folder / INPUTS).is_file():
        return resume.contents_of(read_config(folder))
    try:
        found = json.loads((folder / INPUTS).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / INPUTS} is not readable as JSON: {error}") from error
    return found if isinstance(found, dict) else {}


def _begun(folder: Path) -> bool:
    """Whether there is a checkpoint to go on from."""
    kept = folder / CHECKPOINTS
    return kept.is_dir() and any(path.name.isdigit() for path in kept.iterdir())


def _text_encoder_note(folder: Path, clip: ClipRun) -> dict[str, str]:
    return {"run": os.path.relpath(clip.path, folder), "fingerprint": fingerprint(clip.params)}


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def diffusion_task(config: ConfigDict, folder: Path, key: jax.Array) -> Task:
    """Text-conditioned diffusion on a frozen CLIP text tower, whose embeddings of all captions are made once, here."""
    clip = load_clip(config.text_encoder)
    data = captioned(config.data.name)
    table = clip.condition(data.unique)
    shape = data.train[0]["image"].shape
    network = diffusion_network(config, clip, shape)
    schedule = build.schedule(config.schedule)
    run = DiffusionRun(folder, config, network, {}, schedule, clip, shape)
    terms = build.loss(config.loss)
    loss = functools.partial(
        diffusion_loss,
        network.apply,
        schedule,
        prediction=one_of("prediction", config.prediction, build.PREDICTIONS),
        time=config.time,
        sigma_data=run.sigma_data,
        **terms,
    )
    # What is only used later is refused here: a prediction that the schedule cannot represent, an unknown sampler.
    run.denoiser({})
    run.sampler()
    uncertain = config.loss.get("uncertainty", False)

    def transform(batch: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, Any]:
        picked = data.rows[batch["index"], rng.integers(data.rows.shape[1], size=len(batch["index"]))]
        images = random_shift(batch["image"], rng, config.data.shift)
        return {"image": images, "cond": jax.tree.map(lambda leaf: leaf[picked], table)}

    # Four noise levels an example steady the held-out loss; nothing is dropped there.
    held_batch = {"image": data.held_out.columns()["image"], "cond": clip.condition(data.held_captions)}
    held_batch = jax.tree.map(lambda leaf: np.concatenate([leaf] * 4), held_batch)
    # The same times at every step, whatever training has come to draw; and no learned uncertainty.
    importance = isinstance(terms["sample_t"], Importance)
    held_loss = loss(sample_t=stratified) if importance else loss()
    eval_step = jax.jit(make_eval_step(held_loss))

    def evaluate(state: TrainState, done: int) -> dict[str, float]:
        metrics = eval_step(state, held_batch, key)
        sample = functools.partial(run.generate, SAMPLE_PROMPTS, seed=config.seed)
        raw, averaged = (sample(denoise=run.denoiser(params)) for params in (state.params, state.ema))
        _save_samples(folder / "samples", done, raw, averaged)
        return {"val_loss": float(metrics["loss"]), "val_loss_ema": float(metrics["ema_loss"])}

    stream = batches(data.train, config.batch_size, config.seed, transform, **process_slice())
    return Task(
        network,
        loss(drop=config.loss.drop, uncertainty=uncertain),
        stream,
        evaluate,
        frozen={"null": run.null},
        text_encoder=clip,
        counts=data.counts,
        aux=terms["sample_t"].init() if importance else None,
        beside={UNCERTAINTY: uncertainty.init()} if uncertain else {},
    )


def _save_samples(folder: Path, step: int, raw: np.ndarray, averaged: np.ndarray) -> None:
    """The same prompts and seeds under raw weights (first row) and averaged ones (second row); by the first process."""
    if jax.process_index() != 0:
        return
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"step_{step:06d}.npz", raw=raw, ema=averaged)
    settings = {"step": str(step), "rows": "raw weights; averaged weights", "prompts": "; ".join(SAMPLE_PROMPTS)}
    save_grid(folder / f"step_{step:06d}.png", np.concatenate([raw, averaged]), len(raw), 8, settings)


TASKS: dict[str, Callable[[ConfigDict, Path, jax.Array], Task]] = {"clip": clip_task, "diffusion": diffusion_task}
