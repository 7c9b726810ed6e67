"""Inpainting: known entries bit for bit, RePaint walk by walk, and its law beside the exact conditional of a Gaussian."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import replace_noise

from diffusion_jax.process import EDM, VE, RectifiedFlow, VPLinear, exact
from diffusion_jax.process.sde import coefficients, noised
from diffusion_jax.sampling import (
    DDIM,
    DDPM,
    PNDM,
    AdaptiveODE,
    DPMSolverPP,
    EDMStochastic,
    Heun,
    Restart,
    UniPC,
    initial_noise,
    logsnr_uniform,
    sample,
    trace,
    uniform,
)
from diffusion_jax.sampling.editing.inpainting import Inpaint, within
from diffusion_jax.sampling.steps import noise_like, renoise
from diffusion_jax.typing import Prediction, UserError, pytree_dataclass

MEAN = np.array([0.5, -0.3, 0.2, 0.1])
COVARIANCE = np.array([[0.5, 0.3, 0.1, 0.2], [0.3, 0.4, 0.2, 0.1], [0.1, 0.2, 0.3, 0.0], [0.2, 0.1, 0.0, 0.6]])
MASK = np.array([[True, False, True, False]])
KNOWN = np.array([[1.1, 0.0, -0.4, 0.0]])
SCHEDULES = [VPLinear(), VE(), RectifiedFlow(), EDM()]


@pytree_dataclass
class Correlated:
    """N(mean, covariance) as a DenoiseFn: x0_hat = m + alpha C (alpha^2 C + sigma^2 I)^-1 (x - alpha m)."""

    schedule: object
    mean: object
    covariance: object

    def __call__(self, xt, t, cond=None):
        alpha, sigma = coefficients(self.schedule, t, xt)
        size = self.mean.shape[0]
        spread = alpha[:, :, None] ** 2 * self.covariance[None] + sigma[:, :, None] ** 2 * jnp.eye(size)[None]
        residual = xt - alpha * self.mean[None]
        scaled = jnp.linalg.solve(jnp.broadcast_to(spread, (len(xt), size, size)), residual[..., None])[..., 0]
        return Prediction(self.mean[None] + alpha * scaled @ self.covariance, sigma * scaled)


def correlated(schedule, dtype=jnp.float32):
    return Correlated(schedule, jnp.asarray(MEAN, dtype), jnp.asarray(COVARIANCE, dtype))


def conditional():
    """Mean and covariance of the unknown entries given the known ones."""
    known, unknown = MASK[0], ~MASK[0]
    gain = COVARIANCE[np.ix_(unknown, known)] @ np.linalg.inv(COVARIANCE[np.ix_(known, known)])
    mean = MEAN[unknown] + gain @ (KNOWN[0] - MEAN)[known]
    return mean, COVARIANCE[np.ix_(unknown, unknown)] - gain @ COVARIANCE[np.ix_(known, unknown)]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("inner", [DDPM(), pytest.param(DDIM(), marks=pytest.mark.slow)], ids=repr)
def test_known_entries_are_kept_bit_for_bit(schedule, inner, key):
    known = jax.random.normal(jax.random.key(3), (5, 4))
    solver = Inpaint(inner, known, MASK)
    x1 = initial_noise(key, (5, 4), schedule)
    path = trace(correlated(schedule), schedule, solver, x1, logsnr_uniform(6, schedule), key)
    np.testing.assert_array_equal(path.x0[:, MASK[0]], known[:, MASK[0]])
    np.testing.assert_array_equal(path.xs[-1], path.x0)
    assert bool((path.x0[:, ~MASK[0]] != known[:, ~MASK[0]]).all())


def test_on_the_way_they_have_the_noise_of_their_time():
    schedule, ts = VPLinear(), np.array([1.0, 0.6, 0.3])
    known = jnp.broadcast_to(jnp.asarray(KNOWN, jnp.float32), (4000, 4))
    x1 = initial_noise(jax.random.key(1), known.shape)
    path = trace(correlated(schedule), schedule, Inpaint(DDIM(), known, MASK), x1, ts, jax.random.key(2))
    alpha, sigma = (float(f(jnp.float32(0.6))) for f in (schedule.alpha, schedule.sigma))
    noise = (np.asarray(path.xs[1]) - alpha * KNOWN)[:, MASK[0]] / sigma
    assert np.abs(noise.mean(0)).max() < 4 / np.sqrt(4000)
    np.testing.assert_allclose(np.cov(noise.T), np.eye(2), atol=4 * np.sqrt(2 / 4000))


def fold(keys, data):
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


@pytest.mark.parametrize("inner", [DDPM(), Heun()], ids=repr)
def test_a_step_is_the_algorithm_written_out(inner):
    """RePaint's algorithm 1 for one interval, in plain loops with the same draws."""
    schedule, repeats, substeps = VPLinear(), 3, 2
    model = correlated(schedule)
    keys, x = jax.random.split(jax.random.key(5), 3), jax.random.normal(jax.random.key(6), (3, 4))
    known = jax.random.normal(jax.random.key(7), (3, 4))
    t, t_next = jnp.float32(0.5), jnp.float32(0.3)
    solver = Inpaint(inner, known, MASK, repeats, substeps)
    got, _ = solver.step(model, schedule, x, t, t_next, keys, solver.init(x))
    for walk in range(repeats):
        if walk:
            ratio = schedule.alpha(t) / schedule.alpha(t_next)
            added = jnp.sqrt(schedule.sigma(t) ** 2 - ratio**2 * schedule.sigma(t_next) ** 2)
            x = ratio * x + added * noise_like(fold(fold(keys, 2), walk), x)
        for i, (s, end) in enumerate([(0.5, 0.4), (0.4, 0.3)]):
            place = walk * substeps + i
            s, end = jnp.float32(s), jnp.float32(end)
            x, _ = inner.step(model, schedule, x, s, end, fold(fold(keys, 0), place), ())
            x = jnp.where(MASK, noised(schedule, known, noise_like(fold(fold(keys, 1), place), x), end), x)
    np.testing.assert_allclose(got, x, rtol=1e-4, atol=1e-5)


