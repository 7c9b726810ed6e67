"""A diffusion model as something to train and to sample from: its loss for the loop, and generation.

Training with classifier-free guidance in mind (arXiv 2207.12598, algorithm 1): in a share `drop` of the examples the
condition is replaced by the null condition, so that one network learns the conditional and the unconditional field.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from diffusion_jax.process.denoiser import denoiser
from diffusion_jax.process.importance import Importance
from diffusion_jax.process.loss import denoising_loss
from diffusion_jax.process.uncertainty import log_variance, uncertain
from diffusion_jax.process.weighting import Weight
from diffusion_jax.sampling import initial_noise, sample
from diffusion_jax.typing import Batch, Context, DenoiseFn, LossFn, Params, Schedule, Solver, UserError

__all__ = ["UNCERTAINTY", "diffusion_loss", "drop_condition", "example_keys", "generate"]

Dropping = Callable[[PyTree, PyTree, Array], PyTree]
"""(cond, null, key) -> cond with some of its examples dropped."""
UNCERTAINTY = "uncertainty"
"""Where the parameters of a learned uncertainty stand, beside the network's own, which takes no notice of them."""


def drop_condition(cond: PyTree, null: PyTree, drop: float, key: Array) -> PyTree:
    """`cond` with each example replaced by `null` (leading axis 1) with probability `drop`, all its entries together."""
    size = jax.tree.leaves(cond)[0].shape[0]
    dropped = jax.random.bernoulli(key, drop, (size,))

    def replace(c: Array, n: Array) -> Array:
        mask = dropped.reshape((size,) + (1,) * (c.ndim - 1))
        return jnp.where(mask, jnp.broadcast_to(n.astype(c.dtype), c.shape), c)

    return jax.tree.map(replace, cond, null)


def _all_entries(drop: float, cond: PyTree, null: PyTree, key: Array) -> PyTree:
    return drop_condition(cond, null, drop, key)


def diffusion_loss(
    apply: Callable[..., Any],
    schedule: Schedule,
    *,
    prediction: str = "v",
    time: str = "t1000",
    space: str = "v",
    weight: Weight,
    sample_t: Callable[..., Array] | Importance,
    drop: float | Dropping = 0.0,
    uncertainty: bool = False,
    sigma_data: float = 0.5,
    train: bool = True,
) -> LossFn:
    """The denoising loss of a batch {"image": [batch, ...], "cond": pytree or absent}, for `train.loop.fit`.

    With `drop` > 0, or a function that drops, the null condition is read from `ctx.frozen["null"]` (leading axis 1).
    Without `train` the network is asked as in sampling, without dropout.
    `prediction`, `time` and `sigma_data` as in `denoiser`; `space` is where the error is measured, `weight` a Weighting or a
    function of logsnr.

    With an `Importance` for `sample_t` the times follow `ctx.aux`, its state, first `sample_t.init()`; the loss returns
    the successor. With `uncertainty` the loss is L / e^u + u with u from `params["uncertainty"]`, first
    `process.uncertainty.init()`, and L itself is the metric "denoising_loss". Raises UserError where either is missing.
    """

    dropping: Dropping | None = drop if callable(drop) else functools.partial(_all_entries, drop) if drop > 0 else None

    def loss_fn(params: Params, ctx: Context, batch: Batch, key: Array) -> tuple[Array, dict[str, Array], Any]:
        key_drop, key_net, key_loss = (jax.random.fold_in(key, i) for i in range(3))
        cond = batch.get("cond")
        if cond is not None and dropping is not None:
            cond = dropping(cond, ctx.frozen["null"], key_drop)
        network = {name: value for name, value in params.items() if not (uncertainty and name == UNCERTAINTY)}
        denoise = denoiser(apply, network, schedule, prediction, time, key=key_net, train=train, sigma_data=sigma_data)
        key_t, size = jax.random.fold_in(key_loss, 0), batch["image"].shape[0]
        share = None
        if isinstance(sample_t, Importance):
            if ctx.aux is None:
                raise UserError(
                    "times drawn by importance need their state: ctx.aux is Importance(...).init() at first"
                )
            t, share = sample_t.sample(ctx.aux, key_t, size, schedule)
        else:
            t = sample_t(key_t, size, schedule)
        loss = denoising_loss(
            denoise, schedule, batch["image"], cond, key_loss, sample_t=lambda *_: t, weight=weight, space=space
        )
        aux = sample_t.update(ctx.aux, t, loss, schedule) if isinstance(sample_t, Importance) else ctx.aux
        metrics = {}
        if uncertainty:
            if UNCERTAINTY not in params:
                raise UserError(
                    "a learned uncertainty needs params['uncertainty'], at first process.uncertainty.init()"
                )
            metrics["denoising_loss"] = loss if share is None else loss * share
            loss = uncertain(loss, log_variance(params[UNCERTAINTY], schedule.logsnr(t)))
        return loss if share is None else loss * share, metrics, aux

    return loss_fn


def example_keys(seed: int, start: int, count: int) -> Array:
    """Keys of the examples `start` .. `start + count` of a generation: a function of the seed and the global index alone."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(start, start + count))


def generate(
    denoise: DenoiseFn,
    schedule: Schedule,
    solver: Solver,
    ts: np.ndarray,
    keys: Array,
    shape: tuple[int, ...],
    cond: PyTree = None,
    *,
    noise: Array | None = None,
) -> Array:
    """Samples [batch, *shape]: noise drawn from each example's key, or given [batch, *shape], then the one driver.

    `denoise` is guided already, or not; keys [batch]; cond leading axis batch; noise of unit variance.
    """
    if noise is None:
        x1 = initial_noise(keys, (keys.shape[0], *shape), schedule)
    else:
        x1 = schedule.sigma(jnp.float32(schedule.t_max)) * noise
    return sample(denoise, schedule, solver, x1, ts, keys, cond)
