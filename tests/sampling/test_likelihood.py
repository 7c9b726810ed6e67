"""log p(x) by the ODE against exact densities, estimates against the exact divergence, and bits against a known sum."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.process import EDM, VE, Cosine, RectifiedFlow, SubVP, Truncated, VPLinear, exact, from_noise_level
from diffusion_jax.process.sde import coefficients
from diffusion_jax.sampling import apg, bits_per_dimension, classifier_free, log_likelihood, sample
from diffusion_jax.sampling.likelihood import _probe, _solve, dequantise
from diffusion_jax.sampling.sample import fold
from diffusion_jax.sampling.solvers.adaptive_ode import AdaptiveODE
from diffusion_jax.typing import Prediction, UserError, pytree_dataclass

SCHEDULES = [VPLinear(), VE(), EDM(), RectifiedFlow()]
BATCH = 6


def data(schedule, dim, kind):
    """An exact denoiser and draws from it at t_min."""
    keys = jax.random.split(jax.random.key(dim), 3)
    if kind == "gaussian":
        model = exact.gaussian(schedule, jnp.linspace(-0.5, 0.8, dim), 0.6)
    else:
        model = exact.mixture(
            schedule, jax.random.normal(keys[0], (3, dim)), jnp.array([0.3, 0.5, 0.8]), jnp.array([0.5, 0.3, 0.2])
        )
    chosen = jnp.arange(BATCH) % model.means.shape[0]
    alpha, sigma = (f(jnp.float32(schedule.t_min)) for f in (schedule.alpha, schedule.sigma))
    draws = jax.random.normal(keys[1], (BATCH, dim))
    spread = jnp.sqrt((alpha * model.stds[chosen]) ** 2 + sigma**2)
    return model, alpha * model.means[chosen] + spread[:, None] * draws


def at_the_end(model):
    t = jnp.float32(model.schedule.t_max)
    return jax.tree_util.Partial(lambda model, x: model.log_density(x, t), model)


CASES = [(s, d, k) for s in SCHEDULES for d in (1, 2, 8) for k in ("gaussian", "mixture")]
# Each is a program of its own. Quick: a mixture in 8 dimensions under every schedule, in 2 under VE; a Gaussian under VPLinear,
# and in 2 dimensions under every schedule in the test of the standard prior.
QUICK = {(i, 8, "mixture") for i in range(4)} | {(1, 2, "mixture"), (0, 8, "gaussian")}


@pytest.mark.parametrize(
    ("schedule", "dim", "kind"),
    [pytest.param(s, d, k, marks=() if (SCHEDULES.index(s), d, k) in QUICK else pytest.mark.slow) for s, d, k in CASES],
    ids=lambda v: repr(v)[:12],
)
def test_it_is_the_exact_density_at_t_min(schedule, dim, kind):
    """Within 1e-3 nats, with the exact density at t_max; RectifiedFlow begins at clean data, the others at their t_min."""
    model, x = data(schedule, dim, kind)
    found = log_likelihood(model, schedule, x, prior=at_the_end(model))
    np.testing.assert_allclose(found.log_prob, model.log_density(x, jnp.float32(schedule.t_min)), atol=1e-3)
    np.testing.assert_allclose(found.log_prob, found.log_prior + found.change, rtol=1e-6)
    assert (found.nfe > 6).all() and found.nfe.shape == (BATCH,)


def hard(schedule, components, stds, seed, dim=8, batch=8):
    """A random mixture of so many components, padded to 30 of no weight, and draws from it at t_min."""
    keys = jax.random.split(jax.random.key(1000 * seed + components), 5)
    if stds is None:
        stds = jnp.exp(jax.random.uniform(keys[0], (components,), minval=np.log(0.02), maxval=0.0))
    means = jax.random.normal(keys[1], (30, dim))
    stds = jnp.ones(30).at[:components].set(stds)
    weights = jnp.full(30, 1e-30).at[:components].set(jax.random.uniform(keys[2], (components,), minval=0.2))
    chosen = jax.random.randint(keys[3], (batch,), 0, components)
    alpha, sigma = (f(jnp.float32(schedule.t_min)) for f in (schedule.alpha, schedule.sigma))
    spread = jnp.sqrt((alpha * stds[chosen]) ** 2 + sigma**2)
    x = alpha * means[chosen] + spread[:, None] * jax.random.normal(keys[4], (batch, dim))
    return exact.mixture(schedule, means, stds, weights), x


# The worst of what was measured at tolerances of 1e-5: 1e-3 to 5e-3 nats off.
HARD = [(3, None), (3, 0.02), (30, 0.02), (30, None), (5, None), (2, 0.02), (1, 0.02), (30, 0.3), (8, 0.05), (3, 1.0)]


@pytest.mark.parametrize(
    ("schedule", "cases"),
    [
        (RectifiedFlow(), HARD[:3]),
        (VE(), HARD[:3]),
        *(pytest.param(s, HARD, marks=pytest.mark.slow) for s in (*SCHEDULES, Cosine())),
    ],
    ids=lambda v: repr(v)[:12],
)
def test_the_default_keeps_its_claim_on_mixtures_in_eight_dimensions(schedule, cases):
    for seed, (components, stds) in enumerate(cases):
        model, x = hard(schedule, components, stds, seed)
        found = log_likelihood(model, schedule, x, prior=at_the_end(model))
        truth = model.log_density(x, jnp.float32(schedule.t_min))
        np.testing.assert_allclose(found.log_prob, truth, atol=2e-4, err_msg=f"{components} of std {stds}")
        assert found.nfe.mean() < 260


@pytest.mark.parametrize("schedule", [Cosine(), SubVP(), Truncated(EDM(), 0.01)], ids=repr)
def test_other_schedules_and_a_later_beginning(schedule):
    model, x = data(schedule, 2, "mixture")
    found = log_likelihood(model, schedule, x, prior=at_the_end(model))
    np.testing.assert_allclose(found.log_prob, model.log_density(x, jnp.float32(schedule.t_min)), atol=1e-3)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_the_gap_of_the_standard_prior_is_its_closed_form(schedule):
    """N(0, sigma^2) for the true N(alpha m, alpha^2 s^2 + sigma^2) at the latent: known for Gaussian data."""
    model, x = data(schedule, 2, "gaussian")
    found = log_likelihood(model, schedule, x)
    t = jnp.float32(schedule.t_max)
    sigma = schedule.sigma(t)
    standard = -0.5 * jnp.sum((found.latent / sigma) ** 2, axis=1) - jnp.log(2 * jnp.pi * sigma**2)
    gap = standard - model.log_density(found.latent, t)
    np.testing.assert_allclose(found.log_prob, model.log_density(x, jnp.float32(schedule.t_min)) + gap, atol=1e-3)
    np.testing.assert_allclose(found.log_prior, standard, rtol=1e-5)


def test_the_latent_is_what_the_ode_makes_the_data_of():
    schedule = VPLinear()
    model, x = data(schedule, 2, "mixture")
    latent = log_likelihood(model, schedule, x, rtol=1e-6, atol=1e-6).latent
    ts = np.array([schedule.t_max, schedule.t_min])
    back = sample(model, schedule, AdaptiveODE(1e-6, 1e-6), latent, ts, jax.random.key(0))
    np.testing.assert_allclose(back, x, atol=5e-4)


@pytree_dataclass
class Correlated:
    """The exact denoiser of N(0, C): its Jacobian is no multiple of the identity, so that probes differ."""

    schedule: Any
    covariance: Any

    def __call__(self, xt, t, cond=None):
        alpha, sigma = coefficients(self.schedule, t, xt)
        values, vectors = jnp.linalg.eigh(self.covariance)
        along = xt @ vectors
        spread = alpha**2 * values[None] + sigma**2
        return Prediction((alpha * values[None] / spread * along) @ vectors.T, (sigma / spread * along) @ vectors.T)


def log_normal(covariance, x):
    """log N(x; 0, covariance) [batch]."""
    square = jnp.sum(x * jnp.linalg.solve(covariance, x.T).T, axis=1)
    return -0.5 * square - 0.5 * jnp.linalg.slogdet(2 * jnp.pi * covariance)[1]


COVARIANCE = jnp.array([[1.0, 0.6, 0.1], [0.6, 0.7, -0.2], [0.1, -0.2, 0.3]])


def test_a_correlated_gaussian_and_guidance_of_two():
    """Guided towards itself the field is the same, so is the likelihood."""
    schedule = VPLinear()
    model = Correlated(schedule, COVARIANCE)
    x = jax.random.normal(jax.random.key(0), (BATCH, 3)) @ jnp.linalg.cholesky(COVARIANCE).T
    wanted = log_normal(COVARIANCE, x)
    t = jnp.float32(schedule.t_max)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    end = jax.tree_util.Partial(log_normal, alpha**2 * COVARIANCE + sigma**2 * jnp.eye(3))
    np.testing.assert_allclose(log_likelihood(model, schedule, x, prior=end).log_prob, wanted, atol=1e-3)
    cond = jnp.ones((BATCH, 1))
    guided = classifier_free(model, cond[:1], 3.0)
    found = log_likelihood(guided, schedule, x, cond=cond, prior=end)
    np.testing.assert_allclose(found.log_prob, wanted, atol=1e-3)


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_hutchinson_is_its_closed_form_by_probe_and_unbiased_within_its_standard_error(kind):
    """Many probes of one point as a batch. The field is linear and its Jacobians commute, so that a probe v kept along the
    trajectory gives v . A v, with A = log(V_T / V_min) / 2 for the covariance V of y at either end."""
    schedule, many = VPLinear(), 512
    model = Correlated(schedule, COVARIANCE)
    x = jnp.broadcast_to(jnp.array([[0.4, -0.9, 0.2]]), (many, 3))
    truth = log_likelihood(model, schedule, x[:1]).log_prob[0]
    keys = jax.random.split(jax.random.key(1), many)
    likelihood = log_likelihood(model, schedule, x, key=keys, divergence=kind, rtol=1e-4, atol=1e-4)
    found = likelihood.log_prob
    error = float(found.std() / np.sqrt(many))
    assert 1e-3 < error < 0.2
    assert abs(float(found.mean() - truth)) < 3 * error + 1e-3
    values, vectors = np.linalg.eigh(np.asarray(COVARIANCE, np.float64))
    ends = [
        [float(f(jnp.float32(t))) for f in (schedule.alpha, schedule.sigma)] for t in (schedule.t_min, schedule.t_max)
    ]
    spreads = [(alpha**2 * values + sigma**2) / (alpha**2 + sigma**2) for alpha, sigma in ends]
    probes = np.asarray(_probe(fold(keys, 0), x, kind))
    wanted = (probes @ vectors) ** 2 @ (0.5 * np.log(spreads[1] / spreads[0]))
    norms = [np.hypot(*end) for end in ends]
    np.testing.assert_allclose(likelihood.change, wanted + 3 * np.log(norms[1] / norms[0]), atol=5e-3)
    np.testing.assert_allclose(probes.T @ probes / many, np.eye(3), atol=4 * np.sqrt(2 / many))


def test_rademacher_probes_are_exact_where_the_jacobian_is_a_multiple_of_the_identity():
    schedule = VPLinear()
    model, x = data(schedule, 8, "gaussian")
    probed = log_likelihood(model, schedule, x, key=jax.random.key(5), divergence="rademacher")
    np.testing.assert_allclose(probed.log_prob, log_likelihood(model, schedule, x).log_prob, atol=1e-3)


def test_more_probes_spread_less_and_one_probe_is_kept_along_its_trajectory():
    """A probe that changed on the way would average out: its spread would fall with the number of steps."""
    schedule, many = VPLinear(), 128
    model = Correlated(schedule, COVARIANCE)
    x = jnp.broadcast_to(jnp.array([[0.4, -0.9, 0.2]]), (many, 3))
    keys = jax.random.split(jax.random.key(2), many)

    def spread(num_probes, tolerance):
        options = {"divergence": "rademacher", "num_probes": num_probes, "rtol": tolerance, "atol": tolerance}
        return log_likelihood(model, schedule, x, key=keys, **options).log_prob.std()

    one, fine, eight = spread(1, 1e-3), spread(1, 1e-5), spread(8, 1e-3)
    assert fine == pytest.approx(float(one), rel=0.02)
    assert eight == pytest.approx(float(one) / np.sqrt(8), rel=0.35)


def test_a_result_depends_neither_on_its_batch_nor_on_devices():
    schedule = VPLinear()
    model, x = data(schedule, 2, "mixture")
    x = jnp.concatenate([x, x[:2] + 0.1])
    keys = jax.random.split(jax.random.key(0), 8)
    options = {"divergence": "gaussian"}
    whole = log_likelihood(model, schedule, x, key=keys, **options).log_prob
    part = log_likelihood(model, schedule, x[3:5], key=keys[3:5], **options).log_prob
    np.testing.assert_allclose(part, whole[3:5], atol=2e-4)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    placed = jax.device_put((x, keys), jax.NamedSharding(mesh, jax.P("data")))
    spread = log_likelihood(model, schedule, placed[0], key=placed[1], **options).log_prob
    np.testing.assert_allclose(spread, whole, atol=2e-4)


def test_other_weights_do_not_recompile_and_it_runs_within_jit():
    schedule = VPLinear()
    model, x = data(schedule, 2, "mixture")
    first, before = log_likelihood(model, schedule, x).log_prob, _solve._cache_size()
    other = dataclasses.replace(model, means=model.means + 0.3)
    second = log_likelihood(other, schedule, x).log_prob
    assert _solve._cache_size() == before
    assert float(jnp.abs(first - second).max()) > 0.05
    inside = jax.jit(lambda model, x: log_likelihood(model, schedule, x).log_prob)(other, x)
    np.testing.assert_allclose(inside, second, atol=1e-5)


def test_bits_of_a_gaussian_in_levels_are_its_integral():
    """Given k, E_u[-log p(k + u)] by quadrature over the cell; one draw an example, many examples."""
    schedule, levels, many = VPLinear(), 5, 8192
    model = exact.gaussian(schedule, jnp.zeros(1), 0.5)
    x0 = jnp.full((many, 1), 0.5)
    bits = bits_per_dimension(model, schedule, x0, jax.random.key(0), levels=levels, rtol=1e-4, atol=1e-4)
    u = (np.arange(2000) + 0.5) / 2000 - 0.5
    x = 0.5 + 0.5 * u
    log_p = -0.5 * (x / 0.5) ** 2 - np.log(0.5 * np.sqrt(2 * np.pi))
    wanted = -(log_p.mean() + np.log(0.5)) / np.log(2)
    error = float(bits.std() / np.sqrt(many))
    assert abs(float(bits.mean()) - wanted) < 4 * error + 2e-3 and error < 0.01


def test_several_dequantisations_are_the_mean_of_single_ones_and_no_less_than_the_bits_of_the_levels():
    """E_u[-log p] - log c lies above -log P by Jensen's inequality, in this cell by 0.059 bits."""
    schedule, levels = VPLinear(), 5
    model = exact.gaussian(schedule, jnp.zeros(1), 0.5)
    x0, keys = jnp.full((8192, 1), 0.5), jax.random.split(jax.random.key(0), 8192)
    options = {"levels": levels, "rtol": 1e-4, "atol": 1e-4}
    both = bits_per_dimension(model, schedule, x0, keys, num_dequantisations=2, **options)
    single = bits_per_dimension(model, schedule, x0, keys, **options)
    second = 2 * both - single
    error = float((second - single).std() / np.sqrt(8192))
    assert error > 1e-3 and abs(float((second - single).mean())) < 4 * error
    assert float(both.std()) == pytest.approx(float(single.std()) / np.sqrt(2), rel=0.05)
    mass = 0.5 * (math.erf(0.75 / 0.5 / math.sqrt(2)) - math.erf(0.25 / 0.5 / math.sqrt(2)))
    assert float(both.mean()) + math.log2(mass) == pytest.approx(0.0587, abs=0.012)
    with pytest.raises(UserError, match="num_dequantisations 0"):
        bits_per_dimension(model, schedule, x0, keys, num_dequantisations=0, **options)