def test_all_draws_of_a_step_are_apart(monkeypatch):
    """The solver's, the known entries' and those of the way back: no key is used twice."""
    used = []

    def watched(key, x):
        jax.debug.callback(lambda data: used.extend(map(tuple, np.asarray(data))), jax.random.key_data(key))
        return noise_like(key, x)

    replace_noise(monkeypatch, watched)
    schedule = VPLinear()
    solver = Inpaint(DDPM(), jnp.zeros((1, 4)), MASK, repeats=3, substeps=2)
    keys = jax.random.split(jax.random.key(5), 2)
    x, _ = solver.step(correlated(schedule), schedule, jnp.ones((2, 4)), jnp.float32(0.5), jnp.float32(0.3), keys, ())
    x.block_until_ready()
    jax.effects_barrier()
    assert len(used) == 2 * (3 * 2 * 2 + 2)
    assert len(set(used)) == len(used)


def test_a_walk_back_is_the_forward_process():
    """From the marginal at s the transition leads to that at t; to pure noise as well."""
    for schedule, later in [(VPLinear(), 0.8), (EDM(), 0.5), (RectifiedFlow(), 0.7), (RectifiedFlow(), 1.0)]:
        t, later, x = jnp.float32(0.3), jnp.float32(later), jnp.eye(2)[:, :1]
        none, unit = jnp.zeros_like(x), jnp.ones_like(x)
        gain = float(renoise(schedule, x, t, later, none)[0, 0])
        added = float(renoise(schedule, x, t, later, unit)[1, 0])
        np.testing.assert_allclose(gain * schedule.alpha(t), schedule.alpha(later), atol=1e-6)
        np.testing.assert_allclose((gain * schedule.sigma(t)) ** 2 + added**2, schedule.sigma(later) ** 2, rtol=1e-5)


def law(schedule, ts, repeats):
    """The exact mean and covariance of the unknown entries, DDPM within: every step's map is affine.

    The map of one walk comes from Inpaint itself, by probes with silent draws; the noises' sizes are in closed form.
    """
    size, known = 4, MASK[0]
    model = correlated(schedule, jnp.float64)
    probes = jnp.concatenate([jnp.zeros((1, size)), jnp.eye(size)]).astype(jnp.float64)
    keys = jax.random.split(jax.random.key(0), size + 1)
    walk = jax.jit(
        lambda t, s: Inpaint(DDPM(), jnp.asarray(KNOWN), MASK).step(model, schedule, probes, t, s, keys, ())[0]
    )
    mean, covariance = np.zeros(size), float(schedule.sigma(ts[0])) ** 2 * np.eye(size)
    for t, s in itertools.pairwise(ts):
        t, s = jnp.float64(t), jnp.float64(s)
        (a, b), (a_s, b_s) = ((float(schedule.alpha(u)), float(schedule.sigma(u))) for u in (t, s))
        out = np.asarray(walk(t, s))
        offset, gains = out[0], (out[1:] - out[0]).T
        drawn = b_s**2 - (a / b * b_s**2 / a_s) ** 2
        noise = np.diag(np.where(known, b_s**2, drawn))
        for again in range(repeats if b_s > 0 else 1):
            if again:
                ratio = a / a_s
                mean, covariance = ratio * mean, ratio**2 * covariance + (b**2 - ratio**2 * b_s**2) * np.eye(size)
            mean, covariance = gains @ mean + offset, gains @ covariance @ gains.T + noise
    return mean[~known], covariance[np.ix_(~known, ~known)]


