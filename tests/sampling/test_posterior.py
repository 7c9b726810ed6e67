"""Inverse problems on Gaussian data, whose posterior is known: its field, its samples, and how far DPS is from it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.process import EDM, RectifiedFlow, VPLinear, exact
from diffusion_jax.sampling import (
    DDIM,
    DDPM,
    PNDM,
    AdaptiveODE,
    DPMSolverPP,
    EDMStochastic,
    Euler,
    Heun,
    UniPC,
    initial_noise,
    logsnr_uniform,
    sample,
    trace,
    uniform,
)
from diffusion_jax.sampling.editing.dps import DPS
from diffusion_jax.sampling.editing.pigdm import conjugate_gradients, pigdm
from diffusion_jax.typing import Prediction, Solver, UserError

MEAN, STD, NOISE = np.array([0.4, -0.3, 0.1, 0.2]), 0.6, 0.15
MATRIX = np.array([[1.0, 0.5, -0.2, 0.3], [0.1, -0.7, 0.4, 0.9], [0.6, 0.2, 0.8, -0.5]])
OPERATORS = {
    "mask": (lambda x: x[:, jnp.array([0, 2])], np.eye(4)[[0, 2]]),
    "same shape": (lambda x: x * jnp.array([[1.0, 0.0, 1.0, 0.0]]).astype(x.dtype), np.diag([1.0, 0.0, 1.0, 0.0])),
    "pooling": (lambda x: x.reshape(-1, 2, 2).mean(-1), np.kron(np.eye(2), [[0.5, 0.5]])),
    "matrix": (lambda x: x @ jnp.asarray(MATRIX.T, x.dtype), MATRIX),
}
Y = np.array([[0.9, -0.5, 0.3, 0.2]])
SCHEDULES = [VPLinear(), EDM(), RectifiedFlow()]


def matmul(matrix, x):
    return x @ matrix.T


def gaussian(schedule, dtype=jnp.float32):
    return exact.gaussian(schedule, jnp.asarray(MEAN, dtype), jnp.asarray(STD, dtype))


def posterior(matrix, noise=NOISE, y=Y):
    """Mean and covariance of x0 given y."""
    gain = STD**2 * matrix.T @ np.linalg.inv(STD**2 * matrix @ matrix.T + noise**2 * np.eye(len(matrix)))
    return MEAN + gain @ (y[0, : len(matrix)] - matrix @ MEAN), STD**2 * (np.eye(4) - gain @ matrix)


def wanted_pair(schedule, x, t, mean, covariance):
    """The exact pair at x for data N(mean, covariance)."""
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    inverse = np.linalg.inv(alpha**2 * covariance + sigma**2 * np.eye(4))
    scaled = (np.asarray(x, np.float64) - alpha * mean) @ inverse
    return mean + alpha * scaled @ covariance, sigma * scaled


@pytest.mark.parametrize(
    ("schedule", "name"),
    [
        pytest.param(s, n, marks=() if (i + j) % 2 == 0 else pytest.mark.slow, id=f"{type(s).__name__}-{n}")
        for i, s in enumerate(SCHEDULES)
        for j, n in enumerate(OPERATORS)
    ],
)
def test_the_field_of_pigdm_is_the_exact_posteriors(schedule, name):
    """At both ends too: where alpha is 0 the guided x0 is the posterior's mean."""
    operator, matrix = OPERATORS[name]
    mean, covariance = posterior(matrix)
    guided = pigdm(gaussian(schedule), operator, Y[:, : len(matrix)], NOISE, STD, schedule=schedule)
    ask = jax.jit(lambda guided, x, t: guided(x, t))
    for t in (1.0, 0.7, 0.2, 0.02, 1e-3, 0.0):
        t = jnp.float32(t)
        clean = np.asarray(jax.random.normal(jax.random.key(1), (5, 4))) * 0.5
        noise = np.asarray(jax.random.normal(jax.random.key(2), (5, 4)))
        x = jnp.asarray(float(schedule.alpha(t)) * clean + float(schedule.sigma(t)) * noise)
        got, (x0, eps) = ask(guided, x, t), wanted_pair(schedule, x, t, mean, covariance)
        np.testing.assert_allclose(got.eps, eps, atol=5e-6)
        np.testing.assert_allclose(got.x0, x0, atol=2e-6)


@functools.cache
def probes():
    return np.concatenate([np.zeros((1, 4)), np.eye(4)])


