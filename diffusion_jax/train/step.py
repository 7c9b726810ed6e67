"""One training step, for any loss: gradients, optimizer, average, metrics.

The step is pure: `make_train_step` closes over functions only, every array is an argument. The key of step n is
fold_in(key, n), so that a resumed run draws what the uninterrupted one would have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from diffusion_jax.train.ema import Average
from diffusion_jax.train.state import TrainState
from diffusion_jax.typing import Array, Batch, Context, LossFn, Params, PyTree

__all__ = ["make_eval_step", "make_train_step"]

Metrics = dict[str, Array]


def _reduced(loss_fn: LossFn) -> Callable[..., tuple[Array, tuple[Metrics, PyTree]]]:
    """The loss as a mean over the batch, beside its metrics as scalar means in float32."""

    def mean_loss(params: Params, ctx: Context, batch: Batch, key: Array) -> tuple[Array, tuple[Metrics, PyTree]]:
        per_example, metrics, aux = loss_fn(params, ctx, batch, key)
        if per_example.ndim != 1:
            raise ValueError(
                f"loss_fn gave a loss of shape {per_example.shape}; it gives one number an example, [batch]"
            )
        if taken := sorted({"loss", "grad_norm"} & metrics.keys()):
            raise ValueError(f"loss_fn gave the metric {taken[0]!r}, a name that the step itself uses")
        loss = jnp.mean(per_example.astype(jnp.float32))
        means = {name: jnp.mean(jnp.asarray(value, jnp.float32)) for name, value in metrics.items()}
        return loss, ({"loss": loss, **means}, aux)

    return mean_loss


def make_train_step(
    loss_fn: LossFn, tx: optax.GradientTransformation, ema: Average | None = None
) -> Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]:
    """step_fn(state, batch, key) -> (state, metrics), pure and not yet compiled.

    The loss's mean over the batch is differentiated in `params`. Metrics are float32 scalars: each of the loss's as its
    mean, "loss", and "grad_norm" (the global norm before any clipping).
    """
    mean_loss = _reduced(loss_fn)

    def step_fn(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, Metrics]:
        ctx = Context(state.step, state.ema, state.frozen, state.aux)
        key = jax.random.fold_in(key, state.step)
        (_, (metrics, aux)), grads = jax.value_and_grad(mean_loss, has_aux=True)(state.params, ctx, batch, key)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = state.ema if ema is None else ema.update(state.ema, params, state.step)
        metrics["grad_norm"] = optax.tree.norm(grads).astype(jnp.float32)
        state = dataclasses.replace(
            state, step=state.step + 1, params=params, ema=average, opt_state=opt_state, aux=aux
        )
        return state, metrics

    return step_fn


def make_eval_step(loss_fn: LossFn) -> Callable[[TrainState, Batch, Array], Metrics]:
    """eval_fn(state, batch, key) -> mean metrics of `params` by name and, if there is one, of `ema` as "ema_" + name.

    The key is used as it is, the same for both: a fixed key measures every step with the same noise.
    """
    mean_loss = _reduced(loss_fn)

    def eval_fn(state: TrainState, batch: Batch, key: Array) -> Metrics:
        ctx = Context(state.step, state.ema, state.frozen, state.aux)
        metrics = mean_loss(state.params, ctx, batch, key)[1][0]
        if state.ema is None:
            return metrics
        averaged = mean_loss(state.ema, ctx, batch, key)[1][0]
        return metrics | {f"ema_{name}": value for name, value in averaged.items()}

    return eval_fn
