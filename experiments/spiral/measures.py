"""What is measured on the spiral: functions of a DenoiseFn, a schedule and the points, each with its closed form beside it."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax import build
from diffusion_jax.metrics import energy_distance, energy_test, nearest_distance
from diffusion_jax.process import VE, from_x0
from diffusion_jax.process.precondition import c_in
from diffusion_jax.process.sde import noised
from diffusion_jax.sampling import (
    DDIM,
    DDPM,
    AdaptiveODE,
    classifier_free,
    initial_noise,
    log_likelihood,
    sample,
    trace,
    uniform,
)
from diffusion_jax.typing import Array, DenoiseFn, Schedule, Solver

SIGMA_MIN, SIGMA_MAX = 0.01, 10.0
NEAR = 0.05
"""A point of the data is reached when a sample lies within this distance."""
ARCS = (30, 30, 40)
"""The points of the three classes, from the inside out."""
COUNT = 2000
"""Samples of every measure."""


def spiral(count: int = 100) -> np.ndarray:
    """`count` points of the spiral, float32 [count, 2]: theta = pi / 2 + 5 pi u, radius theta / (5 pi)."""
    theta = np.pi / 2 + 5 * np.pi * np.linspace(0, 1, count)
    return (theta[:, None] * np.stack([np.cos(theta), np.sin(theta)], axis=1) / (5 * np.pi)).astype(np.float32)


def arcs() -> np.ndarray:
    """The class of each of the 100 points, [100]."""
    return np.repeat(np.arange(len(ARCS)), ARCS)


def shape(samples: np.ndarray, points: np.ndarray) -> dict[str, float]:
    """Where samples [n, 2] lie: distance to the data's mean, share of the points reached, distance to the curve."""
    return {
        "distance": float(np.linalg.norm(samples - points.mean(axis=0), axis=1).mean()),
        "covered": float((nearest_distance(points, samples) < NEAR).mean()),
        "off_curve": float(nearest_distance(samples, spiral(2000)).mean()),
    }