def test_dequantising_is_uniform_in_the_cell_by_example():
    x0 = jnp.full((4, 2000), -1.0)
    moved = dequantise(x0, jax.random.key(0), 17) - x0
    assert float(jnp.abs(moved).max()) <= 1 / 16
    np.testing.assert_allclose(jnp.std(moved, axis=1), np.full(4, 0.125 / np.sqrt(12)), rtol=0.05)
    again = dequantise(x0[2:3], jax.random.fold_in(jax.random.key(0), 2)[None], 17) - x0[2:3]
    np.testing.assert_array_equal(again, moved[2:3])


def test_the_noise_level_of_a_cell_is_where_a_truncated_schedule_begins():
    for schedule in (Cosine(), EDM(), RectifiedFlow(), VPLinear()):
        later = from_noise_level(schedule, 0.036)
        t = jnp.float32(later.t_min)
        assert float(later.sigma(t) / later.alpha(t)) == pytest.approx(0.036, rel=1e-3)
        assert later.t_max == schedule.t_max
    assert from_noise_level(VE(0.1, 50.0), 0.036) == VE(0.1, 50.0)
    with pytest.raises(UserError, match="noise level -1"):
        from_noise_level(Cosine(), -1.0)
    with pytest.raises(UserError, match=r"t_min 1\.5 is not from 0\.0 to below 1\.0; nearest: 1\.0"):
        Truncated(Cosine(), 1.5)