@pytest.fixture
def silent(monkeypatch):
    replace_noise(monkeypatch, lambda key, x: jnp.zeros_like(x))


def distance(schedule, steps, repeats):
    """How far the law is from the conditional: the largest error of its mean and of its covariance."""
    wanted_mean, wanted = conditional()
    mean, covariance = law(schedule, logsnr_uniform(steps, schedule), repeats)
    print(type(schedule).__name__, steps, repeats, np.abs(mean - wanted_mean).max(), np.abs(covariance - wanted).max())
    return np.abs(mean - wanted_mean).max(), np.abs(covariance - wanted).max()


def test_repaint_converges_to_the_conditional_and_replacement_does_not(silent):
    """The mean by repeats (.20 without, .006 by 100, .0007 by 1000), the covariance by DDPM's own steps."""
    with jax.enable_x64(True):
        few, many = (distance(VPLinear(), steps, 1)[0] for steps in (30, 480))
        assert few > 0.15 and many > 0.15  # finer steps do not mend replacement
        by_repeats = [distance(VPLinear(), 120, repeats)[0] for repeats in (10, 100, 1000)]
        assert by_repeats[1] < by_repeats[0] / 5 and by_repeats[2] < by_repeats[1] / 5
        assert by_repeats[2] < 1e-3
        by_steps = [distance(VPLinear(), steps, 100)[1] for steps in (30, 120, 480)]
        assert by_steps[1] < by_steps[0] / 2.5 and by_steps[2] < by_steps[1] / 2.5


@pytest.mark.parametrize("schedule", SCHEDULES[1:], ids=lambda s: type(s).__name__)
def test_repaint_is_better_than_replacement_under_every_schedule(schedule, silent):
    with jax.enable_x64(True):
        plain, repaint = distance(schedule, 120, 1), distance(schedule, 120, 100)
    assert plain[0] > 0.15 > 0.012 > repaint[0]


COUNTED = [
    (DDIM(), 2, 2),
    (PNDM(), 1, 3),
    *(
        pytest.param(inner, *walks, marks=pytest.mark.slow)
        for inner in (
            Heun(),
            DPMSolverPP(2),
            UniPC(3),
            PNDM(),
            EDMStochastic(s_churn=2.0),
            Restart(((0.3, 1.0, 2, 2),)),
        )
        for walks in ((1, 3), (3, 1), (2, 2))
    ),
]


@pytest.mark.parametrize(("inner", "repeats", "substeps"), COUNTED)
def test_evaluations_are_counted(inner, repeats, substeps):
    schedule, calls = VPLinear(), []
    model = correlated(schedule)

    def counting(x, t, cond):
        jax.debug.callback(lambda: calls.append(1))
        return model(x, t)

    solver = Inpaint(inner, jnp.asarray(KNOWN, jnp.float32), MASK, repeats, substeps)
    x1 = initial_noise(jax.random.key(1), (1, 4), schedule)
    ts = uniform(5)
    sample(counting, schedule, solver, x1, ts, jax.random.key(2)).block_until_ready()
    jax.effects_barrier()
    assert int(trace(model, schedule, solver, x1, ts, jax.random.key(2)).nfe) == len(calls)


def test_with_nothing_known_it_is_the_solver(key):
    schedule, x1 = VPLinear(), jax.random.normal(jax.random.key(1), (3, 4))
    inner = DPMSolverPP(2)
    for substeps, steps in ((1, 6), (3, 18)):
        solver = Inpaint(inner, jnp.full((1, 4), 1e3), np.zeros((1, 4), bool), substeps=substeps)
        got = sample(correlated(schedule), schedule, solver, x1, uniform(6), key)
        wanted = sample(correlated(schedule), schedule, inner, x1, uniform(steps), key)
        np.testing.assert_allclose(got, wanted, rtol=2e-4, atol=1e-5)


def test_samples_do_not_depend_on_the_batch(key):
    schedule, known = VPLinear(), jax.random.normal(jax.random.key(3), (5, 4))
    x1, mask = initial_noise(key, (5, 4), schedule), jax.random.bernoulli(jax.random.key(4), 0.5, (5, 4))
    run = [
        sample(correlated(schedule), schedule, Inpaint(DDPM(), known[:n], mask[:n], repeats=2), x1[:n], uniform(6), key)
        for n in (5, 2)
    ]
    np.testing.assert_allclose(run[1], run[0][:2], rtol=1e-4, atol=1e-5)


