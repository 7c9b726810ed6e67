"""Inversion: data taken back to noise by the exact flow.

**invert** runs the probability-flow ODE up the grid, from data to the noise that `sample` turns back into them. Explicit
solvers evaluate the pair at the lower end of each step, where the way down evaluates it at the upper one, so the round trip
errs by as much as the solver does. With `refinements` the step up is instead the solution x' of "DDIM's step from x' at t'
down to t gives x" (accelerated iterative inversion, arXiv 2309.04907), by as many fixed-point iterations: in the limit the
round trip is exact. With the angle phi = arctan(sigma / alpha), y = x / sqrt(alpha^2 + sigma^2), v = cos(phi) eps - sin(phi)
x0 and d = phi' - phi, DDIM's step down is y = cos(d) y' - sin(d) v(y', t'), and the iteration is

    y' <- (y + sin(d) v(y', t')) / cos(d).

Written with eps it does not contract at pure noise, and with x0 not near the data; with v it contracts at both ends, for
N(m, s^2) by tan(d) sin' cos' (1 - s^2) / (cos'^2 s^2 + sin'^2): at once for data of unit variance.

t = 0 is clean, and the network is not asked there, as in `sample`: the step away from it evaluates at its upper end. Where
noise is left at t = 0 (VE) `sample` ends by one more evaluation there, and `invert` begins by undoing it.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion_jax.process.arguments import known
from diffusion_jax.process.asking import predict
from diffusion_jax.process.denoiser import Denoiser
from diffusion_jax.process.sde import coefficients, expand
from diffusion_jax.sampling.arguments import check_solver, checked
from diffusion_jax.sampling.carried import carried, rounded
from diffusion_jax.sampling.guidance.steered import memory_of, structured
from diffusion_jax.sampling.sample import ends_in_noise_at, held, hold
from diffusion_jax.sampling.solvers.adaptive_ode import AdaptiveODE
from diffusion_jax.sampling.solvers.ddim import DDIM
from diffusion_jax.sampling.solvers.euler import Euler
from diffusion_jax.sampling.solvers.heun import Heun
from diffusion_jax.sampling.steps import Denoise
from diffusion_jax.typing import DenoiseFn, Prediction, PyTree, Schedule, Solver, UserError, one_of

__all__ = ["invert"]

_DDIM = DDIM()


def invert(
    denoise: DenoiseFn,
    schedule: Schedule,
    x0: Array,
    ts: Any,
    *,
    solver: Solver = _DDIM,
    cond: PyTree = None,
    refinements: int = 0,
    asked: str = "start",
) -> Array:
    """The noise [batch, ...] at ts[0] that `sample(denoise, schedule, solver, noise, ts, key, cond)` turns into x0.

    `ts` is the usual falling grid; x0 [batch, ...] is the state at its last time, clean where that is 0. The solver is DDIM(),
    Euler(), Heun() or AdaptiveODE(); n steps cost n evaluations, Heun's 2 n. `refinements` >= 0 (DDIM and Euler) add n each
    and bring DDIM's round trip towards exact, where steps are small enough for the iteration to contract: on a mixture 10
    of them at 80 steps leave 1e-9, while one step from sigma / alpha = .4 to clean data need not converge. Guided denoisers are
    inverted as they are; strong guidance asks for more steps.

    `asked` "target" tells the network of the time that a step goes to in place of the one that it starts from, whose noise x
    has, as published inversions of Stable Diffusion do (diffusers' DDIMInverseScheduler). It is for networks, with DDIM or
    Euler and without refinements.

    Raises UserError for another solver, a grid that does not fall, guidance with momentum, which is no ODE, and a denoiser that
    holds no network where it is to be `asked` at the target.
    """
    check_solver(solver, "")
    _check_solver(solver, refinements)
    ahead = one_of("asked", asked, ("start", "target")) == "target"
    order = " (the order is denoise, schedule, x0, ts)"
    x0, ts = checked(denoise, schedule, "x0", x0, ts, cond, clean=True, order=order)
    if jax.tree.leaves(memory_of(denoise, x0)):
        raise UserError("guidance with momentum has no ODE to invert: take momentum 0")
    noisy_end = ends_in_noise_at(schedule, ts)
    if ahead and (refinements or not isinstance(solver, DDIM | Euler)):
        raise UserError("asked 'target' goes with DDIM or Euler without refinements; nearest: asked='start'")
    if known(ts):
        times = rounded(ts, x0)
        if ahead and not _networks(denoise):
            raise UserError(
                "asked 'target' tells a network of another time, and the denoiser holds none; nearest: 'start'"
            )
        denoise, ts = carried(denoise, ts, times, ahead=ahead), times
    elif ahead:
        raise UserError("asked 'target' needs a grid that is not being traced; nearest: asked='start'")
    rising = jnp.asarray(ts)[::-1]
    return _invert(structured(denoise), hold(schedule), x0, rising, cond, solver, refinements, noisy_end, ahead)


def _networks(denoise: Any) -> bool:
    """Whether a denoiser holds a network that can be told another time."""
    parts = jax.tree.leaves(denoise, is_leaf=lambda part: isinstance(part, Denoiser))
    return any(isinstance(part, Denoiser) and known(part.schedule) for part in parts)


def _check_solver(solver: Any, refinements: Any) -> None:
    name = type(solver).__name__
    if isinstance(solver, DDIM) and solver.eta != 0:
        raise UserError(f"invert follows the ODE, which {solver!r} does not; nearest: DDIM()")
    if isinstance(solver, Euler | Heun) and solver.variable != "sigma":
        raise UserError(f"invert takes {name} in its (alpha, sigma) form, not {solver!r}; nearest: {name}()")
    if not isinstance(solver, DDIM | Euler | Heun | AdaptiveODE):
        raise UserError(f"invert cannot run {name} upwards: it takes DDIM, Euler, Heun or AdaptiveODE; nearest: DDIM()")
    if not isinstance(refinements, int | np.integer) or refinements < 0:
        raise UserError(f"refinements {refinements!r} is not a whole number of at least 0; nearest: 0")
    if refinements and not isinstance(solver, DDIM | Euler):
        raise UserError(f"refinements solve DDIM's step backwards, not {name}'s; nearest: refinements=0")


@functools.partial(jax.jit, static_argnames=("solver", "refinements", "noisy_end", "ahead"))
def _invert(
    denoise: Any,
    schedule: Any,
    x0: Array,
    ts: Array,
    cond: PyTree,
    solver: Any,
    refinements: int,
    noisy_end: bool | None,
    ahead: bool,
) -> Array:
    """x0 up the rising grid ts."""
    schedule = held(schedule)
    x = x0.astype(jnp.promote_types(x0.dtype, jnp.float32))
    ts = ts.astype(x.dtype)

    def bound(x: Array, t: Array) -> Prediction:
        pair = predict(denoise, x, t, cond)
        return jax.tree.map(lambda leaf: leaf.astype(x.dtype), Prediction(pair.x0, pair.eps))

    def begun(x: Array) -> Array:
        clean = jnp.ones((), x.dtype), jnp.zeros((), x.dtype)
        return _ddim_up(bound, schedule, x, clean, ts[0], ts[0], refinements).astype(x.dtype)

    if noisy_end:
        x = begun(x)
    elif noisy_end is None:
        noise_left = (ts[0] == 0) & (schedule.sigma(jnp.zeros((), x.dtype)) > 0)
        x = jax.lax.cond(noise_left, begun, lambda x: x, x)
    keys = jax.random.split(jax.random.key(0), x.shape[0])  # for AdaptiveODE's signature: nothing is drawn

    def body(x: Array, times: tuple[Array, Array]) -> tuple[Array, None]:
        t, later = times
        if isinstance(solver, AdaptiveODE):
            up = solver.step(bound, schedule, x, t, later, keys, solver.init(x))[0]
        elif isinstance(solver, Heun):
            up = _heun_up(bound, schedule, x, t, later)
        else:
            level = (schedule.alpha(t), schedule.sigma(t))
            up = _ddim_up(bound, schedule, x, level, t, later, refinements, at_clean=ahead)
        return up.astype(x.dtype), None

    return jax.lax.scan(body, x, (ts[:-1], ts[1:]))[0]


def _ddim_up(
    denoise: Denoise,
    schedule: Schedule,
    x: Array,
    level: tuple[Array, Array],
    t: Array,
    later: Array,
    refinements: int,
    at_clean: bool = False,
) -> Array:
    """x at t, where (alpha, sigma) is `level`, up to the time `later`; clean x is asked of there, or `at_clean` as it is."""
    clean = (level[1] == 0) & (not at_clean)
    alpha, sigma = (expand(part, x) for part in level)
    alpha_later, sigma_later = coefficients(schedule, later, x)
    pair = denoise(jnp.where(clean, alpha_later / alpha * x, x), jnp.where(clean, later, t))
    pair = Prediction(jnp.where(clean, x / alpha, pair.x0), pair.eps)
    guess = alpha_later * pair.x0 + sigma_later * pair.eps
    if not refinements:
        return guess
    norm, norm_later = jnp.sqrt(alpha**2 + sigma**2), jnp.sqrt(alpha_later**2 + sigma_later**2)
    cos = (alpha * alpha_later + sigma * sigma_later) / (norm * norm_later)
    sin = (alpha * sigma_later - sigma * alpha_later) / (norm * norm_later)

    def refined(guess: Array, _: None) -> tuple[Array, None]:
        pair = denoise(guess, later)
        v = (alpha_later * pair.eps - sigma_later * pair.x0) / norm_later
        # cos is 0 in one step from clean data to pure noise alone, which no step down can undo.
        return norm_later * (x / norm + sin * v) / jnp.maximum(cos, 1e-6), None

    return jax.lax.scan(refined, guess, None, length=refinements)[0]


def _heun_up(denoise: Denoise, schedule: Schedule, x: Array, t: Array, later: Array) -> Array:
    """The trapezoid rule upwards. Away from clean data the lower end's pair is (x / alpha, 0), what it tends to."""
    alpha, sigma = coefficients(schedule, t, x)
    alpha_later, sigma_later = coefficients(schedule, later, x)

    def first(x: Array) -> Prediction:
        return denoise(x, t)

    pair = jax.lax.cond(schedule.sigma(t) > 0, first, lambda x: Prediction(x / alpha, jnp.zeros_like(x)), x)
    second = denoise(x + (alpha_later - alpha) * pair.x0 + (sigma_later - sigma) * pair.eps, later)
    x0, eps = 0.5 * (pair.x0 + second.x0), 0.5 * (pair.eps + second.eps)
    return x + (alpha_later - alpha) * x0 + (sigma_later - sigma) * eps