def law(schedule, model, solver, ts, mean, covariance):
    """Mean and covariance of the samples of what begins as N(mean, covariance): the whole run is affine."""
    out = np.asarray(sample(model, schedule, solver, jnp.asarray(probes()), ts, jax.random.key(0)))
    gains = (out[1:] - out[0]).T
    return out[0] + gains @ mean, gains @ covariance @ gains.T


def at_the_start(schedule, mean, covariance, t=1.0):
    alpha, sigma = float(schedule.alpha(jnp.float64(t))), float(schedule.sigma(jnp.float64(t)))
    return alpha * mean, alpha**2 * covariance + sigma**2 * np.eye(4)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("name", ["pooling", "matrix"])
def test_samples_under_pigdm_are_the_posteriors(schedule, name):
    operator, matrix = OPERATORS[name]
    mean, covariance = posterior(matrix)
    with jax.enable_x64(True):
        model = gaussian(schedule, jnp.float64)
        guided = pigdm(model, operator, jnp.asarray(Y[:, : len(matrix)]), NOISE, STD, schedule=schedule)
        ts = logsnr_uniform(120, schedule, logsnr_max=14.0)
        found = law(schedule, guided, DPMSolverPP(3), ts, *at_the_start(schedule, mean, covariance))
    errors = [np.abs(f - w).max() for f, w in zip(found, (mean, covariance), strict=True)]
    assert errors[0] < 1e-6 and errors[1] < 3e-5


def test_dps_on_gaussian_data_is_biased_and_pigdm_is_not():
    """zeta grad ||.||^2 at every step, with DDIM: no weight gives mean and covariance both, however fine the grid.

    Unguided, the mean errs by .63 and the covariance by .28; at the best zeta DPS's worse error is .018 (200 and 800 steps
    alike), of a posterior with standard deviations of .11 to .15 along y: too large a zeta takes the variance along y away, too
    small a one leaves the mean behind. PiGDM errs by DDIM's steps, .0047 in the covariance and 1e-8 in the mean.
    """
    schedule, (operator, matrix) = VPLinear(), OPERATORS["matrix"]
    mean, covariance = posterior(matrix)
    with jax.enable_x64(True):
        model, y = gaussian(schedule, jnp.float64), jnp.asarray(Y[:, :3])
        start = at_the_start(schedule, mean, covariance)

        def errors(model, solver, steps):
            found = law(schedule, model, solver, logsnr_uniform(steps, schedule), *start)
            return [np.abs(f - w).max() for f, w in zip(found, (mean, covariance), strict=True)]

        guided = [errors(pigdm(model, operator, y, NOISE, STD, schedule=schedule), DDIM(), n) for n in (200, 800)]
        best = {}
        for n in (200, 800):
            zetas = np.array([0.003, 0.007, 0.01, 0.013, 0.016, 0.02, 0.04, 0.1]) * 200 / n
            dps = [max(errors(model, DPS(DDIM(), operator, y, zeta, normalised=False), n)) for zeta in zetas]
            best[n] = min(dps)
        unguided = errors(model, DDIM(), 200)
    print("unguided", unguided, "DPS", best, "PiGDM", guided)
    assert guided[0][0] < 1e-6 and guided[1][1] < guided[0][1] / 3
    assert 0.015 < best[800] < 0.03 and 0.015 < best[200] < 0.03
    assert max(unguided) > 20 * best[200]


@pytest.mark.parametrize("normalised", [True, False])
def test_a_step_of_dps_is_its_closed_form(normalised):
    """J = alpha s^2 / V on Gaussian data: x_next - zeta grad, grad ||r|| = -J A^T r / ||r||."""
    schedule, (operator, matrix) = VPLinear(), OPERATORS["matrix"]
    x, zeta = jax.random.normal(jax.random.key(1), (5, 4)), jnp.array([0.0, 0.1, 0.5, 1.0, 2.0])
    t, t_next = jnp.float32(0.6), jnp.float32(0.4)
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    pair = gaussian(schedule)(x, t)
    residual = Y[:, :3] - np.asarray(pair.x0) @ matrix.T
    gradient = -alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * residual @ matrix
    gradient = gradient / np.linalg.norm(residual, axis=1, keepdims=True) if normalised else 2 * gradient
    plain = float(schedule.alpha(t_next)) * pair.x0 + float(schedule.sigma(t_next)) * pair.eps
    solver = DPS(DDIM(), operator, Y[:, :3], zeta, normalised)
    got, _ = solver.step(gaussian(schedule), schedule, x, t, t_next, jax.random.split(jax.random.key(0), 5), ())
    np.testing.assert_allclose(got, plain - np.asarray(zeta)[:, None] * gradient, rtol=1e-4, atol=1e-5)


