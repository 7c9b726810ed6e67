"""The loop: every system of this package is trained by `fit`, which is handed its loss.

The host only queues work. Steps are compiled once with the state given away (donated), batches come from a thread, and
losses stay on the devices until a log point, an evaluation or a checkpoint. There every step's loss and gradient norm
is checked, so that a NaN stops the run by the number of its step and before anything of it is saved.

Batches are a function of the step, as are the keys, so "resume" is: restore the state, go on with its step.
"""

from __future__ import annotations

import dataclasses
import math
import signal
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from diffusion_jax.parallel.hosts import everywhere, preempted, whole_here
from diffusion_jax.parallel.mesh import batch_sharding, check_batch, replicated
from diffusion_jax.parallel.rules import Rules
from diffusion_jax.train.ema import Average
from diffusion_jax.train.feed import feed
from diffusion_jax.train.progress import Progress
from diffusion_jax.train.runlog import RunLog
from diffusion_jax.train.signals import stop_on_signals
from diffusion_jax.train.state import TrainState, state_shardings
from diffusion_jax.train.step import make_train_step
from diffusion_jax.typing import Array, Batch, LossFn, PyTree, UserError

__all__ = ["fit", "jitted_step"]

AHEAD = 8  # steps that the host may queue beyond the devices: bounds the batches that wait there


@runtime_checkable
class Checkpoints(Protocol):
    """What the loop asks of `checkpoint.Checkpointer`."""

    @property
    def directory(self) -> Any: ...
    def latest_step(self) -> int | None: ...
    def save(self, step: int, state: TrainState, data_state: dict[str, Any], meta: dict[str, Any]) -> None: ...
    def wait(self) -> None: ...
    def restore(self, abstract_state: TrainState) -> tuple[TrainState, dict[str, Any], dict[str, Any]]: ...


class _Pending:
    """The metrics of steps that were queued and not yet looked at."""

    def __init__(self, name: str, last_good: Callable[[], str]) -> None:
        self.name, self.last_good = name, last_good
        self._steps: deque[tuple[int, dict[str, Array]]] = deque()

    def push(self, step: int, metrics: dict[str, Array]) -> None:
        """Notes a step; waits for the one `AHEAD` before it."""
        self._steps.append((step, metrics))
        if len(self._steps) > AHEAD:
            self._steps[-AHEAD - 1][1]["loss"].block_until_ready()

    def latest_loss(self) -> float | None:
        """The loss of the newest step that is done, without waiting for one."""
        for _, metrics in reversed(self._steps):
            if metrics["loss"].is_ready():  # type: ignore[attr-defined]  # jax.Array has it
                return float(jax.device_get(metrics["loss"]))
        return None

    def settle(self) -> list[dict[str, Any]]:
        """The metrics of all noted steps, on the host. Raises `UserError` for the first step that is not finite."""
        settled = jax.device_get(list(self._steps))
        self._steps.clear()
        for step, metrics in settled:
            for what in ("loss", "grad_norm"):
                if not math.isfinite(metrics[what]):
                    raise UserError(
                        f"{self.name}: {what} is {metrics[what]} at step {step}; stopped; {self.last_good()}"
                    )
        return [metrics for _, metrics in settled]


@jax.jit
def _finite(tree: PyTree) -> Array:
    return jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]).all()


def _last_good(checkpointer: Checkpoints | None) -> str:
    if checkpointer is None:
        return "nothing was saved"
    step = checkpointer.latest_step()
    return (
        "no checkpoint yet" if step is None else f"the last good checkpoint is step {step} in {checkpointer.directory}"
    )


def jitted_step(
    loss_fn: LossFn, tx: optax.GradientTransformation, ema: Average | None, layout: TrainState, mesh: Mesh
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """(state without frozen, frozen, batch, key) -> (state without frozen, metrics); only the state is donated."""
    step_fn = make_train_step(loss_fn, tx, ema)

    def step(live: TrainState, frozen: PyTree, batch: Batch, key: Array) -> tuple[TrainState, dict[str, Array]]:
        state, metrics = step_fn(dataclasses.replace(live, frozen=frozen), batch, key)
        return dataclasses.replace(state, frozen=None), metrics

    live = dataclasses.replace(layout, frozen=None)
    everywhere = replicated(mesh)
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(live, layout.frozen, batch_sharding(mesh), everywhere),
        out_shardings=(live, everywhere),
    )


