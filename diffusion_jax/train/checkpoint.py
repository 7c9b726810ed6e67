"""Checkpoints on Orbax: written in the background, whole or not at all, and verified when read.

A step's folder holds five items: `params`, `ema` (where there is one), `train` (step, optimizer, the loss's state),
`data` (where the data stands) and `meta`. Orbax writes into a folder of another name and renames it at the end, so
that a killed process leaves the previous checkpoint as the latest. Orbax notices a file that is cut short, but not a
wrong byte within an array: beside the caller's meta stands a sum over the bits of each item, compared after reading.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from diffusion_jax.parallel.rules import path_of
from diffusion_jax.train.abandoned import is_news, no_space, quieten, withheld_logs
from diffusion_jax.train.state import TrainState, checkpointed
from diffusion_jax.typing import Params, PyTree, UserError, one_of

__all__ = ["Checkpointer", "restore_params"]


def _bits_sum(x: Any) -> jax.Array:
    """The sum modulo 2^32 of an array's elements read as unsigned integers: the same however the array is split."""
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}[x.dtype.itemsize]
    return jnp.sum(jax.lax.bitcast_convert_type(x, unsigned), dtype=jnp.uint32)


@jax.jit
def _fingerprint_on_devices(leaves: list[Any]) -> jax.Array:
    return sum(((2 * i + 1) * _bits_sum(leaf) for i, leaf in enumerate(leaves)), jnp.uint32(0))


