"""diffusers' scheduler configs without diffusers: grids, closed forms, recorded latents, and every bad field's one line."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scheduler_cases import CASES, PARTS, START, ours, sd

from diffusion_jax.pipelines import read_scheduler
from diffusion_jax.pipelines.drawing import plan_of
from diffusion_jax.pipelines.schedulers.families import COURSES
from diffusion_jax.pipelines.schedulers.fields import CLASSES
from diffusion_jax.process import Discrete, denoiser, exact
from diffusion_jax.process.prediction import from_pair
from diffusion_jax.sampling import DPMSolverPP, Inpaint, UniPC, classifier_free, discrete, karras, sample
from diffusion_jax.typing import UserError

KEY = jax.random.key(0)
DEFAULT = {
    ("ddim v zero snr", "noise"),
    ("ddim clipped, to step 0", "noise"),
    ("ddim linspace", "picture"),
    ("pndm", "noise"),
    ("pndm v", "picture"),
    ("euler", "picture"),
    ("euler karras", "noise"),
    ("euler zero snr", "noise"),
    ("euler to sigma_min", "noise"),
    ("euler ancestral", "noise"),
    ("heun karras", "noise"),
    ("lms", "noise"),
    ("unclip", "noise"),
    ("dpm2 linspace", "noise"),
    ("dpm2 ancestral karras", "picture"),
    ("dpm++ 2 midpoint", "noise"),
    ("dpm++ 3 heun", "noise"),
    ("dpm++ karras", "picture"),
    ("dpm++ thresholded", "noise"),
    ("sde-dpm++ 2 heun", "noise"),
    ("dpm 3 midpoint", "noise"),
    ("unipc 2 bh2", "noise"),
    ("unipc 3 bh1", "picture"),
    ("deis 3", "noise"),
    ("ddpm learned", "noise"),
    ("lcm", "noise"),
}
"""The cases that run by default, each class among them; the others in test-all."""
GOLDENS = [
    pytest.param(case, part, marks=() if (case, part) in DEFAULT else pytest.mark.slow)
    for case in CASES
    for part in PARTS
    if (part, case[:3]) != ("picture", "lms")
]


@functools.cache
def goldens():
    return np.load(Path(__file__).parent / "golden" / "schedulers.npz")


def test_every_class_is_compared():
    assert {config["_class_name"] for config in CASES.values()} == set(CLASSES) == set(COURSES)
    assert {CASES[case]["_class_name"] for case, _ in DEFAULT} == set(CLASSES)


@pytest.mark.parametrize(("case", "part"), GOLDENS)
def test_the_latents_are_those_recorded(case, part):
    x0, plan, _ = ours(CASES[case], 12, PARTS[part], record=False)
    wanted, timesteps = goldens()[f"{case}/{part}"], goldens()[f"{case}/{part}/timesteps"]
    # Between the table's steps they come from float32 square roots, which PyTorch rounds as its machine has them.
    slack = 0 if (timesteps == timesteps.round()).all() else 1e-6
    np.testing.assert_allclose(plan.timesteps.astype("f"), timesteps, rtol=slack, atol=slack)
    assert np.abs(x0[0] - wanted).max() <= 1e-5 * np.abs(wanted).max()


GRIDS = {
    "DDIMScheduler": {"leading": (958, 925, 1), "linspace": (999, 965, 0), "trailing": (999, 966, 32)},
    "EulerDiscreteScheduler": {
        "leading": (958, 925, 1),
        "linspace": (999, 964.5517, 0),
        "trailing": (999, 966, 32),
    },
    "DPMSolverMultistepScheduler": {"leading": (961, 929, 33), "linspace": (999, 966, 33), "trailing": (999, 966, 32)},
    "UniPCMultistepScheduler": {"leading": (961, 929, 33), "linspace": (999, 966, 33), "trailing": (999, 966, 32)},
}


@pytest.mark.parametrize("name", GRIDS)
def test_the_grids_of_30_steps(name):
    """As counted of diffusers: the first two and the last timesteps; the times are those of their noise levels."""
    for spacing, (first, second, last) in GRIDS[name].items():
        plan = read_scheduler(sd(name, timestep_spacing=spacing), "f").plan(30)
        assert len(plan.timesteps) == 30
        np.testing.assert_allclose(plan.timesteps[[0, 1, -1]], [first, second, last], atol=1e-4)
        np.testing.assert_array_equal(plan.seen[:-1], plan.timesteps)
        whole = plan.timesteps == plan.timesteps.round()
        np.testing.assert_allclose(plan.ts[:-1][whole], (plan.timesteps[whole] + 1) / 1000, atol=1e-9)
        scale = plan.schedule.sigma(jnp.float32(plan.ts[0])) if "Euler" in name and spacing != "leading" else 1.0
        assert abs(plan.noise_scale - scale) < 1e-6


def test_the_timesteps_of_pndm_and_lcm():
    plan = read_scheduler(sd("PNDMScheduler", skip_prk_steps=True), "f").plan(20)
    assert plan.timesteps[:5].tolist() == [951, 901, 901, 851, 801] and len(plan.timesteps) == 21
    prk = read_scheduler(sd("PNDMScheduler", steps_offset=0), "f").plan(10)
    begun = [900, 850, 850, 800, 800, 750, 750, 700, 700, 650, 650, 600]
    assert prk.timesteps.tolist() == begun + list(range(600, -1, -100))
    assert read_scheduler({"_class_name": "LCMScheduler"}, "f").plan(4).timesteps.tolist() == [999, 759, 499, 259]


def test_latent_consistency_draws_all_its_steps_from_a_shorter_list():
    """In its own pipelines; an LCMScheduler in another's leaves steps out as any does."""
    ordinary = read_scheduler({"_class_name": "LCMScheduler"}, "f")
    assert ordinary.plan(4, strength=0.5).timesteps.tolist() == [499, 259]
    own = dataclasses.replace(ordinary, shortens=True)
    plan = own.plan(4, strength=0.5)
    assert plan.timesteps.tolist() == [499, 379, 259, 139]  # the 25 of 50 from 499 down, 6 apart
    np.testing.assert_allclose(plan.ts, [0.5, 0.38, 0.26, 0.14, 0], atol=1e-12)
    assert own.plan(4).timesteps.tolist() == ordinary.plan(4).timesteps.tolist()
    for num_steps, strength, said in (
        (26, 0.5, r"num_steps 26 at strength 0.5 .* = 25 timesteps are there .*; nearest: num_steps 25"),
        (1, 0.01, "= 0 timesteps are there to draw from; nearest: a strength of 0.02"),
        (4, 1.5, r"strength 1.5 is not in \(0, 1\]; nearest: 1"),
    ):
        with pytest.raises(UserError, match=said):
            own.plan(num_steps, strength=strength)


