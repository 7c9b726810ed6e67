"""Several processes as one run: joining them, letting the first decide, and copies that each process can read alone.

Everything here does nothing, or what JAX does alone, when there is one process.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from diffusion_jax.parallel.mesh import replicated
from diffusion_jax.typing import PyTree, UserError

__all__ = ["everywhere", "first_decides", "join", "leave", "preempted", "whole_here"]

MOST = 4096  # bytes of a message that one process sends the others


def join(where: str = "") -> None:
    """Makes this process one of several; before anything is computed.

    where: "HOST:PORT,COUNT,INDEX" (where process 0 listens, how many there are, which this one is from 0), or "" on a
    cluster that JAX knows (Cloud TPU, Slurm, Open MPI, Kubernetes).
    Raises UserError for another form, an index beyond the count, and when no cluster is found.
    """
    if not where:
        try:
            jax.distributed.initialize()
        except (ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"no cluster was found ({reason}); say --distributed HOST:PORT,COUNT,INDEX") from error
        return
    match = re.fullmatch(r"([^,\s]+:\d+),(\d+),(\d+)", where)
    if not match:
        raise UserError(f"--distributed {where!r} is not HOST:PORT,COUNT,INDEX, such as 10.0.0.1:1234,2,0")
    count, index = int(match[2]), int(match[3])
    if index >= count:
        raise UserError(f"--distributed {where!r}: process {index} of {count}; nearest: {max(count - 1, 0)}")
    try:
        jax.distributed.initialize(match[1], count, index)
    except RuntimeError as error:
        raise UserError(f"--distributed {where!r}: {str(error).splitlines()[0]}") from error


def leave(code: int) -> int:
    """The exit code of a process. One of several that failed ends here: it would wait for the others, and they for it."""
    if code and jax.distributed.is_initialized() and jax.process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def first_decides(action: Callable[[], None]) -> None:
    """Runs `action` in process 0; the others wait, and a UserError of it is raised in every process."""
    if jax.process_count() == 1:
        return action()
    said, failure = b"", None
    if jax.process_index() == 0:
        try:
            action()
        except BaseException as error:
            said, failure = str(error).encode()[:MOST] or b"process 0 failed", error
    note = np.frombuffer(said.ljust(MOST, b"\0"), np.uint8)
    told = bytes(np.asarray(multihost_utils.broadcast_one_to_all(note)))
    if failure is not None:
        raise failure
    if text := told.rstrip(b"\0").decode(errors="replace"):
        raise UserError(text)


def preempted(step: int) -> bool:
    """Whether the processes were asked to stop (SIGTERM to any of them) and have agreed that it is at this step."""
    if jax.process_count() == 1 or not jax.distributed.is_initialized():
        return False
    return bool(multihost_utils.reached_preemption_sync_point(step))


def everywhere(tree: PyTree, mesh: Mesh) -> PyTree:
    """Arrays that every process has -> copies on every device of the mesh."""
    if jax.process_count() == 1:
        return jax.device_put(tree, replicated(mesh))
    return jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree)


def whole_here(tree: PyTree, mesh: Mesh) -> PyTree:
    """Arrays spread over the processes -> whole copies on one device of this process; for all processes to call."""
    if jax.process_count() == 1:
        return tree
    copies = jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree)
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), copies)
