"""Batches made and sent to the devices ahead of the steps that use them, in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax.sharding import Mesh

from diffusion_jax.parallel.mesh import put_batch
from diffusion_jax.typing import Batch, UserError

__all__ = ["feed"]


@contextmanager
def feed(
    batches: Callable[[int], Batch], start: int, stop: int, mesh: Mesh, batch_size: int, ahead: int = 2
) -> Iterator[Callable[[], dict[str, Any]]]:
    """Gives a function that returns the batches of the steps start .. stop - 1 in turn, placed on the mesh.

    At most `ahead` batches wait. What `batches` raises is raised by the call that would have returned its batch.
    Raises `UserError` for a batch that does not have this process's share of `batch_size` rows (a change of shape would
    compile the step again).
    """
    ready: queue.Queue[tuple[dict[str, Any] | None, BaseException | None]] = queue.Queue(maxsize=ahead)
    closed = threading.Event()
    share = batch_size // jax.process_count()

    def give(item: tuple[dict[str, Any] | None, BaseException | None]) -> None:
        while not closed.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        for step in range(start, stop):
            if closed.is_set():
                return
            try:
                batch = batches(step)
                for name, array in batch.items():
                    shape = getattr(array, "shape", ())
                    if shape and shape[0] != share:
                        raise UserError(f"batch {name!r} of step {step} has {shape[0]} rows; the run wants {share}")
                give((put_batch(batch, mesh), None))
            except BaseException as error:
                return give((None, error))

    def take() -> dict[str, Any]:
        batch, error = ready.get()
        if error is not None:
            raise error
        assert batch is not None
        return batch

    thread = threading.Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        yield take
    finally:
        closed.set()
        thread.join()