@pytest.mark.parametrize(("count", "strength", "kept"), [(10, 0.99, 9), (4, 0.5, 2), (50, 0.58, 28), (7, 1.0, 7)])
def test_own_solvers_keep_as_many_steps_as_the_folders_scheduler(count, strength, kept):
    """int(n strength), of floats: 50 x 0.58 is a little below 29, in diffusers too."""
    scheduler = read_scheduler(sd("DDIMScheduler"), "f")
    ours = plan_of(scheduler, count, grid=np.linspace(0.9, 0.1, count + 1), strength=strength)
    theirs = scheduler.plan(count, strength=strength)
    assert len(ours.ts) - 1 == len(theirs.ts) - 1 == kept and ours.ts[-1] == 0.1
    with pytest.raises(UserError, match=f"strength 0.01 of {count} steps leaves none of them"):
        plan_of(scheduler, count, solver="ddim", strength=0.01)


def test_a_picture_leaves_out_the_first_steps():
    for name in ("DDIMScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler"):
        scheduler = read_scheduler(sd(name), "f")
        whole, part = scheduler.plan(20), scheduler.plan(20, strength=0.33)
        np.testing.assert_array_equal(part.ts, whole.ts[14:])
        np.testing.assert_array_equal(part.timesteps, whole.timesteps[-len(part.timesteps) :])
        noised = part.noised(jnp.ones((1, 2)), jnp.full((1, 2), 2.0))
        t = jnp.float32(part.ts[0])
        np.testing.assert_allclose(
            noised, (part.schedule.alpha(t) + 2 * part.schedule.sigma(t)) * np.ones((1, 2)), rtol=1e-6
        )