def _bits_sum_on_host(x: Any) -> int:
    """`_bits_sum` of what is in this machine's memory, without a program to be compiled."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    flat = np.ascontiguousarray(x).reshape(-1)
    return int(np.sum(flat.view(f"u{min(flat.dtype.itemsize, 4)}"), dtype=np.uint32))


def _fingerprint(tree: PyTree) -> int:
    leaves = [x if isinstance(x, jax.Array) else np.asarray(x) for x in jax.tree.leaves(tree)]
    on_host = (not isinstance(x, jax.Array) or (x.is_fully_addressable and _on_cpu(x)) for x in leaves)
    if not all(on_host):
        return int(_fingerprint_on_devices(leaves))  # one number comes to the host
    return sum((2 * i + 1) * _bits_sum_on_host(leaf) for i, leaf in enumerate(leaves)) % 2**32


def _on_cpu(x: jax.Array) -> bool:
    return all(device.platform == "cpu" for device in x.devices())


# Orbax has each replica write its part of an array, so that all transfers to the host are used. Cutting up what is small costs
# more than it gains: a bias on 8 devices would be 8 programs and 8 files.
MIN_SLICE_BYTES = 1 << 20


def _cut_no_small_arrays() -> None:
    standard, logger = ocp.type_handlers.get_type_handler(jax.Array), logging.getLogger("absl")
    store = getattr(standard, "_array_metadata_store", None)
    handler = ocp.type_handlers.ArrayHandler(
        min_slice_bytes_for_replica_parallel=MIN_SLICE_BYTES, array_metadata_store=store
    )
    before, logger.disabled = logger.disabled, True  # it would say that one handler takes another's place
    try:
        ocp.type_handlers.register_type_handler(jax.Array, handler, override=True)
    finally:
        logger.disabled = before


_cut_no_small_arrays()


def _handlers() -> dict[str, Any]:
    trees = {name: ocp.StandardCheckpointHandler() for name in ("params", "ema", "train")}
    return trees | {name: ocp.JsonCheckpointHandler() for name in ("data", "meta")}


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:160]}"


class Checkpointer:
    """The checkpoints of one run in `directory`, of which the newest `keep` stay.

    `fall_back=True` allows `restore` to pass over a checkpoint that cannot be read, to the newest that can; what it
    passed over is renamed to `<step>.corrupt`. Use it in a `with`, or call `close`.
    """

    def __init__(self, directory: str | Path, keep: int = 2, fall_back: bool = False) -> None:
        self.directory = Path(directory).absolute()
        self.fall_back = fall_back
        self._failed = False
        self._raised = False  # whether the last write failed, which was said
        self._full = False  # whether one of Orbax's threads has said that the disk is full
        if keep < 1:
            raise UserError(f"keep {keep} checkpoints: at least 1 is kept")
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(self.directory, item_handlers=_handlers(), options=options)
        except OSError as error:
            raise UserError(f"cannot open the checkpoint folder {self.directory}: {error.strerror or error}") from error
        # A write that fails is raised where the caller waits for it; Orbax's threads print and log the same besides.
        quieten()
        self._hook = threading.excepthook
        threading.excepthook = self._on_thread_error
        logging.getLogger("absl").addFilter(self._on_log)

    def _on_thread_error(self, args: threading.ExceptHookArgs) -> None:
        if args.exc_value is None or not no_space(args.exc_value):
            self._hook(args)
        else:
            self._full = True

    def _on_log(self, record: logging.LogRecord) -> bool:
        self._full |= bool(record.exc_info and record.exc_info[1] and no_space(record.exc_info[1]))
        return is_news(record)

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def latest_step(self) -> int | None:
        """The newest checkpoint that is completely written, or None."""
        self.wait()
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """The steps of all complete checkpoints, rising."""
        self.wait()
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: TrainState, data_state: dict[str, Any], meta: dict[str, Any]) -> None:
        """Copies `state` to the host and writes it in the background; a step that is already there is left alone.

        Raises `UserError` when the disk is full, here or in `wait` or at the next save; the previous checkpoint stays.
        """
        if self.latest_step() == step:
            return
        trees = {name: tree for name, tree in checkpointed(state).items() if tree is not None}
        prints = {name: _fingerprint(tree) for name, tree in trees.items()}
        items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        items["data"] = ocp.args.JsonSave(data_state)
        items["meta"] = ocp.args.JsonSave({"user": meta, "fingerprints": prints})
        self._guarded(lambda: self._manager.save(step, args=ocp.args.Composite(**items)))

    def wait(self) -> None:
        """Returns when nothing is being written. Raises `UserError` when the disk is full."""
        self._guarded(self._manager.wait_until_finished)

    def _guarded(self, action: Callable[[], Any]) -> None:
        try:
            action()
            self._raised = False
        except Exception as error:
            if not no_space(error):
                # What is waited for may be a writer that misses what another, for want of space, has not written.
                _join_writers()
                if not self._full:
                    raise
            self._full, self._raised = False, True
            _join_writers()
            self._failed = True
            self._remove_unfinished()
            self._manager.reload()
            last = self._manager.latest_step()
            kept = "no checkpoint was written before" if last is None else f"the last good checkpoint is step {last}"
            raise UserError(f"the disk is full: no checkpoint could be written in {self.directory}; {kept}") from error

    def _remove_unfinished(self) -> None:
        """Gives back the space of what could not be written."""
        for unfinished in self.directory.glob("*.orbax-checkpoint-tmp"):
            shutil.rmtree(unfinished, ignore_errors=True)

    def close(self) -> None:
        """Waits for what is being written and releases the folder."""
        try:
            # After a failure that was raised the other writers' own failures are no news.
            with contextlib.suppress(*(Exception,) if self._raised else ()):
                self.wait()
        finally:
            with contextlib.suppress(*(Exception,) if self._raised else ()):
                self._manager.close()
            threading.excepthook = self._hook
            if self._failed:
                # Writers of the other items may go on until Python ends: what they log is left out, also later.
                _join_writers()
                self._remove_unfinished()
            else:
                logging.getLogger("absl").removeFilter(self._on_log)

    def restore(
        self, abstract_state: TrainState, step: int | None = None
    ) -> tuple[TrainState, dict[str, Any], dict[str, Any]]:
        """(state, data_state, meta) of `step` (default: the latest), placed as `abstract_state` says.

        `abstract_state` is a state of arrays or of ShapeDtypeStructs with shardings; its `frozen` is passed through.
        Raises `UserError` when there is no such checkpoint, when it was saved by another model or optimizer, and when
        it is damaged: then the message names the newest step that is whole. Only with `fall_back` is that step taken.
        """
        steps = self.steps()
        wanted = _choose(step, steps, self.directory)
        try:
            return self._read(wanted, abstract_state)
        except _DamagedError as damage:
            whole = self._newest_whole(abstract_state, [s for s in steps if s < wanted])
            if whole is None:
                raise UserError(f"{damage}; no older checkpoint is whole") from damage
            if not self.fall_back or step is not None:
                raise UserError(f"{damage}; step {whole} is whole (ask to fall back to it)") from damage
        for damaged in (s for s in steps if s > whole):
            (self.directory / str(damaged)).rename(self.directory / f"{damaged}.corrupt")
        self._manager.reload()
        return self._read(whole, abstract_state)

    def _newest_whole(self, abstract_state: TrainState, steps: list[int]) -> int | None:
        for step in reversed(steps):
            try:
                self._read(step, abstract_state)
            except _DamagedError:
                continue
            return step
        return None

    def _read(self, step: int, abstract_state: TrainState) -> tuple[TrainState, dict[str, Any], dict[str, Any]]:
        trees = {
            name: jax.tree.map(_abstract, tree)
            for name, tree in checkpointed(abstract_state).items()
            if tree is not None
        }
        where = f"checkpoint step {step} in {self.directory}"
        meta = _damage(where, lambda: self._manager.restore(step, args=_args(meta=ocp.args.JsonRestore())))["meta"]
        prints = _damage(where, lambda: meta["fingerprints"])
        if prints.keys() != trees.keys():
            saved, asked = ", ".join(sorted(prints)), ", ".join(sorted(trees))
            raise UserError(f"{where} holds {saved}, the run wants {asked}: it was saved with another ema setting")
        found = _damage(where, lambda: self._manager.item_metadata(step))
        for name, tree in trees.items():
            _same_structure(where, name, found[name], tree)
        items = {name: ocp.args.StandardRestore(tree) for name, tree in trees.items()}
        got = _damage(where, lambda: self._manager.restore(step, args=_args(data=ocp.args.JsonRestore(), **items)))
        for name in trees:
            if _fingerprint(got[name]) != prints[name]:
                raise _DamagedError(f"{where} is damaged: its {name} differ from what was saved")
        state = TrainState(
            params=got["params"],
            ema=got["ema"] if "ema" in trees else None,
            **got["train"],
            frozen=abstract_state.frozen,
        )
        return state, got["data"], meta["user"]


def _join_writers(seconds: float = 5.0) -> None:
    """Waits a little for Orbax's threads, which would write into a folder that was removed under them.

    Such a thread's `join` raises what it failed of, which is known already.
    """
    until = time.monotonic() + seconds
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("orbax."):
            with contextlib.suppress(Exception):
                thread.join(max(0.0, until - time.monotonic()))


class _DamagedError(UserError):
    """A checkpoint whose files are incomplete or altered."""


def _args(**items: Any) -> Any:
    return ocp.args.Composite(**items)


def _abstract(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _damage(where: str, action: Callable[[], Any]) -> Any:
    """What `action` gives. Whatever it raises is a damaged file: the readers raise from KeyError to bare Exception."""
    try:
        with withheld_logs():
            return action()
    except Exception as error:
        reason = _first_line(error)
    # The reads that were abandoned print warnings when they are collected: collected here, they are silent.
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        gc.collect()
    finally:
        sys.unraisablehook = hook
    raise _DamagedError(f"{where} is damaged ({reason})")


def _choose(step: int | None, steps: list[int], directory: Path) -> int:
    if not steps:
        raise UserError(f"there is no checkpoint in {directory}")
    if step is None:
        return steps[-1]
    if step not in steps:
        nearest = min(steps, key=lambda s: abs(s - step))
        raise UserError(f"there is no checkpoint of step {step} in {directory}; nearest: {nearest}")
    return step


def _same_structure(where: str, item: str, saved: Any, wanted: PyTree) -> None:
    """Raises `UserError` for the first leaf that the checkpoint has in another shape, lacks, or has too many."""
    have = {path_of(key_path): tuple(m.shape) for key_path, m in jax.tree_util.tree_leaves_with_path(saved.tree)}
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(wanted):
        path = path_of(key_path)
        shape = have.pop(path, None)
        if shape is None:
            raise UserError(
                f"{where} lacks {item} {path!r} of shape {leaf.shape}: it was saved by another configuration"
            )
        if shape != leaf.shape and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise UserError(f"{where} has {item} {path!r} of shape {shape}, the run wants {leaf.shape}")
    if have:
        raise UserError(
            f"{where} has {item} {min(have)!r}, which the run does not: it was saved by another configuration"
        )


def restore_params(directory: str | Path, which: str = "ema", step: int | None = None) -> Params:
    """A checkpoint's parameters as nested dicts of numpy arrays: the average ("ema") or the raw ones ("params").

    Needs neither the model nor the optimizer, and reads nothing else. `step` defaults to the latest. Raises `UserError`
    when there is no such folder, checkpoint or average, and when its files are damaged.
    """
    one_of("which", which, ("ema", "params"))
    directory = Path(directory).absolute()
    if not directory.is_dir():
        raise UserError(f"there is no checkpoint folder {directory}")
    quieten()
    handlers = _handlers() | {which: ocp.PyTreeCheckpointHandler()}
    options = ocp.CheckpointManagerOptions(create=False)
    with ocp.CheckpointManager(directory, item_handlers=handlers, options=options) as manager:
        step = _choose(step, sorted(manager.all_steps()), directory)
        where = f"checkpoint step {step} in {directory}"
        meta = _damage(where, lambda: manager.restore(step, args=_args(meta=ocp.args.JsonRestore())))["meta"]
        prints = _damage(where, lambda: meta["fingerprints"])
        if which not in prints:
            raise UserError(f"{where} has no average of the parameters; ask for which='params'")

        def read() -> Params:
            tree = manager.item_metadata(step)[which].tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            wanted = _args(**{which: ocp.args.PyTreeRestore(restore_args=as_numpy)})
            return manager.restore(step, args=wanted)[which]

        params = _damage(where, read)
    if _fingerprint(params) != prints[which]:
        raise _DamagedError(f"{where} is damaged: its {which} differ from what was saved")
    return params