BAD = [
    ({"divergence": "hutchinson"}, "divergence 'hutchinson' is not known"),
    ({"divergence": "gaussian"}, "'gaussian' draws probes: give it a key"),
    ({"num_probes": 0}, "num_probes 0"),
    ({"rtol": 0.0}, "rtol 0.0"),
    ({"method": "rk4"}, "method 'rk4' is not known"),
    ({"cond": jnp.ones((2, 1))}, r"cond has shape \(2, 1\) for a batch of 6"),
    ({"max_steps": 3}, "example 0 took more than max_steps 3"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_options_are_one_line(options, message):
    schedule = VPLinear()
    model, x = data(schedule, 2, "gaussian")
    with pytest.raises(UserError, match=message):
        log_likelihood(model, schedule, x, **options)


def test_bad_data_are_one_line():
    schedule, key = VPLinear(), jax.random.key(0)
    model, x = data(schedule, 2, "gaussian")
    with pytest.raises(UserError, match=r"x has shape \(2,\); x must be \[batch, ...\]: one example is x\[None\]"):
        log_likelihood(model, schedule, x[0])
    with pytest.raises(UserError, match=r"not finite: x\[1, 0\] is inf"):
        log_likelihood(model, schedule, x.at[1, 0].set(jnp.inf))
    with pytest.raises(
        UserError, match=r"goes from 0 to 255: bits per dimension need data in \[-1, 1\], as x = 2 k / 255"
    ):
        bits_per_dimension(model, schedule, jnp.array([[0.0, 255.0]]), key)
    with pytest.raises(UserError, match=r"x0 holds 0\.1, which is none of 5 levels from -1 to 1; nearest: 0"):
        bits_per_dimension(model, schedule, jnp.array([[0.1, 0.5]]), key, levels=5)
    with pytest.raises(UserError, match="key is None"):
        bits_per_dimension(model, schedule, jnp.zeros((1, 2)), None)
    with pytest.raises(UserError, match="levels 1"):
        bits_per_dimension(model, schedule, jnp.zeros((1, 2)), key, levels=1)
    with pytest.raises(UserError, match=r"x has shape \(0, 2\)"):
        log_likelihood(model, schedule, x[:0])
    broken = dataclasses.replace(model, means=model.means * jnp.inf)
    with (
        jax.debug_nans(False),
        pytest.raises(UserError, match="denoiser's values at example 0 and t_min are not finite"),
    ):
        log_likelihood(broken, schedule, x)
    guided = apg(model, jnp.zeros((1, 1)), 2.0, schedule=schedule)
    with pytest.raises(UserError, match="momentum"):
        log_likelihood(guided, schedule, x, cond=jnp.ones((6, 1)))