def test_dps_takes_operators_that_are_not_linear_and_rests_where_nothing_is_left(key):
    schedule, x = VPLinear(), jax.random.normal(jax.random.key(1), (3, 4))
    model, t, s = gaussian(schedule), jnp.float32(0.6), jnp.float32(0.4)
    keys = jax.random.split(key, 3)

    @jax.jit
    def step(solver):
        return solver.step(model, schedule, x, t, s, keys, ())[0]

    got = step(DPS(DDIM(), jnp.tanh, jnp.zeros((1, 4)), 0.3))
    gradient = jax.jit(jax.vmap(jax.grad(lambda x: jnp.linalg.norm(jnp.tanh(model(x[None], t).x0[0])))))(x)
    plain, _ = DDIM().step(model, schedule, x, t, s, keys, ())
    np.testing.assert_allclose(got, plain - 0.3 * gradient, rtol=1e-4, atol=1e-6)
    met = step(DPS(DDIM(), lambda x: x, model(x, t).x0, 0.3))
    np.testing.assert_allclose(met, plain, rtol=1e-6, atol=1e-6)


COUNTED = [
    DDIM(),
    EDMStochastic(s_churn=2.0),
    *(pytest.param(s, marks=pytest.mark.slow) for s in (Heun(), PNDM(), UniPC(3))),
]


@pytest.mark.parametrize("inner", COUNTED, ids=lambda s: type(s).__name__)
def test_dps_asks_the_network_as_often_as_told(inner):
    """As often as its solver, but for a churn, which does not begin at (x, t)."""
    schedule, calls, ts = VPLinear(), [], uniform(5)
    model = gaussian(schedule)

    @jax.custom_jvp
    def counted(x):
        jax.debug.callback(lambda: calls.append(1))
        return x

    counted.defjvp(lambda primals, tangents: (counted(primals[0]), tangents[0]))
    solver = DPS(inner, OPERATORS["pooling"][0], jnp.asarray(Y[:, :2], jnp.float32), 0.1)
    x1 = initial_noise(jax.random.key(1), (1, 4), schedule)
    run = sample(lambda x, t, cond: model(counted(x), t), schedule, solver, x1, ts, jax.random.key(2))
    run.block_until_ready()
    jax.effects_barrier()
    told = int(trace(model, schedule, solver, x1, ts, jax.random.key(2)).nfe)
    plain = int(trace(model, schedule, inner, x1, ts, jax.random.key(2)).nfe)
    assert told == len(calls) == plain + (5 if isinstance(inner, EDMStochastic) else 0)


def test_without_information_the_field_is_unguided():
    schedule, x = VPLinear(), jax.random.normal(jax.random.key(1), (3, 4))
    model, y = gaussian(schedule), jnp.asarray(Y, jnp.float32)
    for t in (1.0, 0.5, 0.0):
        t = jnp.float32(t)
        for guided in (
            pigdm(model, lambda x: x, y, 1e6, STD, schedule=schedule),
            pigdm(model, lambda x: 0.0 * x, y, NOISE, STD, schedule=schedule),
            pigdm(model, lambda x: 0.0 * x, y, 0.0, STD, schedule=schedule),
            pigdm(model, lambda x: x, y, NOISE, STD, scale=0.0, schedule=schedule),
        ):
            got, plain = guided(x, t), model(x, t)
            np.testing.assert_allclose(got.x0, plain.x0, atol=1e-6)
            np.testing.assert_allclose(got.eps, plain.eps, atol=1e-6)


def test_without_noise_the_samples_meet_the_data_exactly(key):
    schedule, (operator, _) = RectifiedFlow(), OPERATORS["matrix"]
    for y in (jnp.asarray(Y[:, :3], jnp.float32), jax.random.normal(key, (6, 3))):
        guided = pigdm(gaussian(schedule), operator, y, 0.0, STD, schedule=schedule)
        x0 = sample(guided, schedule, Heun(), initial_noise(key, (6, 4)), logsnr_uniform(40, schedule), key)
        np.testing.assert_allclose(operator(x0), jnp.broadcast_to(y, (6, 3)), atol=1e-4)