def walks(schedule: Schedule, points: np.ndarray, key: Array, count: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Random walks from data to noise under a schedule of alpha 1: (times [steps + 1], positions [steps + 1, count, 2]).

    x_{t'} = x_t + sqrt(sigma_{t'}^2 - sigma_t^2) z, which is exact at every step.
    """
    ts = jnp.linspace(0.0, 1.0, steps + 1)
    variance = schedule.sigma(ts) ** 2
    rises = jnp.sqrt(jnp.diff(variance, prepend=0.0))
    rows = jax.random.randint(jax.random.fold_in(key, 0), (count,), 0, len(points))
    z = jax.random.normal(jax.random.fold_in(key, 1), (steps + 1, count, 2))
    return np.asarray(ts), np.asarray(jnp.asarray(points)[rows][None] + jnp.cumsum(rises[:, None, None] * z, axis=0))


def noise_of_targets(
    denoise: DenoiseFn, apply: Any, params: Any, schedule: Schedule, points: np.ndarray, ts: Any, step: float
) -> dict[str, dict[str, list[float]]]:
    """Noise over signal when a network predicts one of four things, at times ts: {"target": {name: ...}, "gradient": ...}.

    With y the target and m = E[y | x_t], which is all that can be learned, the target's is E|y - m|^2 / E|m|^2, and the
    gradient's, with J the Jacobian of apply(params, x, logsnr) by its parameters, E|J^T (y - m)|^2 / E|J^T m|^2. The targets
    are the noise of the last step of size `step` in t, the total noise, x0 and v, each about its mean.
    """
    key, count, centre = jax.random.key(7), 4096, points.mean(axis=0, keepdims=True)
    x0 = jnp.asarray(points)[jax.random.randint(jax.random.fold_in(key, 0), (count,), 0, len(points))]
    centred, before, fresh = (
        x0 - centre,
        *(jax.random.normal(jax.random.fold_in(key, i), x0.shape) for i in (1, 2)),
    )

    def pulled(x: Array, level: Array, by: Array) -> Array:
        pull = jax.grad(lambda p: jnp.vdot(apply(p, x[None], level), by))(params)
        return sum((jnp.sum(g**2) for g in jax.tree.leaves(pull)), start=jnp.zeros(()))

    @jax.jit
    def power(x: Array, level: Array, by: Array) -> Array:
        return jnp.mean(jax.lax.map(lambda part: pulled(part[0], level[None], part[1]), (x, by), batch_size=64))

    found: dict[str, dict[str, list[float]]] = {"target": {}, "gradient": {}}
    for t in map(jnp.float32, ts):
        sigma, earlier = float(schedule.sigma(t)), float(schedule.sigma(t - step))
        std = np.sqrt(sigma**2 - earlier**2)
        eps = (earlier * before + std * fresh) / sigma
        xt = x0 + sigma * eps
        pair, level = denoise(xt, t), schedule.logsnr(t)
        seen, mean = xt * c_in(schedule, xt, t), pair.x0 - centre
        for name, y, m in (
            ("last step", fresh, std / sigma * pair.eps),
            ("total noise", eps, pair.eps),
            ("x0", centred, mean),
            ("v", eps - sigma * centred, pair.eps - sigma * mean),
        ):
            ratio = jnp.sum((y - m) ** 2) / jnp.sum(m**2)
            found["target"].setdefault(name, []).append(float(ratio))
            ratio = power(seen[:1024], level, (y - m)[:1024]) / power(seen[:1024], level, m[:1024])
            found["gradient"].setdefault(name, []).append(float(ratio))
    return found


def eps_loss(denoise: DenoiseFn, schedule: Schedule, points: np.ndarray, count: int = 100_000) -> float:
    """Mean squared error of eps a coordinate over t uniform in [0, 1], the same draws for every denoiser."""
    key = jax.random.key(9)
    t = (jnp.arange(count) + 0.5) / count
    x0 = jnp.asarray(points)[jax.random.randint(jax.random.fold_in(key, 0), (count,), 0, len(points))]
    eps = jax.random.normal(jax.random.fold_in(key, 1), x0.shape)
    return float(jnp.mean((denoise(noised(schedule, x0, eps, t), t).eps - eps) ** 2))


def known_share(denoise: DenoiseFn, schedule: Schedule, points: np.ndarray, sigmas: Any, count: int = 20_000) -> list:
    """1 - E|x0_hat - x0|^2 / Var[x0] at each noise level: 0 where the field points at the mean, 1 where it knows the point."""
    key, shares = jax.random.key(10), []
    x0 = jnp.asarray(points)[jnp.arange(count) % len(points)]
    eps = jax.random.normal(key, x0.shape)
    for sigma in sigmas:
        t = schedule.t_from_logsnr(jnp.float32(-2 * np.log(sigma)))
        found = denoise(noised(schedule, x0, eps, t), t).x0
        shares.append(float(1 - jnp.mean((found - x0) ** 2) / jnp.mean((x0 - points.mean(axis=0, keepdims=True)) ** 2)))
    return shares


def crossing(sigmas: np.ndarray, shares: Any, level: float = 0.5) -> float:
    """The noise level at which a share that falls with sigmas (rising) passes `level`, interpolated in log sigma."""
    return float(np.exp(np.interp(-level, -np.asarray(shares), np.log(sigmas))))


def attractors(denoise: DenoiseFn, schedule: Schedule, points: np.ndarray, sigma: float, limit: int = 100_000) -> int:
    """How many points x -> x0_hat(x, sigma) comes to rest at, from the data and their mean; in the dtype of the denoiser."""
    t = schedule.t_from_logsnr(jnp.asarray(-2 * np.log(sigma)))
    starts = jnp.concatenate([jnp.asarray(points), jnp.asarray(points).mean(0)[None]])
    x = _settle(denoise, t, starts.astype(jnp.asarray(t).dtype), limit)
    rests: list[np.ndarray] = []
    for place in np.asarray(x):
        if all(np.linalg.norm(place - rest) > 1e-3 for rest in rests):
            rests.append(place)
    return len(rests)


@jax.jit
def _settle(denoise: Any, t: Array, x: Array, limit: Any) -> Array:
    still = 1e-10 if x.dtype == jnp.float64 else 1e-6

    def moving(state: Any) -> Array:
        return (state[1] > still) & (state[2] < limit)

    def move(state: Any) -> Any:
        after = denoise(state[0], t).x0
        return after, jnp.abs(after - state[0]).max(), state[2] + 1

    return jax.lax.while_loop(moving, move, (x, jnp.ones((), x.dtype), 0))[0]


def draw(denoise: DenoiseFn, schedule: Schedule, solver: Solver, steps: int, seed: int, **more: Any) -> np.ndarray:
    """COUNT samples from the noise of `seed`; `more` may hold `cond` [n, ...], whose length then counts, and `noise` (x1)."""
    cond, key = more.get("cond"), jax.random.key(seed)
    count = COUNT if cond is None else len(cond)
    x1 = more.get("noise", initial_noise(key, (count, 2), schedule))
    return np.asarray(sample(denoise, schedule, solver, x1, uniform(steps, schedule), key, cond))


TABLE = {
    "N = 64, sigma max 10": (64, 10.0, {"DDPM": 0.570, "noise removed": 0.116, "DDIM": 0.586}),
    "N = 256, sigma max 1": (256, 1.0, {"DDPM": 0.586, "noise removed": 0.246, "DDIM": 0.548}),
}
"""Steps, largest noise level, and the mean distance to the data's mean that a perfect network would give."""
WAYS: dict[str, Solver] = {"DDPM": DDPM(), "noise removed": DDPM(temperature=0.0), "DDIM": DDIM()}


