"""What one training step turns into its successor.

`params` and `ema` are nested dicts of float32 arrays. `frozen` (a text encoder, cached embeddings) takes part in the
step without changing and is not written to checkpoints; everything else is.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from diffusion_jax.parallel.hosts import everywhere
from diffusion_jax.parallel.mesh import replicated
from diffusion_jax.parallel.rules import Rules, path_of, shardings
from diffusion_jax.train.ema import Average
from diffusion_jax.typing import Params, PyTree, UserError, pytree_dataclass

__all__ = ["TrainState", "checkpointed", "init_state", "state_shardings"]


@pytree_dataclass
class TrainState:
    """`step` (int32 scalar) counts the steps done. `ema` is None without averaging; `aux` is the loss's own state.

    The fields are typed Any because the same class holds shapes, and shardings, in the place of the arrays.
    """

    step: Any
    params: Any
    ema: Any
    opt_state: Any
    aux: Any = None
    frozen: Any = None


def init_state(
    params: Params,
    tx: optax.GradientTransformation,
    ema: Average | None = None,
    frozen: PyTree = None,
    aux: PyTree = None,
    *,
    mesh: Mesh | None = None,
    rules: Rules = (),
) -> TrainState:
    """The state before the first step, with copies of `params` (training gives the state's buffers away).

    With a mesh the state is made where `rules` place it: the optimizer's state is never whole on one device.
    Raises `UserError` for a parameter that is not float32 (in lower precision small updates vanish, and what is not
    a float does not train: such a table belongs in `frozen`).
    """
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if leaf.dtype not in (jnp.float32, jnp.float64):
            raise UserError(f"parameter {path_of(key_path)!r} is {leaf.dtype}; parameters that train are float32")

    def make(params: Params, aux: PyTree) -> TrainState:
        def copy(tree: PyTree) -> PyTree:
            return jax.tree.map(lambda x: jnp.array(x, copy=True), tree)

        average = None if ema is None else copy(params)
        return TrainState(jnp.zeros((), jnp.int32), copy(params), average, tx.init(params), copy(aux))

    where = None if mesh is None else shardings(jax.eval_shape(make, params, aux), rules, mesh)
    state = jax.jit(make, out_shardings=where)(params, aux)
    if mesh is not None:
        frozen = everywhere(frozen, mesh)
    return dataclasses.replace(state, frozen=frozen)


def state_shardings(state: TrainState, rules: Rules, mesh: Mesh) -> TrainState:
    """A NamedSharding for each leaf of `state` (arrays or shapes): by `rules`, and replicated for what is frozen."""
    where = shardings(dataclasses.replace(state, frozen=None), rules, mesh)
    return dataclasses.replace(where, frozen=jax.tree.map(lambda _: replicated(mesh), state.frozen))


def checkpointed(state: TrainState) -> dict[str, Any]:
    """The part of a state that checkpoints hold, by the items in which they hold it."""
    return {
        "params": state.params,
        "ema": state.ema,
        "train": {"step": state.step, "opt_state": state.opt_state, "aux": state.aux},
    }