def fit(
    *,
    state: TrainState,
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    ema: Average | None,
    batches: Callable[[int], Batch],
    steps: int,
    mesh: Mesh,
    batch_size: int,
    key: Array,
    rules: Rules = (),
    log: RunLog | None = None,
    checkpointer: Checkpoints | None = None,
    log_every: int = 50,
    eval_every: int | None = None,
    evaluate: Callable[[TrainState, int], Mapping[str, Any]] | None = None,
    checkpoint_every: int | None = None,
    name: str = "train",
    progress: bool = True,
    meta: Mapping[str, Any] | None = None,
) -> TrainState:
    """Trains until `steps` steps are done in all and returns the state; resumes from the latest checkpoint, if any.

    `state` is given away: its arrays (all but `frozen`) are not to be used afterwards. `batches(step)` gives the host
    batch of a step counted from 0, `batch_size` rows over all processes. `key` is folded with the step.
    `evaluate(state, done)` gives numbers to log; it is called each `eval_every` steps and at the end with the state
    without the optimizer's, and must not keep it; of several processes each calls it, with arrays of its own.
    Checkpoints are written each `checkpoint_every` steps and at the end, with `meta` beside them. Log lines are means
    over the steps since the last.

    Ctrl-C or SIGTERM: the step under way ends, the state is saved, KeyboardInterrupt is raised; a second one stops at
    once. Of several processes SIGTERM to one stops all, at a step that they agree on.

    Raises `UserError` for a batch size that the mesh does not divide, for a loss, gradient or parameter that is not
    finite (naming the step, counted from 0 as in `batches`, and the last good checkpoint), and what the checkpointer
    raises.
    """
    check_batch(batch_size, mesh)
    for what, every in (("log_every", log_every), ("eval_every", eval_every), ("checkpoint_every", checkpoint_every)):
        if every is not None and every < 1:
            raise UserError(f"{what} {every} is not at least 1")
    layout = state_shardings(state, rules, mesh)
    resumed = None if checkpointer is None else checkpointer.latest_step()
    if checkpointer is not None and resumed is not None:
        state = _restored(checkpointer, state, layout)
    else:
        state = jax.device_put(state, layout)
    start = int(state.step)
    bar = Progress(name, start, steps, batch_size, shown=progress and jax.process_index() == 0)
    try:
        if resumed is not None and jax.process_index() == 0:
            where = checkpointer.directory if checkpointer is not None else ""
            verb = "already done" if start >= steps else "resumed"
            bar.say(f"{name}: {verb} at step {start} of {steps}, from {where}")
        if start >= steps:
            return state
        if log is not None:
            log.start(start, state.params)
        run = jitted_step(loss_fn, tx, ema, layout, mesh)
        key = everywhere(key, mesh)
        frozen = state.frozen
        live = dataclasses.replace(state, frozen=None)
        del state
        pending = _Pending(name, lambda: _last_good(checkpointer))
        # With NaN debugging JAX itself reads every result back, which the guard would forbid.
        debugging = jax.config.jax_debug_nans or jax.config.jax_debug_infs  # type: ignore[attr-defined]
        guard = "allow" if debugging else "disallow"

        def settle() -> float:
            metrics = pending.settle()
            if log is not None:
                log.add(metrics)
            return float(metrics[-1]["loss"])

        def save(done: int) -> None:
            if checkpointer is None:
                return
            if not _finite((live.params, live.ema)):
                raise UserError(
                    f"{name}: a parameter is not finite after step {done - 1}; stopped; {_last_good(checkpointer)}"
                )
            checkpointer.save(done, dataclasses.replace(live, frozen=None), {"next_step": done}, dict(meta or {}))

        with stop_on_signals() as stop, feed(batches, start, steps, mesh, batch_size) as take:
            for step in range(start, steps):
                batch = take()
                # Tracing, at the first step, may look at constants.
                with jax.transfer_guard("allow" if step == start else guard):
                    live, metrics = run(live, frozen, batch, key)
                done, last = step + 1, step + 1 == steps
                pending.push(step, metrics)
                if step == start:
                    metrics["loss"].block_until_ready()
                    bar.resume()
                else:
                    bar.count()
                logs = done % log_every == 0 or last
                evaluates = evaluate is not None and (last or (eval_every is not None and done % eval_every == 0))
                saves = last or (checkpoint_every is not None and done % checkpoint_every == 0)
                if bar.due() and not last:
                    bar.show(done, pending.latest_loss())
                if preempted(done):
                    stop.signal = signal.SIGTERM
                if not (logs or evaluates or saves or stop):
                    continue
                loss = settle()
                bar.pause()
                if logs and log is not None:
                    speed = bar.images_per_second
                    log.write_means(done, **({} if speed is None else {"images_per_second": speed}))
                if evaluates and evaluate is not None:
                    seen = whole_here(dataclasses.replace(live, frozen=frozen, opt_state=None), mesh)
                    numbers = evaluate(seen, done)
                    if log is not None:
                        log.write(done, numbers)
                    bar.measured(done, numbers)
                stopping = bool(stop)  # once: a signal that comes later waits for the next step
                if saves or stopping:
                    save(done)
                if last:
                    bar.show(done, loss)
                if stopping:
                    if checkpointer is not None:
                        checkpointer.wait()
                    raise KeyboardInterrupt(f"{name}: {stop.name} after step {done}; {_last_good(checkpointer)}")
                bar.resume()
        if checkpointer is not None:
            checkpointer.wait()
        return dataclasses.replace(live, frozen=frozen)
    finally:
        bar.close()


def _restored(checkpointer: Checkpoints, state: TrainState, layout: TrainState) -> TrainState:
    """The latest checkpoint placed as `layout` says, with the frozen part of `state`."""
    abstract = jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), state, layout)
    frozen = jax.device_put(state.frozen, layout.frozen)
    restored, data_state, _ = checkpointer.restore(dataclasses.replace(abstract, frozen=frozen))
    if data_state.get("next_step") != int(restored.step):
        raise UserError(
            f"checkpoint step {int(restored.step)} in {checkpointer.directory} says that the data stand at step "
            f"{data_state.get('next_step')}: it was not written by this loop"
        )
    return restored