def test_tables_of_betas():
    """In diffusers' float32: a thousand roundings of 1 - beta, less than 1e-6. A zero terminal SNR ends as theirs."""
    for name, mine in (("linear", "linear"), ("squaredcos_cap_v2", "cosine")):
        schedule = read_scheduler({"_class_name": "DDIMScheduler", "beta_schedule": name}, "f").schedule
        np.testing.assert_allclose(
            np.exp(2 * schedule.log_alphas), np.exp(2 * Discrete(mine).log_alphas), rtol=0, atol=1e-6
        )
    zero = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    ddim, euler = (read_scheduler(sd(n, **zero), "f").schedule for n in ("DDIMScheduler", "EulerDiscreteScheduler"))
    assert ddim.pure_noise and not euler.pure_noise
    np.testing.assert_allclose(np.exp(2 * euler.log_alphas[-1]), 2.0**-24, rtol=1e-9)
    wanted = Discrete("scaled_linear", zero_terminal_snr=True).log_alphas
    np.testing.assert_allclose(np.exp(ddim.log_alphas), np.exp(wanted), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "allowed"),
    # First order errs by some hundredths at 40 steps, and so does a last step of first order from a level of .16.
    [
        ("DDIMScheduler", 0.05),
        ("EulerDiscreteScheduler", 0.05),
        ("PNDMScheduler", 0.02),
        ("HeunDiscreteScheduler", 0.01),
        ("DPMSolverMultistepScheduler", 0.05),
        ("UniPCMultistepScheduler", 0.05),
    ],
)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_gaussian_data_are_reached(name, allowed, prediction):
    """The exact flow of N(.7, .5^2) from the noise that the scheduler begins with."""
    more = {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
    plan = read_scheduler(sd(name, prediction_type=prediction, clip_sample=False, **more), "f").plan(40)
    if (name, prediction) == ("PNDMScheduler", "v_prediction"):
        allowed = 0.1  # of first order on v
    truth = exact.gaussian(plan.schedule, jnp.full(1, 0.7), 0.5)

    def network(params, x, time, cond, *, key=None, train=False):
        t = (time + 1) / 1000
        pair = truth(x, t)
        return from_pair(plan.prediction, pair.x0, pair.eps, t, plan.schedule)

    model = denoiser(network, {}, plan.schedule, plan.prediction, plan.time)
    x1 = plan.noise_scale * jnp.array([[-1.5], [0.0], [1.0]])
    t = jnp.float32(plan.ts[0])
    alpha, sigma = plan.schedule.alpha(t), plan.schedule.sigma(t)
    wanted = 0.7 + 0.5 * (x1 - 0.7 * alpha) / jnp.sqrt(0.25 * alpha**2 + sigma**2)
    assert float(jnp.abs(plan.sample(model, x1, KEY) - wanted).max()) < allowed


def bare(plan, time="index"):
    """A network that says what it is told."""

    def network(params, x, time, cond, *, key=None, train=False):
        return 0.1 * x + 1e-3 * time[:, None, None, None]

    return denoiser(network, {}, plan.schedule, plan.prediction, time)


def test_any_solver_and_grid_in_the_folders_place():
    scheduler = read_scheduler(sd("PNDMScheduler", skip_prk_steps=True, prediction_type="v_prediction"), "f")
    model, x1 = bare(scheduler), jnp.asarray(START)
    for grid in (karras(8, scheduler.schedule), discrete(8, scheduler.schedule)):
        for solver in (UniPC(3), DPMSolverPP(2)):
            assert bool(jnp.isfinite(sample(model, scheduler.schedule, solver, x1, grid, KEY)).all())
    # The folder's own choice by hand: DPM-Solver++ 2M on its grid is DPMSolverPP(2).
    plan = read_scheduler(sd("DPMSolverMultistepScheduler", timestep_spacing="trailing"), "f").plan(20)
    mine = sample(bare(plan), plan.schedule, DPMSolverPP(2), x1, discrete(20, plan.schedule, "trailing"), KEY)
    np.testing.assert_allclose(plan.sample(bare(plan), x1, KEY), mine, rtol=1e-5, atol=1e-5)


def test_with_guidance_an_edit_and_a_trace():
    plan = read_scheduler(sd("DDIMScheduler", timestep_spacing="trailing"), "f").plan(5)
    model, x1 = bare(plan), jnp.asarray(START)
    guided = classifier_free(model, {"label": jnp.zeros(1)}, guidance_scale=3.0)
    cond = {"label": jnp.ones(len(x1))}
    np.testing.assert_allclose(plan.sample(guided, x1, KEY, cond), plan.sample(model, x1, KEY), rtol=1e-4, atol=1e-5)
    path = plan.trace(guided, x1, KEY, cond)
    assert path.xs.shape == (6, *x1.shape) and int(path.nfe) == 5
    mask = jnp.ones((1, *x1.shape[1:]), bool).at[..., 0].set(False)
    kept = sample(plan.ready(guided), plan.schedule, Inpaint(plan.solver, x1, mask), x1, plan.ts, KEY, cond)
    np.testing.assert_array_equal(np.asarray(kept)[..., 1:], np.asarray(x1)[..., 1:])


def test_clipping_bounds_the_sample_and_stable_diffusion_has_none():
    scheduler = read_scheduler({"_class_name": "DDIMScheduler", "clip_sample_range": 0.5}, "f")
    x0 = scheduler.plan(4).sample(bare(scheduler), jnp.asarray(5 * START), KEY)
    assert float(jnp.abs(x0).max()) <= 0.5
    free = scheduler.in_stable_diffusion()
    assert free.fields["steps_offset"] == 1 and free.fields["clip_sample"] is False
    assert free.plan(4).timesteps.tolist() == [751, 501, 251, 1]
    assert float(jnp.abs(free.plan(4).sample(bare(free), jnp.asarray(5 * START), KEY)).max()) > 0.5
    euler = read_scheduler(sd("EulerDiscreteScheduler", steps_offset=0), "f").in_stable_diffusion()
    assert euler.fields["steps_offset"] == 1 and "clip_sample" not in euler.fields
    fills = scheduler.in_stable_diffusion(fills=True).fields
    assert fills["clip_sample"] is True and fills["steps_offset"] == 1 and "skip_prk_steps" not in fills
    assert read_scheduler(sd("PNDMScheduler"), "f").in_stable_diffusion(fills=True).fields["skip_prk_steps"] is True


def test_fields_of_other_classes_and_notes_change_nothing():
    plain = read_scheduler(sd("EulerDiscreteScheduler"), "f")
    said = sd(
        "EulerDiscreteScheduler",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        sample_max_value=1.0,
        clip_sample=False,
        trained_betas=None,
        _diffusers_version="0.19",
    )
    assert read_scheduler(said, "f") == plain


BAD = [
    ({"_class_name": "DDIMSchedular"}, "_class_name 'DDIMSchedular' is not known; did you mean 'DDIMScheduler'"),
    ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "_class_name 'FlowMatchEulerDiscreteScheduler' is not known"),
    ({}, "_class_name is missing"),
    (sd("DDIMScheduler", beta_shedule="linear"), "beta_shedule 'linear' is not known; did you mean 'beta_schedule'"),
    (sd("DDIMScheduler", beta_schedule="squaredcos"), "beta_schedule 'squaredcos' is not known; did you mean"),
    (sd("DDIMScheduler", beta_end=1.5), r"beta_end 1.5 is not a number in \(0, 1\)"),
    (sd("DDIMScheduler", beta_end=1e-4), "beta_start 0.00085 is above beta_end 0.0001"),
    (sd("DDIMScheduler", num_train_timesteps=1.5), "num_train_timesteps 1.5 is not a whole number"),
    (sd("DDIMScheduler", trained_betas=[0.1, 0.2]), "trained_betas has 2 numbers for num_train_timesteps 1000"),
    (sd("DDIMScheduler", trained_betas=[0.1, 2.0]), r"trained_betas\[1\] 2.0 is not a number in"),
    (sd("DDIMScheduler", trained_betas=0.1), "trained_betas is not a list"),
    (sd("DDIMScheduler", prediction_type="eps"), "prediction_type 'eps' is not known"),
    (sd("DDIMScheduler", prediction_type="flow_prediction"), "prediction_type 'flow_prediction' is not known"),
    (sd("PNDMScheduler", prediction_type="sample"), "prediction_type 'sample' is not known"),
    (sd("DDIMScheduler", timestep_spacing="trail"), "timestep_spacing 'trail' is not known; did you mean 'trailing'"),
    (sd("DDIMScheduler", clip_sample=1), "clip_sample 1 is neither true nor false"),
    (sd("DDIMScheduler", clip_sample_range=-1), "clip_sample_range -1 is not a finite number above 0"),
    (sd("DDIMScheduler", dynamic_thresholding_ratio=2), r"dynamic_thresholding_ratio 2 is not a number in \[0, 1\]"),
    (sd("DDIMScheduler", steps_offset=-1), "steps_offset -1 is not a whole number of at least 0"),
    (sd("DDPMScheduler", variance_type="fixed_large_log"), "variance_type 'fixed_large_log' is not known"),
    (sd("EulerDiscreteScheduler", interpolation_type="log"), "interpolation_type 'log' is not known"),
    (sd("EulerDiscreteScheduler", final_sigmas_type="sigma"), "final_sigmas_type 'sigma' is not known"),
    (sd("EulerDiscreteScheduler", timestep_type="float"), "timestep_type 'float' is not known"),
    (sd("DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver"), "algorithm_type 'sde-dpmsolver' is not known"),
    (sd("DPMSolverMultistepScheduler", solver_type="rk"), "solver_type 'rk' is not known"),
    (sd("DPMSolverMultistepScheduler", use_flow_sigmas=True), "use_flow_sigmas True is not possible here, only False"),
    (sd("DPMSolverMultistepScheduler", lambda_min_clipped="low"), "lambda_min_clipped 'low' is not a number"),
    (sd("UniPCMultistepScheduler", predict_x0=False), "predict_x0 False is not possible here, only True"),
    (sd("UniPCMultistepScheduler", disable_corrector=[0]), r"disable_corrector \[0\] is not possible here, only \[\]"),
    (sd("UniPCMultistepScheduler", solver_p={"order": 1}), "solver_p .* is not possible here"),
    (sd("DEISMultistepScheduler", solver_type="rho"), "solver_type 'rho' is not possible here"),
]


