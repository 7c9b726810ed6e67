"""What published samplers need of driver and solvers: targets of their own, noise handed in, lower orders at the end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import gaussian, two_blobs

from diffusion_jax.pipelines.shown import Shown
from diffusion_jax.process import Discrete, VPLinear, denoiser
from diffusion_jax.sampling import (
    DDIM,
    DDPM,
    DEIS,
    PNDM,
    Ancestral,
    DPMSolver,
    DPMSolverPP,
    Euler,
    EulerAncestral,
    Heun,
    Inpaint,
    PredictorCorrector,
    Restart,
    UniPC,
    discrete,
    sample,
    trace,
)
from diffusion_jax.sampling.given import with_noise
from diffusion_jax.sampling.told import Told
from diffusion_jax.typing import UserError

X1 = jnp.array([[-0.7], [0.4], [1.8]])
KEY = jax.random.key(0)
TS = np.array([1.0, 0.7, 0.4, 0.1, 0.0])


def run(solver, ts=TS, schedule=VPLinear()):  # noqa: B008
    return np.asarray(sample(two_blobs(schedule), schedule, solver, X1, ts, KEY))


def test_a_target_is_where_the_step_goes():
    """Steps of two grids, one after the other: from .7 down to .2 and back to what is asked at .4, as if x were there."""
    schedule = VPLinear()
    told = Told(DDIM(), (1.0, 0.7, 0.4), (0.7, 0.2, 0.0))
    first = sample(two_blobs(schedule), schedule, DDIM(), X1, [1.0, 0.7, 0.2], KEY)
    by_hand = sample(two_blobs(schedule), schedule, DDIM(), first, [0.4, 0.0], KEY)
    np.testing.assert_allclose(run(told, [1.0, 0.7, 0.4, 0.0]), by_hand, rtol=1e-6, atol=1e-6)


def test_where_targets_are_the_grids_nothing_changes():
    for solver in (DDIM(), Heun("rho"), UniPC(3, final_orders=(1, 2)), PNDM("plms", raw="v")):
        told = Told(solver, tuple(TS[:-1].tolist()), tuple(TS[1:].tolist()))
        np.testing.assert_array_equal(run(told), run(solver))
        assert (
            trace(two_blobs(VPLinear()), VPLinear(), told, X1, TS, KEY).nfe
            == trace(two_blobs(VPLinear()), VPLinear(), solver, X1, TS, KEY).nfe
        )


def test_a_last_step_may_lead_nowhere():
    """And the sample may be given over alpha, as k-diffusion's samplers have it."""
    schedule = Discrete()
    ts = np.append(discrete(6, schedule, "linspace")[:-1], 0.0)
    for solver in (DDIM(), DPMSolverPP(3), DEIS(2, "logrho"), Heun("rho")):
        stays = Told(solver, tuple(ts[:-1].tolist()), (*ts[1:-1].tolist(), ts[-2]), scale=2.0)
        model = gaussian(schedule)
        short = sample(model, schedule, solver, X1, ts[:-1], KEY)
        found = sample(model, schedule, stays, X1, ts, KEY)
        np.testing.assert_allclose(found, 2 * short, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "around",
    [Shown, lambda solver: Inpaint(solver, jnp.zeros_like(X1), jnp.zeros(X1.shape, bool))],
    ids=["shown", "inpaint"],
)
def test_what_stands_around_a_solver_hands_on_its_end(around):
    told = Told(DDIM(), tuple(TS[:-1].tolist()), tuple(TS[1:].tolist()), scale=2.0)
    np.testing.assert_allclose(run(around(told)), 2.0 * run(around(DDIM())), rtol=1e-5, atol=1e-6)


def test_stages_are_asked_at_the_times_that_were_told():
    schedule, seen = Discrete(), []

    def network(params, x, time, cond, *, key=None, train=False):
        jax.debug.callback(lambda value: seen.append(float(value[0])), time)
        return jnp.zeros_like(x)

    from diffusion_jax.sampling.carried import carried

    ts = np.array([1.0, 0.5, 0.2])
    levels = np.exp(-0.5 * np.asarray(schedule.logsnr(jnp.asarray(ts, jnp.float32)), np.float64))
    stages = np.asarray(schedule.t_from_logsnr(-np.log(levels[:-1] * levels[1:]).astype("f")), np.float64) + 3e-7
    model = denoiser(network, {}, schedule, prediction="x0", time="index")
    every = np.concatenate([ts, stages])
    model = carried(model, every, every.astype("f"), np.array([7.0, 6.0, 0.0, 6.5, 5.5]))
    told = Told(DPMSolver(2), (1.0, 0.5), (0.5, 0.2), tuple(stages.tolist()))
    sample(model, schedule, told, X1, ts, KEY).block_until_ready()
    jax.effects_barrier()
    assert sorted(seen, reverse=True) == [7.0, 6.5, 6.0, 5.5]


@pytest.mark.parametrize(
    "solver", [DDIM(0.7), DDPM("beta"), EulerAncestral(), DPMSolverPP(2, sde=True), Ancestral()], ids=repr
)
def test_noise_is_what_the_steps_draw(solver):
    """Zero noise makes of a sampler its mean; noise counts by its row, and the key for nothing."""
    schedule, noise = VPLinear(), np.random.default_rng(0).normal(size=(4, *X1.shape))

    def under(noise, seed=0):
        return np.asarray(
            sample(gaussian(schedule), schedule, with_noise(solver, noise), X1, TS, jax.random.key(seed)), np.float64
        )

    np.testing.assert_array_equal(under(noise), under(noise, 1))
    silent = under(0 * noise)
    # Gaussian data: a sample is affine in all draws.
    np.testing.assert_allclose(under(2 * noise) - silent, 2 * (under(noise) - silent), rtol=1e-4, atol=1e-5)
    rows = sum(under(noise * (np.arange(4) == i)[:, None, None]) - silent for i in range(4))
    np.testing.assert_allclose(rows, under(noise) - silent, rtol=1e-4, atol=1e-5)
    # A last step to clean data draws nothing.
    np.testing.assert_array_equal(under(noise), under(np.concatenate([noise[:3], 5 * noise[3:]])))