def table(
    make: Callable[[Schedule], DenoiseFn], points: np.ndarray, seed: int, tenth: bool = True
) -> tuple[dict, dict]:
    """({setting: {way: shape}}, {the same: samples}) of the denoisers `make(schedule)`, and DDIM in a tenth of the steps."""
    found: dict[str, dict[str, Any]] = {}
    samples: dict[str, dict[str, np.ndarray]] = {}
    for name, (steps, sigma_max, _) in TABLE.items():
        schedule = VE(SIGMA_MIN, sigma_max)
        ways = [(way, solver, steps) for way, solver in WAYS.items()]
        ways += [("DDIM, a tenth of the steps", DDIM(), steps // 10)] if tenth else []
        for way, solver, n in ways:
            x = draw(make(schedule), schedule, solver, n, seed)
            samples.setdefault(name, {})[way] = x
            found.setdefault(name, {})[way] = shape(x, points)
    return found, samples


def halved(denoise: DenoiseFn, schedule: Schedule) -> DenoiseFn:
    """The denoiser whose eps, and with it the score, is half as large: under the SDE, a drift that is wrong."""
    return from_x0(lambda x, t, cond: 0.5 * (x + denoise(x, t, cond).x0), schedule)


def marginals(
    denoise: DenoiseFn, schedule: Schedule, points: np.ndarray, steps: int, times: Any, seed: int
) -> list[dict]:
    """For each time, p-values of the energy test that samples of SDE, ODE and a wrong SDE are the data noised to it.

    A thousand points each, of independent noise; `paths` has the two true ones, [steps + 1, n, 2].
    """
    count, ts = 1000, uniform(steps, schedule)
    ways: dict[str, tuple[DenoiseFn, Solver]] = {
        "ODE": (denoise, DDIM()), "SDE": (denoise, DDPM()), "half the drift": (halved(denoise, schedule), DDPM()),
    }  # fmt: skip
    paths = {}
    for i, (name, (model, solver)) in enumerate(ways.items()):
        key = jax.random.fold_in(jax.random.key(seed), i)
        paths[name] = np.asarray(trace(model, schedule, solver, initial_noise(key, (count, 2), schedule), ts, key).xs)
    rows = []
    for j, t in enumerate(times):
        at = int(np.argmin(np.abs(ts - t)))
        key = jax.random.fold_in(jax.random.key(seed), 100 + j)
        x0 = jnp.asarray(points)[jax.random.randint(jax.random.fold_in(key, 0), (count,), 0, len(points))]
        eps = jax.random.normal(jax.random.fold_in(key, 1), x0.shape)
        true = np.asarray(noised(schedule, x0, eps, jnp.float32(ts[at])))
        tests = {name: energy_test(xs[at], true) for name, xs in paths.items()}
        tests["SDE against ODE"] = energy_test(paths["SDE"][at], paths["ODE"][at])
        row: dict[str, Any] = {"t": float(ts[at]), "sigma": float(schedule.sigma(jnp.float32(ts[at])))}
        rows.append(row | {name: test._asdict() for name, test in tests.items()})
    return rows


def path(denoise: DenoiseFn, schedule: Schedule, solver: Solver, steps: int, seed: int, count: int = 300) -> np.ndarray:
    """The states [steps + 1, count, 2] of samples on their way."""
    key = jax.random.key(seed)
    x1 = initial_noise(key, (count, 2), schedule)
    return np.asarray(trace(denoise, schedule, solver, x1, uniform(steps, schedule), key).xs)


def arc_of(samples: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The class of the data point nearest to each sample."""
    return arcs()[np.argmin(np.linalg.norm(samples[:, None] - points[None], axis=2), axis=1)]


def one_hot(classes: Any) -> np.ndarray:
    """Conditions [n, 3] of classes [n]; a class of -1 is no condition."""
    return (np.asarray(classes)[:, None] == np.arange(len(ARCS))).astype(np.float32)


NULL = one_hot([-1])


def guidance(denoise: DenoiseFn, schedule: Schedule, points: np.ndarray, scales: Any, steps: int, seed: int) -> tuple:
    """([{scale, accuracy, covered, ...}], {scale: (samples, classes)}): all scales in one call, a scale an example."""
    classes = np.arange(COUNT) % len(ARCS)
    every = np.repeat(np.asarray(scales, np.float32), COUNT)
    guided = classifier_free(denoise, NULL, every)
    noise = jnp.tile(initial_noise(jax.random.key(seed), (COUNT, 2), schedule), (len(scales), 1))
    x = draw(guided, schedule, DDIM(), steps, seed, cond=np.tile(one_hot(classes), (len(scales), 1)), noise=noise)
    rows, samples = [], {}
    for scale, part in zip(scales, x.reshape(len(scales), COUNT, 2), strict=True):
        right = arc_of(part, points) == classes
        rows.append({"scale": float(scale), "accuracy": float(right.mean()), "off_class": float(1 - right.mean())})
        rows[-1] |= shape(part, points)
        samples[float(scale)] = part, classes
    return rows, samples


def negatives(denoise: DenoiseFn, schedule: Schedule, points: np.ndarray, scale: float, steps: int, seed: int) -> tuple:
    """Samples kept away from each arc: without a positive prompt, and with the arc beside it as one; rows and samples.

    `unguided` and `negative` are the shares of samples in the arc that is not wanted, `off_class` those in any but the arc
    asked for, and `off_curve` the samples' mean distance to the curve.
    """
    rows, samples = [], {}
    for unwanted in range(len(ARCS)):
        for wanted in (None, 1 if unwanted != 1 else 2):
            cond = np.repeat(one_hot([-1 if wanted is None else wanted]), COUNT, axis=0)
            avoiding = classifier_free(denoise, NULL, scale, negative=one_hot([unwanted]))
            row: dict[str, Any] = {"unwanted": unwanted, "wanted": wanted}
            for name, model in (("unguided", denoise), ("negative", avoiding)):
                x = draw(model, schedule, DDIM(), steps, seed, cond=cond)
                found = arc_of(x, points)
                row[name] = float((found == unwanted).mean())
                row[f"off_curve_{name}"] = shape(x, points)["off_curve"]
                if wanted is not None:
                    row[f"off_class_{name}"] = float((found != wanted).mean())
                samples[unwanted, wanted, name] = x
            rows.append(row)
    return rows, samples


def solvers(
    denoise: DenoiseFn, schedule: Schedule, points: np.ndarray, budgets: Any, seed: int, say: Any
) -> list[dict]:
    """For each solver of the library and each number of evaluations: energy distance to the data, and coverage."""
    rows: list[dict] = []
    x1, key = initial_noise(jax.random.key(seed), (COUNT, 2), schedule), jax.random.key(seed)
    for name in build.SOLVERS:
        for budget in budgets:
            solver = build.solver(name) if name != "adaptive_ode" else AdaptiveODE(10.0 / budget**2, 10.0 / budget**2)
            steps = _steps_within(solver, schedule, budget)
            if steps is None:
                continue
            found = trace(denoise, schedule, solver, x1, uniform(steps, schedule), key)
            x = np.asarray(found.x0)
            row = {"solver": name, "budget": budget, "evaluations": float(np.mean(found.nfe)), "steps": steps}
            rows.append(row | {"error": energy_distance(x, points), "covered": shape(x, points)["covered"]})
        say(name)
    return rows


def _steps_within(solver: Any, schedule: Schedule, budget: int) -> int | None:
    """The most steps whose evaluations, with the last look at the clean data, stay within the budget; None for none."""
    if hasattr(solver, "counted"):
        return 1

    def calls(steps: int) -> int:
        made = solver.over(steps) if hasattr(solver, "over") else solver
        ts = jnp.asarray(uniform(steps, schedule))
        return 1 + (int(made.evaluations(schedule, ts)) if hasattr(made, "evaluations") else steps)

    return bisect.bisect_right(range(1, budget), budget, key=calls) or None


def likelihood(denoise: DenoiseFn, true: Any, schedule: Schedule, points: np.ndarray, count: int, seed: int) -> dict:
    """log p of draws from the data smoothed at the smallest sigma: under the model, and of the exact density; nats, [n]."""
    key = jax.random.key(seed)
    x0 = jnp.asarray(points)[jax.random.randint(jax.random.fold_in(key, 0), (count,), 0, len(points))]
    x = x0 + schedule.sigma(jnp.float32(0)) * jax.random.normal(jax.random.fold_in(key, 1), x0.shape)
    return {
        "model": np.asarray(log_likelihood(denoise, schedule, x, key=key).log_prob),
        "exact": np.asarray(true.log_density(x, jnp.float32(0))),
        "points": np.asarray(x),
    }
