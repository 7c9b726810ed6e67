"""log p(x) by the probability-flow ODE, with error control (score SDE, arXiv 2011.13456, appendix D.2; FFJORD, 1810.01367).

Along an ODE dy / dphi = F(phi, y) the density obeys d log p / dphi = -div F. In the angle phi = arctan(sigma / alpha) and y =
x / n, n = sqrt(alpha^2 + sigma^2), F = cos(phi) eps_hat - sin(phi) x0_hat has no pole at either end (`adaptive`). So for x of
d entries at t_min, carried to x_T at t_max,

    log p(x) = log p_T(x_T) + d (log n_T - log n_min) + integral of div F over phi from phi(t_min) to phi(t_max).

It is the density of the model at t_min: of the data as they are noised there. p_T is N(0, sigma(t_max)^2 I), from which
sampling begins, unless the true terminal density is given.

div F is exact, by one derivative of the network an entry, or Hutchinson's estimate v . J v with E[v v^T] = I, unbiased;
Rademacher's v has the least variance and is exact where J is a multiple of the identity. A probe stays the same along its
trajectory, so that the ODE is one and the same for the error control.

Grey levels have no density. With u uniform over a cell of width c, -E[log p(x + u)] / d - log c is at least the model's mean
-log P(x) / d for levels (Theis et al., arXiv 1511.01844), and divided by log 2 it is in bits per dimension. The data
have to be fuzzy for the model as well: take the schedule from the noise level c / sqrt(12) on, the standard deviation of u
(`process.truncated.from_noise_level`), or it is asked about images finer than it ever saw.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion_jax.process.arguments import (
    above_zero,
    check_cond,
    check_denoise,
    check_function,
    check_schedule,
    data,
    known,
    whole,
)
from diffusion_jax.process.asking import predict
from diffusion_jax.process.bound import bits_per_dim
from diffusion_jax.sampling.guidance.steered import memory_of, structured
from diffusion_jax.sampling.sample import fold, held, hold, keys_by_example
from diffusion_jax.sampling.solvers.adaptive_ode import METHODS, angle, angular_velocity, evaluations, integrate
from diffusion_jax.typing import DenoiseFn, Prediction, PyTree, Schedule, UserError, one_of, pytree_dataclass

__all__ = ["DIVERGENCES", "Likelihood", "bits_per_dimension", "dequantise", "log_likelihood"]

ORDER = " (the order is denoise, schedule, x)"
DIVERGENCES = ("exact", "rademacher", "gaussian")


@pytree_dataclass
class Likelihood:
    """What `log_likelihood` found, by example.

    `log_prob` [batch] in nats is `log_prior` [batch], at the `latent` x_T [batch, ...], plus `change` [batch]. `nfe` [batch]
    counts the evaluations of the field: each is one of the denoiser and one derivative an entry (exact) or a probe.
    """

    log_prob: Any
    log_prior: Any
    change: Any
    latent: Any
    nfe: Any


def _check_axis(denoise: DenoiseFn, schedule: Schedule, x: Array, cond: PyTree) -> None:
    """UserError for a single point without the axis of the batch, which is told by a denoiser that does not take it."""
    if x.ndim > 1:
        return
    try:
        jax.eval_shape(lambda x: predict(denoise, x, jnp.full(x.shape, schedule.t_max, x.dtype), cond), x)
    except Exception as error:
        raise UserError(f"x has shape {x.shape}; x must be [batch, ...]: one example is x[None] ({error})") from error


def log_likelihood(
    denoise: DenoiseFn,
    schedule: Schedule,
    x: Array,
    *,
    key: Array | None = None,
    cond: PyTree = None,
    divergence: str = "exact",
    num_probes: int = 1,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    method: str = "tsit5",
    max_steps: int = 1000,
    prior: Callable[[Array], Array] | None = None,
) -> Likelihood:
    """log p(x | cond) in nats of each example of x [batch, ...], taken as the state at schedule.t_min.

    `divergence` is "exact", "rademacher" or "gaussian"; the last two draw `num_probes` probes an example from `key` (one,
    or one an example: a result depends neither on batch size nor on devices). Each example is solved to the tolerances by
    `method` of diffrax with steps of its own. `prior(x_T [batch, ...])` -> [batch] is the log density at t_max, a function
    or pytree; None is N(0, sigma(t_max)^2). `cond` is a pytree with leading axis batch. Other weights do not recompile.

    An example's error by step is held to the tolerances in the state, whose entries have the size of data or noise, and by
    itself in the log density. An error delta of the state near data of standard deviation s is about sqrt(d) delta / s nats.
    At the default tolerances mixtures of 8 dimensions and stds of .02 to 1 are within 2e-4 nats of the exact density, by 129
    to 164 evaluations in the mean, with `prior` exact; at 3e-6 within 4e-4 by 105 to 130; at 1e-5 within 2e-3 by 88 to 98.

    Raises UserError for x that is not finite, shapes that do not fit, an unknown divergence or method, a random one without
    key, guidance with momentum, a denoiser whose values are not finite, and where an example takes more than `max_steps`
    (the last two are log_prob -inf where they cannot be seen, within another jit).
    """
    one_of("divergence", divergence, DIVERGENCES)
    one_of("method", method, METHODS)
    whole("num_probes", num_probes)
    whole("max_steps", max_steps)
    above_zero("rtol", rtol)
    above_zero("atol", atol)
    check_denoise(denoise, ORDER)
    check_schedule(schedule, ORDER)
    if divergence != "exact" and key is None:
        raise UserError(f"divergence {divergence!r} draws probes: give it a key, or take 'exact'")
    x = data("x", x, clean=True, order=ORDER)
    check_cond(cond, x.shape[0])
    _check_axis(denoise, schedule, x, cond)
    if prior is not None:
        check_function(prior, "prior")
    if jax.tree.leaves(memory_of(denoise, x)):
        raise UserError("guidance with momentum has no ODE, and so no likelihood: take momentum 0")
    keys = keys_by_example(jax.random.key(0) if key is None else key, x.shape[0])
    settings = (divergence, num_probes, rtol, atol, method, max_steps)
    terminal = None if prior is None else structured(prior)
    found, done = _solve(hold(denoise), hold(schedule), x, keys, cond, terminal, settings)
    if known(done) and not np.asarray(done).all():
        example = int(np.flatnonzero(~np.asarray(done))[0])
        # Steps are refused one after the other where the field is no number: more of them would not help.
        pair = predict(denoise, x, jnp.asarray(schedule.t_min, jnp.float32), cond)
        if not all(np.isfinite(np.asarray(leaf)[example]).all() for leaf in (pair.x0, pair.eps)):
            raise UserError(f"the denoiser's values at example {example} and t_min are not finite: look at its weights")
        raise UserError(
            f"example {example} took more than max_steps {max_steps} at rtol {rtol} and atol {atol}: raise any of them"
        )
    return found


@functools.partial(jax.jit, static_argnames=("settings",))
def _solve(
    denoise: Any, schedule: Any, x: Array, keys: Array, cond: PyTree, prior: Any, settings: tuple[Any, ...]
) -> tuple[Likelihood, Array]:
    denoise, schedule = held(denoise), held(schedule)
    divergence, num_probes, rtol, atol, method, max_steps = settings
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    first, last = (jnp.asarray(t, x.dtype) for t in (schedule.t_min, schedule.t_max))
    entries = math.prod(x.shape[1:])

    def bound(x: Array, t: Array) -> Prediction:
        return jax.tree.map(lambda leaf: leaf.astype(x.dtype), predict(denoise, x, t, cond))

    probes = None
    if divergence != "exact":
        probes = jnp.stack([_probe(fold(keys, i), x, divergence) for i in range(num_probes)])

    def field(phi: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        # In reverse: the Jacobian's transpose has the same trace and v . J v, and fused attention has this mode alone.
        velocity, pulled = jax.vjp(lambda y: angular_velocity(bound, schedule, phi, y), state[0])

        def derivative(v: Array) -> Array:
            return pulled(v)[0]

        if probes is None:
            return velocity, _trace(derivative, velocity)
        return velocity, _hutchinson(derivative, probes)

    norms = [jnp.sqrt(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2) for t in (first, last)]
    ends = [angle(schedule, t) for t in (first, last)]
    begin = (x / norms[0], jnp.zeros(x.shape[:1], x.dtype))
    (y, gained), done, attempts = integrate(
        field, begin, *ends, rtol=rtol, atol=atol, method=method, max_steps=max_steps, norm=_larger
    )
    latent = norms[1] * y
    change = gained + entries * (jnp.log(norms[1]) - jnp.log(norms[0]))
    log_prior = _standard(latent, schedule.sigma(last)) if prior is None else prior(latent)
    log_prob = jnp.where(done, log_prior + change, -jnp.inf)
    return Likelihood(log_prob, log_prior, change, latent, evaluations(method, attempts)), done


def _larger(scaled: tuple[Array, Array]) -> Array:
    """The norm of an example's error: the larger of that of the state and that of the log density.

    In a mean over all of their entries the one of the log density would count for less the more entries a state has.
    """
    state, gained = scaled
    # Above 0, where the root has a derivative.
    return jnp.maximum(jnp.sqrt(jnp.mean(state**2) + 1e-30), jnp.abs(gained))


def _probe(keys: Array, x: Array, kind: str) -> Array:
    draw = jax.random.rademacher if kind == "rademacher" else jax.random.normal
    return jax.vmap(lambda key: draw(key, x.shape[1:], x.dtype))(keys)


def _trace(derivative: Callable[[Array], Array], like: Array) -> Array:
    """sum_i (J^T e_i)_i of each example [batch]; one entry of the whole batch at a time."""
    entries = math.prod(like.shape[1:])

    def add(total: Array, i: Array) -> tuple[Array, None]:
        unit = jax.nn.one_hot(i, entries, dtype=like.dtype).reshape(1, *like.shape[1:])
        row = derivative(jnp.broadcast_to(unit, like.shape)).reshape(like.shape[0], -1)
        return total + jax.lax.dynamic_index_in_dim(row, i, axis=1, keepdims=False), None

    return jax.lax.scan(add, jnp.zeros(like.shape[:1], like.dtype), jnp.arange(entries))[0]


def _hutchinson(derivative: Callable[[Array], Array], probes: Array) -> Array:
    """The mean of v . J^T v over the probes [num_probes, batch, ...], by example [batch]."""

    def add(total: Array, v: Array) -> tuple[Array, None]:
        return total + jnp.sum((v * derivative(v)).reshape(v.shape[0], -1), axis=1), None

    return jax.lax.scan(add, jnp.zeros(probes.shape[1:2], probes.dtype), probes)[0] / probes.shape[0]


def _standard(x: Array, sigma: Array) -> Array:
    """log N(x; 0, sigma^2 I) of each example [batch]."""
    entries = math.prod(x.shape[1:])
    square = jnp.sum((x / sigma).reshape(x.shape[0], -1) ** 2, axis=1)
    return -0.5 * square - entries * (0.5 * math.log(2.0 * math.pi) + jnp.log(sigma))


def _check_levels(x0: Array, levels: int) -> None:
    if levels < 2:
        raise UserError(f"levels {levels} are not at least 2; images of 8 bits have 256")
    if not known(x0):
        return
    values = np.asarray(x0, np.float64)
    if not np.isfinite(values).all():
        raise UserError(f"x0 holds a value that is not finite: {values[~np.isfinite(values)][0]}")
    low, high = values.min(), values.max()
    if low < -1 - 1e-3 or high > 1 + 1e-3:
        raise UserError(
            f"x0 goes from {low:g} to {high:g}: bits per dimension need data in [-1, 1], as x = 2 k / {levels - 1} - 1 of "
            f"levels k = 0 .. {levels - 1}"
        )
    place = (values + 1) / 2 * (levels - 1)
    off = np.abs(place - np.round(place))
    if off.max() > 0.01:
        worst = place.flat[off.argmax()]
        raise UserError(
            f"x0 holds {2 * worst / (levels - 1) - 1:g}, which is none of {levels} levels from -1 to 1; "
            f"nearest: {2 * round(worst) / (levels - 1) - 1:g} (are there as many levels?)"
        )


def dequantise(x0: Array, key: Array, levels: int = 256) -> Array:
    """x0 [batch, ...] at levels 2 k / (levels - 1) - 1, each entry moved uniformly within its cell of 2 / (levels - 1).

    Drawn by example from `key` (one, or one an example). Raises UserError for data out of [-1, 1] or off the levels.
    """
    x0 = data("x0", x0)
    whole("levels", levels)
    _check_levels(x0, levels)
    keys = keys_by_example(key, x0.shape[0])
    x0 = x0.astype(jnp.promote_types(x0.dtype, jnp.float32))
    u = jax.vmap(lambda k: jax.random.uniform(k, x0.shape[1:], x0.dtype, -0.5, 0.5))(fold(keys, 0))
    return x0 + 2.0 / (levels - 1) * u


def bits_per_dimension(
    denoise: DenoiseFn,
    schedule: Schedule,
    x0: Array,
    key: Array | None = None,
    *,
    levels: int = 256,
    cond: PyTree = None,
    num_dequantisations: int = 1,
    **options: Any,
) -> Array:
    """Bits per dimension [batch] of x0 [batch, ...] at `levels` grey levels from -1 to 1, dequantised uniformly.

    The mean over `num_dequantisations` draws an example, each solved by itself; its expectation is the bound whatever their
    number. `options` are those of `log_likelihood`. Raises UserError as that, for data that were never scaled to [-1, 1],
    and for num_dequantisations below 1.
    """
    order = " (the order is denoise, schedule, x0, key)"
    check_denoise(denoise, order)
    check_schedule(schedule, order)
    whole("num_dequantisations", num_dequantisations)
    if key is None:
        raise UserError(
            "key is None: bits per dimension spread the levels at random, give a key such as jax.random.key(0)"
        )
    x0 = data("x0", x0, order=order)
    keys = keys_by_example(key, x0.shape[0])
    nats = jnp.zeros(x0.shape[:1], jnp.float32)
    for draw in range(num_dequantisations):
        x = dequantise(x0, fold(keys, 2 * draw), levels)
        nats = nats - log_likelihood(denoise, schedule, x, key=fold(keys, 2 * draw + 1), cond=cond, **options).log_prob
    return bits_per_dim(nats / num_dequantisations, math.prod(x0.shape[1:])) - math.log2(2.0 / (levels - 1))