def test_wrappers_hold_each_other():
    schedule = VPLinear()
    told = Told(DDPM(), (1.0, 0.7, 0.4, 0.1), (0.7, 0.4, 0.1, 0.0))
    noise = np.random.default_rng(0).normal(size=(4, *X1.shape))
    np.testing.assert_array_equal(run(with_noise(told, noise)), run(with_noise(DDPM(), noise)))
    mask = jnp.array([[True], [False], [True]])
    kept = sample(two_blobs(schedule), schedule, Inpaint(told, X1, mask), X1, TS, KEY)
    np.testing.assert_array_equal(np.asarray(kept)[[0, 2]], np.asarray(X1)[[0, 2]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Told(DDIM(), (1.0, 0.5), (0.5,)), "1 targets do not go with 2 times"),
        (lambda: Told(DDIM(), (0.5,), (0.6,)), r"the target 0.6 of the step that begins at 0.5 is not in \[0, 0.5\]"),
        (lambda: Told(DDIM, (0.5,), (0.4,)), "is not a solver; nearest: DDIM"),
        (lambda: Told(DDIM(), (0.5,), (0.4,), scale=0.0), "the scale 0 of the sample is not above 0"),
        (lambda: with_noise(DDPM(), np.zeros(3)), r"noise has shape \(3,\); it is \[steps, batch, ...\]"),
        (
            lambda: with_noise(Restart(), np.zeros((2, 3, 1))),
            "noise cannot be given to Restart, which draws more than once",
        ),
        (lambda: with_noise(PredictorCorrector(), np.zeros((2, 3, 1))), "given to PredictorCorrector"),
        (lambda: with_noise(DPMSolverPP(2, multistep=False, sde=True), np.zeros((2, 3, 1))), "given to DPMSolverPP"),
        (lambda: run(with_noise(DDPM(), np.zeros((3, 3, 1)))), "noise for 3 steps does not go with a grid of 4"),
        (lambda: run(with_noise(DDPM(), np.zeros((4, 2, 1)))), r"noise has shape \(4, 2, 1\) for a batch of \(3, 1\)"),
        (lambda: Ancestral(DDPM()), "Ancestral cannot hold DDPM, which draws noise"),
        (lambda: Ancestral(eta=1.5), "eta 1.5 is not in"),
        (lambda: UniPC(2, final_orders=(0,)), "UniPC has no order 0"),
        (lambda: DPMSolver(variant="mid"), "variant 'mid'"),
        (lambda: PNDM(raw="x0"), "raw 'x0'"),
    ],
)
def test_bad_ones_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(
    "make",
    [DPMSolverPP, UniPC, DEIS, lambda *a, **k: DPMSolver(*a, multistep=True, **k)],
    ids=["pp", "unipc", "deis", "dpm"],
)
def test_last_steps_of_lower_order(make):
    """The whole grid lowered is the lower solver, and (3, 3) changes nothing."""
    ts = np.array([0.95, 0.7, 0.45, 0.2, 0.05])
    np.testing.assert_array_equal(run(make(3, final_orders=(3, 3)), ts), run(make(3), ts))
    np.testing.assert_allclose(run(make(3, final_orders=(1,) * 4), ts), run(make(1), ts), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(run(make(3, final_orders=(2,) * 4), ts), run(make(2), ts), rtol=1e-5, atol=1e-6)
    lowered = run(make(3, final_orders=(1, 2)), ts)
    assert np.abs(lowered - run(make(3), ts)).max() > 1e-4
    schedule = VPLinear()
    solver, keys = make(3, final_orders=(1,)), jax.random.split(KEY, 3)
    state, (t, t_next) = solver.init(X1), jnp.float32([0.5, 0.4])
    with pytest.raises(UserError, match="ends by final_orders: give num_steps, or use `sample`"):
        solver.step(lambda x, t: two_blobs(schedule)(x, t), schedule, X1, t, t_next, keys, state)


def test_ancestral_euler_is_euler_ancestral():
    for eta in (0.0, 0.4, 1.0):
        np.testing.assert_allclose(run(Ancestral(Euler(), eta)), run(EulerAncestral(eta)), rtol=1e-5, atol=2e-6)


def test_heun_in_rho_is_edms_under_the_rescaled_process():
    """x / alpha under VPLinear is EDM's process: the steps are Heun's own there."""
    from diffusion_jax.process import EDM

    vp = VPLinear()
    ts = np.array([0.95, 0.7, 0.4, 0.1, 0.0])
    rho = np.asarray(vp.sigma(jnp.asarray(ts, jnp.float32)) / vp.alpha(jnp.asarray(ts, jnp.float32)), np.float64)
    edm = EDM(sigma_min=1e-3, sigma_max=float(rho[0]))
    x1 = X1 / vp.alpha(jnp.float32(0.95))
    wanted = sample(two_blobs(edm), edm, Heun(), x1, rho / rho[0], KEY)
    np.testing.assert_allclose(run(Heun("rho"), ts), wanted, rtol=2e-5, atol=2e-5)