def test_with_one_noise_the_known_entries_stay_on_its_path(key):
    """At every time of the grid they are alpha known + sigma noise, and the sample's are the known ones."""
    schedule, noise = VPLinear(), jax.random.normal(jax.random.key(5), (2, 4))
    x1 = initial_noise(key, (2, 4), schedule)
    solver = Inpaint(DDPM(), jnp.asarray(KNOWN, jnp.float32), MASK, noise=noise)
    ts = uniform(5, schedule)
    path = trace(correlated(schedule), schedule, solver, x1, ts, key)
    known = jnp.broadcast_to(jnp.asarray(KNOWN, jnp.float32), (2, 4))
    for x, t in zip(path.xs[1:-1], ts[1:-1], strict=True):
        wanted = noised(schedule, known, noise, jnp.float32(t))
        np.testing.assert_allclose(x[:, MASK[0]], wanted[:, MASK[0]], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(path.x0[:, MASK[0]], known[:, MASK[0]])


def test_masks_of_images_may_leave_out_channels_and_batch(key):
    schedule = RectifiedFlow()
    model = exact.gaussian(schedule, jnp.zeros((4, 4, 3)), 0.5)
    known = jax.random.normal(jax.random.key(3), (2, 4, 4, 3))
    x1 = initial_noise(key, known.shape)
    mask = jax.random.bernoulli(jax.random.key(4), 0.5, (1, 4, 4, 1))
    run = [
        sample(model, schedule, Inpaint(DDIM(), known, m), x1, uniform(4), key)
        for m in (mask, jnp.broadcast_to(mask, known.shape))
    ]
    np.testing.assert_array_equal(*run)
    where = np.broadcast_to(mask, known.shape)
    np.testing.assert_array_equal(np.asarray(run[0])[where], np.asarray(known)[where])


def test_another_image_or_mask_does_not_recompile(key):
    from diffusion_jax.sampling.sample import _sample

    schedule, before = VPLinear(), _sample._cache_size()
    for shift in (0.0, 1.0):
        solver = Inpaint(DDIM(), jnp.asarray(KNOWN, jnp.float32) + shift, MASK if shift else ~MASK)
        sample(correlated(schedule), schedule, solver, jnp.ones((3, 4)) + shift, uniform(4), key)
    assert _sample._cache_size() - before == 1


def test_the_times_within_an_interval():
    times = within(jnp.float32(0.7), jnp.float32(0.1), 3)
    np.testing.assert_allclose(times, [0.7, 0.5, 0.3, 0.1], rtol=1e-6)
    assert times[0] == jnp.float32(0.7) and times[-1] == jnp.float32(0.1)


KNOWN32 = KNOWN.astype(np.float32)
BAD = [
    (lambda: Inpaint(DDIM(), KNOWN32, MASK, repeats=0), "repeats 0 of Inpaint"),
    (lambda: Inpaint(DDIM(), KNOWN32, MASK, substeps=-1), "substeps -1 of Inpaint"),
    (lambda: Inpaint("ddim", KNOWN32, MASK), r"'ddim' of Inpaint is not a solver; nearest: DDIM\(\)"),
    (lambda: Inpaint(AdaptiveODE(), KNOWN32, MASK), r"cannot hold AdaptiveODE.*nearest: Heun\(\)"),
    (lambda: Inpaint(Inpaint(DDIM(), KNOWN32, MASK), KNOWN32, MASK), "cannot hold Inpaint, which has arrays"),
    (lambda: Inpaint(DDIM(), KNOWN32, MASK.astype(np.float32)), "mask of Inpaint is float32, not an array of booleans"),
    (lambda: Inpaint(DDIM(), KNOWN32, [True, False]), "mask of Inpaint is list"),
    (
        lambda: Inpaint(DDIM(), KNOWN32, MASK[:, :3]),
        r"mask of Inpaint has shape \(1, 3\) for a batch of shape \(3, 4\)",
    ),
    (lambda: Inpaint(DDIM(), KNOWN32, MASK[0]), r"mask of Inpaint has shape \(4,\)"),
    (lambda: Inpaint(DDIM(), KNOWN32[0], MASK), r"known of Inpaint has shape \(4,\)"),
    (lambda: Inpaint(DDIM(), np.repeat(KNOWN32, 2, 0), MASK), r"known of Inpaint has shape \(2, 4\)"),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_input_is_named(make, message):
    schedule = VPLinear()
    with pytest.raises(UserError, match=message) as caught:
        sample(correlated(schedule), schedule, make(), jnp.ones((3, 4)), uniform(4), jax.random.key(0))
    assert "\n" not in str(caught.value)