def test_settings_of_each_example_equal_separate_calls():
    schedule, (operator, _) = EDM(), OPERATORS["matrix"]
    x, y = jax.random.normal(jax.random.key(1), (3, 4)), jax.random.normal(jax.random.key(2), (3, 3))
    settings = {"noise_std": [0.05, 0.2, 1.0], "data_std": [0.4, 0.6, 2.0], "scale": [0.5, 1.0, 3.0]}
    ts = jnp.array([0.5, 0.01, 0.001])
    ask = jax.jit(lambda guided, x, t: guided(x, t))
    together = ask(pigdm(gaussian(schedule), operator, y, **map_values(jnp.array, settings), schedule=schedule), x, ts)
    for i in range(3):
        one = map_values(lambda v: v[i], settings)  # noqa: B023
        alone = ask(pigdm(gaussian(schedule), operator, y[i : i + 1], **one, schedule=schedule), x[i : i + 1], ts[i])
        np.testing.assert_allclose(alone.x0[0], together.x0[i], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(alone.eps[0], together.eps[i], rtol=1e-5, atol=1e-6)


def map_values(fn, mapping):
    return {name: fn(value) for name, value in mapping.items()}


def test_conjugate_gradients_solve_each_example_for_itself():
    with jax.enable_x64(True):
        root = np.random.default_rng(0).normal(size=(3, 6, 6))
        matrix = jnp.asarray(root @ root.transpose(0, 2, 1) + np.eye(6)[None])
        b = jnp.asarray(np.random.default_rng(1).normal(size=(3, 6)) * np.array([[1e-6], [1.0], [0.0]]))

        def solve(matrix, b):
            return conjugate_gradients(lambda v: jnp.einsum("bij,bj->bi", matrix, v), b, 30)

        got = solve(matrix, b)
        np.testing.assert_allclose(got, np.linalg.solve(matrix, b[..., None])[..., 0], rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(solve(matrix[:1], b[:1])[0], got[0], rtol=1e-12)
        slope = jax.grad(lambda b: jnp.sum(solve(matrix, b)))(b)
        np.testing.assert_allclose(slope, np.linalg.solve(matrix, np.ones((3, 6, 1)))[..., 0], rtol=1e-9)


def test_a_constant_in_the_operator_is_taken_off_the_data():
    schedule, (operator, _) = VPLinear(), OPERATORS["matrix"]
    x, y = jax.random.normal(jax.random.key(1), (3, 4)), jnp.asarray(Y[:, :3], jnp.float32)
    shifted = pigdm(gaussian(schedule), lambda x: operator(x) + 2.0, y + 2.0, NOISE, STD, schedule=schedule)
    plain = pigdm(gaussian(schedule), operator, y, NOISE, STD, schedule=schedule)
    np.testing.assert_allclose(shifted(x, 0.3).eps, plain(x, 0.3).eps, rtol=1e-4, atol=2e-5)


def test_other_values_do_not_recompile(key):
    from diffusion_jax.sampling.sample import _sample

    schedule, x1 = VPLinear(), jnp.ones((2, 4))
    for kind in ("pigdm", "dps"):
        before = _sample._cache_size()
        for shift in (0.0, 1.0):
            operator = jax.tree_util.Partial(matmul, jnp.asarray(MATRIX, jnp.float32) + shift)
            y = jnp.asarray(Y[:, :3], jnp.float32) + shift
            if kind == "pigdm":
                model, solver = (
                    pigdm(gaussian(schedule), operator, y, 0.1 + shift, STD, 1 + shift, schedule=schedule),
                    DDIM(),
                )
            else:
                model, solver = gaussian(schedule), DPS(DDIM(), operator, y, 0.1 + shift)
            sample(model, schedule, solver, x1 + shift, uniform(4), key)
        assert _sample._cache_size() - before == 1


def test_samples_do_not_depend_on_the_batch(key):
    schedule, y = VPLinear(), jax.random.normal(jax.random.key(2), (5, 3))
    operator = OPERATORS["matrix"][0]
    x1 = initial_noise(key, (5, 4), schedule)

    def run(n, dps):
        if dps:
            model, solver = gaussian(schedule), DPS(DDPM(), operator, y[:n], 0.3)
        else:
            model, solver = pigdm(gaussian(schedule), operator, y[:n], 0.2, STD, schedule=schedule), DDPM()
        return sample(model, schedule, solver, x1[:n], uniform(6), key)

    for dps in (True, False):
        np.testing.assert_allclose(run(2, dps), run(5, dps)[:2], rtol=1e-4, atol=1e-5)


def test_pigdm_keeps_the_learned_variance_and_the_condition():
    def model(x, t, cond):
        return Prediction(x * cond, x, variance=3.0 * x)

    x = jnp.ones((2, 4))
    guided = pigdm(model, OPERATORS["mask"][0], jnp.zeros((1, 2)), 0.1, schedule=VPLinear())
    got = guided(x, jnp.float32(0.5), jnp.full((2, 1), 0.5))
    np.testing.assert_array_equal(got.variance, 3.0 * x)
    assert float(got.x0[0, 0]) < 0.5 == float(got.x0[0, 1])


def test_they_are_what_they_say():
    assert isinstance(DPS(DDIM(), lambda x: x, jnp.zeros((1, 4)), 0.1), Solver)
    leaves = jax.tree.leaves(DPS(DDIM(), lambda x: x, jnp.zeros((1, 4)), 0.1))
    assert len(leaves) == 2


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        (jnp.tanh, "must be linear"),
        (lambda x: x * x, "must be linear"),
        (lambda x: x / jnp.sum(x, axis=1, keepdims=True), "must be linear"),
        (lambda x: x[:, :3], r"gives the shape \(2, 3\), but y has shape \(1, 4\)"),
        (lambda x: x.reshape(1, 8), r"gives the shape \(1, 8\)"),
        (lambda x: x @ jnp.ones((3, 3)), r"on a batch of shape \(2, 4\), fails: dot_general"),
        (lambda x: (x, x), "not an array of floats"),
    ],
)
def test_operators_that_do_not_fit_are_named(operator, message):
    schedule = VPLinear()
    y, linear = jnp.asarray(Y, jnp.float32), "linear" in message

    def never(x, t, cond=None):
        raise AssertionError("the network was traced")

    with pytest.raises(UserError, match=message) as caught:
        pigdm(never, operator, y, 0.1, schedule=schedule)(jnp.ones((2, 4)), jnp.float32(0.5))
    assert "\n" not in str(caught.value)
    if not linear:
        with pytest.raises(UserError, match=message):
            sample(never, schedule, DPS(DDIM(), operator, y, 0.1), jnp.ones((2, 4)), uniform(4), jax.random.key(0))


