"""Inversion by its round trip on a mixture, SDEdit at both ends of its strength, and paths between noises."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.process import EDM, VE, Discrete, RectifiedFlow, VPLinear, exact
from diffusion_jax.sampling import (
    DDIM,
    DDPM,
    AdaptiveODE,
    Euler,
    Heun,
    classifier_free,
    initial_noise,
    logsnr_uniform,
    sample,
    uniform,
)
from diffusion_jax.sampling.editing.img2img import img2img, tail
from diffusion_jax.sampling.editing.interpolation import interpolate, lerp, slerp
from diffusion_jax.sampling.editing.inversion import invert
from diffusion_jax.sampling.guidance.apg import apg
from diffusion_jax.typing import Prediction, UserError

MEANS, STDS, WEIGHTS = jnp.array([[-1.0], [0.8]]), jnp.array([0.25, 0.4]), jnp.array([0.3, 0.7])
X0 = jnp.linspace(-1.6, 1.8, 21)[:, None]
ZERO_SNR = Discrete("scaled_linear", zero_terminal_snr=True)


def two_blobs(schedule):
    return exact.mixture(schedule, MEANS, STDS, WEIGHTS)


def round_trip(schedule, solver, ts, refinements=0, x0=X0):
    noise = invert(two_blobs(schedule), schedule, x0, ts, solver=solver, refinements=refinements)
    back = sample(two_blobs(schedule), schedule, solver, noise, ts, jax.random.key(0))
    assert back.dtype == noise.dtype == x0.dtype
    return float(jnp.abs(back - x0).max())


@pytest.mark.parametrize(
    ("solver", "order"), [(DDIM(), 1), pytest.param(Euler(), 1, marks=pytest.mark.slow), (Heun(), 2)]
)
def test_the_round_trip_errs_by_the_order_of_the_solver(solver, order):
    """Down to t_min, where no step is clean; the trapezoid rule is nearly its own reverse and does better than its order."""
    schedule = VPLinear()
    with jax.enable_x64(True):
        found = []
        for n in (200, 800):
            ts = logsnr_uniform(n, schedule)[:-1]
            found.append(round_trip(schedule, solver, ts, x0=X0.astype(jnp.float64)))
    slope = np.log(found[0] / found[1]) / np.log(4)
    assert slope > order - 0.15
    assert found[1] < {1: 0.06, 2: 1e-4}[order]


def test_an_adaptive_round_trip_follows_its_tolerance():
    schedule, found = RectifiedFlow(), []
    with jax.enable_x64(True):
        for tolerance in (1e-3, 1e-6):
            solver = AdaptiveODE(tolerance, tolerance, method="bosh3")
            found.append(round_trip(schedule, solver, np.array([1.0, 0.0]), x0=X0.astype(jnp.float64)))
    assert found[0] < 0.5 and found[1] < found[0] / 100


SCHEDULES = [VPLinear(), RectifiedFlow(), VE(), EDM(), ZERO_SNR]


@pytest.mark.parametrize(
    "schedule",
    [pytest.param(s, marks=pytest.mark.slow if s in (RectifiedFlow(), VE()) else ()) for s in SCHEDULES],
    ids=lambda s: type(s).__name__,
)
def test_refinements_make_the_round_trip_exact(schedule):
    """From clean data to t_max, even where alpha is 0 there; in float32 and in steps that are not small."""
    ts = logsnr_uniform(30, schedule)
    plain, refined = (round_trip(schedule, DDIM(), ts, refinements=k) for k in (0, 20))
    assert plain > 0.1
    assert refined < 2e-5


def test_the_refined_noise_is_the_preimage_of_every_step():
    """Each step down from the state above gives the state below: not the round trip alone."""
    schedule, ts = RectifiedFlow(), np.array([1.0, 0.8, 0.55, 0.4, 0.3, 0.2, 0.1, 0.0])
    with jax.enable_x64(True):
        model, x0 = two_blobs(schedule), X0.astype(jnp.float64)
        for upper, lower in itertools.pairwise(ts):
            x = invert(model, schedule, x0, np.array([upper, lower]), refinements=300)
            pair = model(x, jnp.float64(upper))
            np.testing.assert_allclose((1 - lower) * pair.x0 + lower * pair.eps, x0, atol=1e-6)


def test_data_of_unit_variance_need_one_refinement():
    schedule = VPLinear()
    model, x0 = exact.gaussian(schedule, jnp.full(2, 0.4), 1.0), jnp.array([[-1.0, 0.3], [2.0, 0.5]])
    ts = np.array([1.0, 0.6, 0.3, 0.0])
    noise = invert(model, schedule, x0, ts, refinements=1)
    np.testing.assert_allclose(sample(model, schedule, DDIM(), noise, ts, jax.random.key(0)), x0, atol=3e-6)


@pytest.mark.parametrize("solver", [DDIM(), Heun()], ids=repr)
def test_the_network_is_never_asked_at_clean_data_and_as_often_as_told(solver):
    schedule, ts, asked = RectifiedFlow(), np.array([1.0, 0.5, 0.2, 0.0]), []
    model = two_blobs(schedule)

    def counting(x, t, cond):
        jax.debug.callback(lambda t: asked.append(float(t[0])), t)
        return model(x, t)

    refinements = 0 if isinstance(solver, Heun) else 2
    invert(counting, schedule, X0, ts, solver=solver, refinements=refinements).block_until_ready()
    jax.effects_barrier()
    assert min(asked) > 0.19
    assert len(asked) == (5 if isinstance(solver, Heun) else 9)


def test_inversion_takes_conditions_lower_precisions_and_traced_grids():
    schedule, ts = RectifiedFlow(), jnp.array([1.0, 0.6, 0.2, 0.0])

    def model(x, t, cond):
        x0 = jnp.tanh(x + cond["shift"]).astype(jnp.bfloat16)
        return Prediction(x0, ((x - (1 - t) * x0) / jnp.maximum(t, 1e-3)).astype(jnp.bfloat16))

    cond = {"shift": jnp.linspace(0.0, 1.0, len(X0))[:, None]}
    noise = invert(model, schedule, X0, ts, cond=cond)
    assert noise.dtype == jnp.float32
    assert float(jnp.abs(noise - invert(model, schedule, X0, ts, cond={"shift": 0 * cond["shift"]})).max()) > 0.1
    traced = jax.jit(lambda x, ts, cond: invert(model, schedule, x, ts, cond=cond))(X0, ts, cond)
    np.testing.assert_allclose(traced, noise, atol=1e-5)


def test_a_traced_grid_that_ends_in_noise_begins_by_undoing_the_last_evaluation():
    schedule = VE()
    model, ts = two_blobs(schedule), jnp.asarray(logsnr_uniform(10, schedule), jnp.float32)
    traced = jax.jit(lambda x, ts: invert(model, schedule, x, ts, refinements=2))(X0, ts)
    np.testing.assert_allclose(traced, invert(model, schedule, X0, ts, refinements=2), rtol=1e-5, atol=1e-4)


def test_weights_and_data_do_not_recompile():
    from diffusion_jax.sampling.editing.inversion import _invert

    before, ts = _invert._cache_size(), np.array([1.0, 0.5, 0.0])
    for shift in (0.0, 1.0):
        model = exact.mixture(VPLinear(), MEANS + shift, STDS, WEIGHTS)
        invert(model, VPLinear(), X0 + shift, ts, refinements=1)
    assert _invert._cache_size() - before == 1


def test_bad_inversions_are_named():
    schedule, ts = VPLinear(), np.array([1.0, 0.5, 0.0])
    model = two_blobs(schedule)
    bad = [
        ({"solver": DDPM()}, r"cannot run DDPM upwards.*nearest: DDIM\(\)"),
        ({"solver": DDIM(0.5)}, r"DDIM\(eta=0.5\) does not; nearest: DDIM\(\)"),
        ({"solver": Heun("t")}, r"\(alpha, sigma\) form, not Heun\(variable='t'\); nearest: Heun\(\)"),
        ({"refinements": -1}, "refinements -1"),
        ({"refinements": 2, "solver": Heun()}, "not Heun's"),
        ({"cond": jnp.ones((3, 2))}, r"\(3, 2\) for a batch of 21"),
        ({"ts": np.array([0.5, 1.0])}, "a grid falls"),
    ]
    for change, message in bad:
        with pytest.raises(UserError, match=message) as caught:
            invert(model, schedule, X0, **{"ts": ts, **change})
        assert "\n" not in str(caught.value)
    remembering = apg(model, jnp.zeros((1, 1)), 2.0, schedule=schedule, momentum=-0.5)
    with pytest.raises(UserError, match="take momentum 0"):
        invert(remembering, schedule, X0, ts, cond=jnp.zeros((len(X0), 1)))
    guided = classifier_free(lambda x, t, cond: model(x, t), jnp.zeros((1, 1)), 2.0)
    assert invert(guided, schedule, X0, ts, cond=jnp.zeros((len(X0), 1))).shape == X0.shape


def test_img2img_at_strength_one_is_sampling_from_noise(key):
    schedule, ts = RectifiedFlow(), uniform(8)
    for solver in (DDIM(), DDPM()):
        noise = initial_noise(key, X0.shape, schedule)
        wanted = sample(two_blobs(schedule), schedule, solver, noise, ts, key)
        got = img2img(two_blobs(schedule), schedule, solver, X0, ts, key, 1.0)
        np.testing.assert_array_equal(got, wanted)


def test_img2img_tends_to_the_image_as_the_strength_falls(key):
    schedule, ts = VPLinear(), uniform(200)
    moved = [
        float(jnp.abs(img2img(two_blobs(schedule), schedule, DDIM(), X0, ts, key, strength) - X0).mean())
        for strength in (0.005, 0.05, 0.4)
    ]
    assert moved[0] < 0.04 < moved[1] < moved[2]


def test_img2img_on_a_gaussian_is_its_closed_form(key):
    """One step to clean data: m + alpha s^2 (alpha x0 + sigma z - alpha m) / V, with the noise of `initial_noise`."""
    schedule, mean, std = EDM(), 0.3, 0.5
    ts = np.array([1.0, 0.02, 0.0])
    got = img2img(exact.gaussian(schedule, jnp.full(1, mean), std), schedule, DDIM(), X0, ts, key, 0.5)
    z, sigma = initial_noise(key, X0.shape), 80.0 * 0.02
    wanted = mean + std**2 * (X0 + sigma * z - mean) / (std**2 + sigma**2)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_img2img_does_not_depend_on_the_batch(key):
    schedule, ts = VPLinear(), uniform(10)
    whole = img2img(two_blobs(schedule), schedule, DDPM(), X0, ts, key, 0.5)
    part = img2img(two_blobs(schedule), schedule, DDPM(), X0[:3], ts, key, 0.5)
    np.testing.assert_allclose(part, whole[:3], rtol=1e-4, atol=1e-5)


def test_the_tail_of_a_grid():
    ts = uniform(10)
    for strength, steps in [(1.0, 10), (0.5, 5), (0.34, 3), (0.1, 1)]:
        np.testing.assert_array_equal(tail(ts, strength), ts[10 - steps :])
    for strength, message in [
        (0.0, "nearest: 0.1"),
        (1.2, "nearest: 1"),
        (float("nan"), "not in"),
        (0.04, "leaves no step"),
        (jnp.array([0.5, 0.6]), "is not one number"),
    ]:
        with pytest.raises(UserError, match=message):
            tail(ts, strength)


def vectors(shape=(3, 2, 4)):
    size = int(np.prod(shape))
    numbers = st.floats(-10, 10, width=32, allow_subnormal=False)
    return st.lists(numbers, min_size=size, max_size=size).map(lambda v: np.array(v, np.float32).reshape(shape))


def norms(x):
    return np.sqrt(np.sum(np.square(np.asarray(x, np.float64)), axis=(1, 2)))


@settings(max_examples=60, deadline=None)
@given(vectors(), vectors(), st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3))
def test_slerp_has_exact_ends_a_norm_between_and_is_finite(a, b, weights):
    a, b, weights = jnp.asarray(a), jnp.asarray(b), np.array(weights, np.float32)
    np.testing.assert_array_equal(slerp(a, b, 0.0), a)
    np.testing.assert_array_equal(slerp(a, b, 1.0), b)
    between = np.asarray(slerp(a, b, jnp.asarray(weights)))
    assert np.isfinite(between).all()
    assert (norms(between) <= np.maximum(norms(a), norms(b)) * (1 + 1e-4) + 1e-6).all()
    # The way back is the same way.
    back = np.asarray(slerp(b, a, jnp.asarray(1.0 - weights)))
    cosine = np.sum(np.asarray(a, np.float64) * np.asarray(b), axis=(1, 2)) / np.maximum(norms(a) * norms(b), 1e-30)
    clear = (cosine > -0.99) & (norms(a) > 1e-3) & (norms(b) > 1e-3)
    np.testing.assert_allclose(between[clear], back[clear], atol=2e-3)


@settings(max_examples=60, deadline=None)
@given(vectors(), vectors(), st.floats(0, 1, width=32))
def test_slerp_keeps_a_common_norm_and_goes_at_constant_speed(a, b, weight):
    fallback = np.zeros((3, 2, 4), np.float32)
    fallback[:, 0, 0] = 1.0
    unit = [np.where(norms(x)[:, None, None] > 1e-2, x, fallback) for x in (a, b)]
    a, b = (x / norms(x)[:, None, None].astype(np.float32) * 3.0 for x in unit)
    cosine = np.sum(a.astype(np.float64) * b, axis=(1, 2)) / (norms(a) * norms(b))
    clear = cosine > -0.999
    between = np.asarray(slerp(jnp.asarray(a), jnp.asarray(b), weight), np.float64)
    np.testing.assert_allclose(norms(between)[clear], 3.0, rtol=1e-5)
    angle = np.arccos(np.clip(cosine, -1, 1))
    to_start = np.sum(between * a, axis=(1, 2)) / 9.0
    np.testing.assert_allclose(to_start[clear], np.cos(weight * angle)[clear], atol=2e-4)


def test_slerp_of_parallel_opposite_and_vanishing_vectors():
    a = jnp.array([[1.0, 2.0], [1.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    b = jnp.array([[2.0, 4.0], [-1.0, -2.0], [3.0, 4.0], [0.0, 0.0]])
    got = np.asarray(slerp(a, b, 0.5))
    np.testing.assert_allclose(got[0], [1.5, 3.0], rtol=1e-6)
    np.testing.assert_allclose(got[1], [0.0, 0.0], atol=1e-6)
    assert np.isfinite(got).all()
    np.testing.assert_allclose(slerp(a[:1], a[:1], 0.3), a[:1], rtol=1e-6)


def test_interpolate_gives_a_path_of_single_examples():
    a, b = jnp.array([[1.0, 0.0], [0.0, 0.0]]), jnp.array([[0.0, 1.0], [0.0, 0.0]])
    path = interpolate(a, b, 5)
    angles = np.linspace(0, np.pi / 2, 5)
    np.testing.assert_allclose(path[:, 0], np.stack([np.cos(angles), np.sin(angles)], -1), atol=1e-6)
    np.testing.assert_array_equal(path[0], a)
    np.testing.assert_array_equal(path[-1], b)


def test_lerp_of_conditions():
    a, b = ({"text": s * jnp.ones((2, 3)), "pooled": (s * jnp.ones((2, 1)),)} for s in (1.0, 3.0))
    got = lerp(a, b, jnp.array([0.25, 1.0]))
    np.testing.assert_allclose(got["text"][:, 0], [1.5, 3.0])
    np.testing.assert_array_equal(got["pooled"][0][1], b["pooled"][0][1])
    assert lerp(jnp.ones((1, 2), jnp.bfloat16), jnp.zeros((1, 2), jnp.bfloat16), 0.5).dtype == jnp.bfloat16


def test_bad_paths_are_named():
    a = jnp.ones((2, 3))
    bad = [
        (lambda: slerp(a, jnp.ones((2, 4)), 0.5), r"\(2, 3\) float32 and \(2, 4\)"),
        (lambda: slerp(a, a, 1.5), "weights 1.5 is not from 0 to 1"),
        (lambda: slerp(a, a, jnp.array([0.1, 0.2, 0.3])), r"weights has shape \(3,\) for a batch of 2"),
        (lambda: interpolate(a, a, 1), "count 1"),
        (lambda: interpolate(a, a[:1], 3), r"one shape, not \(2, 3\) and \(1, 3\)"),
        (lambda: lerp({"x": a}, {"y": a}, 0.5), "one structure"),
        (lambda: lerp(jnp.ones((2, 3), jnp.int32), jnp.ones((2, 3), jnp.int32), 0.5), "embed tokens first"),
    ]
    for make, message in bad:
        with pytest.raises(UserError, match=message):
            make()