@pytest.mark.parametrize(("config", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_a_bad_field_is_named_in_one_line(config, message):
    with pytest.raises(UserError, match=message) as raised:
        read_scheduler(config, "a/scheduler_config.json")
    assert str(raised.value).startswith("a/scheduler_config.json: ") and "\n" not in str(raised.value)


def unread(name, num_steps=20, strength=1.0, eta=0.0, **more):
    return lambda: read_scheduler(sd(name, **more), "f").plan(num_steps, strength=strength, eta=eta)


REFUSED = [
    (unread("DDIMScheduler", 0), "num_steps 0 is not a whole number"),
    (unread("DDIMScheduler", 1001), "num_steps 1001 is more than a table of 1000 has room for; nearest: 1000"),
    (unread("DPMSolverMultistepScheduler", 1000), "nearest: 999"),
    (unread("DDIMScheduler", 1000), "steps_offset 1 takes the first of 1000 steps to 1000 .* nearest: 0"),
    (unread("DDIMScheduler", strength=1.5), r"strength 1.5 is not in \(0, 1\]; nearest: 1"),
    (unread("DDIMScheduler", strength=0.04), "strength 0.04 of 20 steps leaves none of them; nearest: 0.05"),
    (unread("DDIMScheduler", eta=1.5), "eta 1.5 is not in"),
    (unread("PNDMScheduler", eta=0.5), "eta 0.5 is DDIMScheduler's alone"),
    (unread("PNDMScheduler", 30), "skip_prk_steps False with num_steps 30"),
    (unread("PNDMScheduler", skip_prk_steps=True, timestep_spacing="linspace"), "timestep_spacing 'linspace' with"),
    (
        unread("PNDMScheduler", skip_prk_steps=True, strength=0.95),
        "begins PNDMScheduler at the timestep that it asks twice",
    ),
    (unread("LMSDiscreteScheduler", strength=0.5), "LMSDiscreteScheduler from a picture weighs"),
    (unread("EulerDiscreteScheduler", use_karras_sigmas=True, use_beta_sigmas=True), "are both true"),
    (
        unread("EulerDiscreteScheduler", use_karras_sigmas=True, sigma_max=80.0),
        "sigma_max 80 is outside the noise levels",
    ),
    (unread("EulerDiscreteScheduler", use_karras_sigmas=True, sigma_min=1e-3), "sigma_min 0.001 is outside"),
    (unread("EulerDiscreteScheduler", use_karras_sigmas=True, sigma_min=50.0), "sigma_min 50 is not below sigma_max"),
    (
        unread("DPMSolverMultistepScheduler", algorithm_type="dpmsolver"),
        "final_sigmas_type 'zero' is not possible with",
    ),
    (unread("DPMSolverMultistepScheduler", solver_order=4), "solver_order 4 is not from 1 to 3; nearest: 3"),
    (unread("UniPCMultistepScheduler", solver_order=4), "solver_order 4 is not from 1 to 3"),
    (unread("DEISMultistepScheduler", solver_order=4), "solver_order 4 is not from 1 to 3"),
    (
        unread("DPMSolverMultistepScheduler", lambda_min_clipped=-2.0, timestep_spacing="trailing"),
        "lambda_min_clipped -2.0 with timestep_spacing 'trailing'",
    ),
    (unread("DDPMScheduler", variance_type="fixed_large"), "variance_type 'fixed_large' with a last timestep of 1"),
    (unread("LCMScheduler", 60), "num_steps 60 of LCMScheduler, original_inference_steps 50"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_what_is_not_read_is_refused(make, message):
    with pytest.raises(UserError, match=message) as raised:
        make()
    assert "\n" not in str(raised.value)


def test_no_signal_and_eps_are_refused_by_the_denoiser():
    plan = read_scheduler(sd("DDIMScheduler", rescale_betas_zero_snr=True), "f").plan(5)
    with pytest.raises(UserError, match="prediction 'eps' cannot represent t = 1"):
        bare(plan)


def test_a_table_of_signal():
    np.testing.assert_array_equal(Discrete.from_signal([0.9, 0.5, 0.0]).alpha(jnp.float32(1.0)), 0.0)
    for bad, message in (
        ([0.9], r"alpha-bar has shape \(1,\)"),
        ([0.9, 0.95], r"alpha-bar\[1\] = 0.95 is not in \(0, 0.9\)"),
        ([0.9, 0.0, 0.0], r"alpha-bar\[1\] = 0 is not in"),
    ):
        with pytest.raises(UserError, match=message):
            Discrete.from_signal(bad)