def test_bad_settings_are_named(key):
    schedule, y = VPLinear(), jnp.asarray(Y, jnp.float32)
    model, same = gaussian(schedule), lambda x: x
    bad = [
        (lambda: pigdm(model, same, y, -0.1, schedule=schedule), "noise_std -0.1"),
        (lambda: pigdm(model, same, y, 0.1, 0.0, schedule=schedule), "data_std 0 is not"),
        (lambda: pigdm(model, same, y, 0.1, scale=-1.0, schedule=schedule), "scale -1"),
        (lambda: pigdm(model, same, y, 0.1, schedule=schedule, iterations=0), "iterations 0"),
        (
            lambda: pigdm(model, same, y, jnp.ones(3), schedule=schedule)(jnp.ones((2, 4)), 0.5),
            r"noise_std has shape \(3,\)",
        ),
        (lambda: DPS(AdaptiveODE(), same, y, 0.1), "DPS cannot hold AdaptiveODE"),
        (lambda: DPS(DPS(Euler(), same, y, 0.1), same, y, 0.1), "DPS cannot hold DPS"),
    ]
    for zeta, message in ((-1.0, "zeta -1 is not"), (jnp.ones(3), r"zeta has shape \(3,\) for a batch of 2")):
        solver = DPS(DDIM(), same, y, zeta)
        bad.append((lambda s=solver: sample(model, schedule, s, jnp.ones((2, 4)), uniform(4), key), message))
    bad.append(
        (
            lambda: sample(model, schedule, DPS(DDIM(), MATRIX, y, 0.1), jnp.ones((2, 4)), uniform(4), key),
            "not a function",
        )
    )
    for make, message in bad:
        with pytest.raises(UserError, match=message) as caught:
            make()
        assert "\n" not in str(caught.value)
