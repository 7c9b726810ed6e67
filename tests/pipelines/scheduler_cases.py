"""The configs at which diffusers' schedulers are compared, a name each, and the cheap network that all of them run."""

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.pipelines import read_scheduler
from diffusion_jax.process import denoiser

SHAPE = (2, 3, 4, 3)  # diffusers cuts a learned variance off along the second axis, this library along the last
_RANDOM = np.random.default_rng(0)
START, PICTURE = _RANDOM.normal(size=(2, *SHAPE)).astype("f")
DRAWN = _RANDOM.normal(size=(60, *SHAPE)).astype("f")
PARTS = {"noise": 1.0, "picture": 0.75}
"""The start of the goldens, and its strength."""
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}


def network(x, t, sin):
    """Not linear in x, and of another answer at each timestep."""
    return 0.7 * sin(1.3 * x + t / 300) + 0.3 * x


def sd(name, **more):
    """A config with Stable Diffusion's table."""
    return {"_class_name": name, **SD, **more}


CASES = {
    "ddim": sd("DDIMScheduler", clip_sample=False, set_alpha_to_one=False),
    "ddim v zero snr": sd(
        "DDIMScheduler",
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    ),
    "ddim clipped": {"_class_name": "DDIMScheduler"},
    "ddim clipped, to step 0": {"_class_name": "DDIMScheduler", "set_alpha_to_one": False, "clip_sample_range": 0.8},
    "ddim linspace": sd("DDIMScheduler", clip_sample=False, timestep_spacing="linspace"),
    "ddim x0": sd("DDIMScheduler", clip_sample=False, timestep_spacing="trailing", prediction_type="sample"),
    "ddim cosine": {"_class_name": "DDIMScheduler", "beta_schedule": "squaredcos_cap_v2", "clip_sample": False},
    "ddim thresholded": {"_class_name": "DDIMScheduler", "thresholding": True, "sample_max_value": 1.5},
    "ddim trained": {
        "_class_name": "DDIMScheduler",
        "trained_betas": np.linspace(1e-3, 3e-2, 500).tolist(),
        "num_train_timesteps": 500,
        "clip_sample": False,
    },
    "pndm": sd("PNDMScheduler", skip_prk_steps=True),
    "pndm v": sd("PNDMScheduler", skip_prk_steps=True, prediction_type="v_prediction"),
    "pndm to 1": sd("PNDMScheduler", skip_prk_steps=True, set_alpha_to_one=True),
    "euler": sd("EulerDiscreteScheduler", timestep_spacing="leading"),
    "euler linspace": sd("EulerDiscreteScheduler"),
    "euler trailing v": sd("EulerDiscreteScheduler", timestep_spacing="trailing", prediction_type="v_prediction"),
    "euler x0": sd("EulerDiscreteScheduler", prediction_type="sample"),
    "euler karras": sd("EulerDiscreteScheduler", timestep_spacing="leading", use_karras_sigmas=True),
    "euler karras ends": sd("EulerDiscreteScheduler", use_karras_sigmas=True, sigma_min=0.1, sigma_max=10.0),
    "euler exponential": sd("EulerDiscreteScheduler", use_exponential_sigmas=True),
    "euler beta": sd("EulerDiscreteScheduler", use_beta_sigmas=True),
    "euler log": sd("EulerDiscreteScheduler", interpolation_type="log_linear"),
    "euler to sigma_min": sd("EulerDiscreteScheduler", final_sigmas_type="sigma_min"),
    "euler zero snr": sd(
        "EulerDiscreteScheduler",
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    ),
    "euler continuous": sd(
        "EulerDiscreteScheduler",
        timestep_type="continuous",
        prediction_type="v_prediction",
        use_karras_sigmas=True,
    ),
    "euler ancestral": sd("EulerAncestralDiscreteScheduler", timestep_spacing="trailing"),
    "euler ancestral zero snr": sd(
        "EulerAncestralDiscreteScheduler", rescale_betas_zero_snr=True, prediction_type="v_prediction"
    ),
    "heun": sd("HeunDiscreteScheduler", timestep_spacing="leading"),
    "heun karras": sd("HeunDiscreteScheduler", use_karras_sigmas=True, prediction_type="v_prediction"),
    "heun clipped": sd("HeunDiscreteScheduler", clip_sample=True, prediction_type="sample"),
    "lms": sd("LMSDiscreteScheduler"),
    "lms karras": sd("LMSDiscreteScheduler", use_karras_sigmas=True),
    "dpm2": sd("KDPM2DiscreteScheduler", timestep_spacing="leading"),
    "dpm2 linspace": sd("KDPM2DiscreteScheduler"),
    "dpm2 karras": sd("KDPM2DiscreteScheduler", use_karras_sigmas=True, prediction_type="v_prediction"),
    "dpm2 ancestral": sd("KDPM2AncestralDiscreteScheduler", timestep_spacing="trailing"),
    "dpm2 ancestral karras": sd("KDPM2AncestralDiscreteScheduler", use_karras_sigmas=True),
    **{
        f"dpm++ {order} {variant}": sd("DPMSolverMultistepScheduler", solver_order=order, solver_type=variant)
        for order in (1, 2, 3)
        for variant in ("midpoint", "heun")
    },
    "dpm++ foreign": sd("DPMSolverMultistepScheduler", solver_type="bh2", timestep_spacing="trailing"),
    "dpm++ leading": sd("DPMSolverMultistepScheduler", timestep_spacing="leading"),
    "dpm++ trailing v": sd("DPMSolverMultistepScheduler", timestep_spacing="trailing", prediction_type="v_prediction"),
    "dpm++ karras": sd("DPMSolverMultistepScheduler", use_karras_sigmas=True),
    "dpm++ lu": sd("DPMSolverMultistepScheduler", use_lu_lambdas=True),
    "dpm++ exponential": sd("DPMSolverMultistepScheduler", use_exponential_sigmas=True),
    "dpm++ beta": sd("DPMSolverMultistepScheduler", use_beta_sigmas=True, euler_at_final=True),
    "dpm++ cosine": {
        "_class_name": "DPMSolverMultistepScheduler",
        "beta_schedule": "squaredcos_cap_v2",
        "lambda_min_clipped": -5.1,
    },
    "dpm++ to sigma_min": sd("DPMSolverMultistepScheduler", final_sigmas_type="sigma_min", solver_order=3),
    "dpm++ euler at final": sd(
        "DPMSolverMultistepScheduler", final_sigmas_type="sigma_min", euler_at_final=True, lower_order_final=False
    ),
    "dpm++ not lowered": sd("DPMSolverMultistepScheduler", final_sigmas_type="sigma_min", lower_order_final=False),
    "dpm++ zero snr": sd(
        "DPMSolverMultistepScheduler",
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    ),
    "dpm++ thresholded": {
        "_class_name": "DPMSolverMultistepScheduler",
        "thresholding": True,
        "sample_max_value": 2.0,
        "dynamic_thresholding_ratio": 0.9,
    },
    "dpm++ learned": sd("DPMSolverMultistepScheduler", variance_type="learned_range"),
    **{
        f"sde-dpm++ {order} {variant}": sd(
            "DPMSolverMultistepScheduler",
            algorithm_type="sde-dpmsolver++",
            solver_order=order,
            solver_type=variant,
            timestep_spacing="trailing",
        )
        for order, variant in ((1, "midpoint"), (2, "midpoint"), (2, "heun"), (3, "midpoint"))
    },
    **{
        f"dpm {order} {variant}": sd(
            "DPMSolverMultistepScheduler",
            algorithm_type="dpmsolver",
            solver_order=order,
            solver_type=variant,
            final_sigmas_type="sigma_min",
        )
        for order, variant in ((1, "midpoint"), (2, "midpoint"), (2, "heun"), (3, "midpoint"))
    },
    **{
        f"unipc {order} {variant}": sd(
            "UniPCMultistepScheduler", solver_order=order, solver_type=variant, final_sigmas_type=final
        )
        for order in (1, 2, 3)
        # diffusers' bh1 gives NaN in a last step to no noise.
        for variant, final in (("bh1", "sigma_min"), ("bh2", "zero"))
    },
    "unipc karras": sd("UniPCMultistepScheduler", use_karras_sigmas=True),
    "unipc to sigma_min": sd("UniPCMultistepScheduler", final_sigmas_type="sigma_min"),
    "unipc not lowered": sd(
        "UniPCMultistepScheduler", final_sigmas_type="sigma_min", lower_order_final=False, solver_order=3
    ),
    "unipc v": sd("UniPCMultistepScheduler", prediction_type="v_prediction", timestep_spacing="trailing"),
    "unipc zero snr": sd(
        "UniPCMultistepScheduler",
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    ),
    **{f"deis {order}": sd("DEISMultistepScheduler", solver_order=order) for order in (1, 2, 3)},
    "deis karras": sd("DEISMultistepScheduler", use_karras_sigmas=True),
    "deis not lowered": sd("DEISMultistepScheduler", lower_order_final=False, timestep_spacing="leading"),
    "ddpm": {"_class_name": "DDPMScheduler"},
    "ddpm large": {"_class_name": "DDPMScheduler", "variance_type": "fixed_large", "clip_sample": False},
    "ddpm small log": sd("DDPMScheduler", variance_type="fixed_small_log", clip_sample=False),
    "unclip": {"_class_name": "UnCLIPScheduler"},
    "unclip x0": {"_class_name": "UnCLIPScheduler", "prediction_type": "sample", "clip_sample_range": 5.0},
    "unclip learned": {"_class_name": "UnCLIPScheduler", "variance_type": "learned_range"},
    "ddpm learned": {"_class_name": "DDPMScheduler", "variance_type": "learned_range", "thresholding": True},
    "ddpm v zero snr": sd(
        "DDPMScheduler",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
    ),
    "lcm": {"_class_name": "LCMScheduler"},
    "lcm v clipped": {"_class_name": "LCMScheduler", "prediction_type": "v_prediction", "clip_sample": True},
}


def ours(config, num_steps, strength=1.0, eta=0.0, record=True):
    """(x0, plan, the timesteps that the network was told in the order of its calls, where they are to be recorded)."""
    plan = read_scheduler(config, "a file").plan(num_steps, strength=strength, eta=eta)
    told = []

    def apply(params, x, t, cond, *, key=None, train=False):
        if record:
            jax.debug.callback(lambda one: told.append(float(one)), t[0], ordered=True)
        output = network(x, t[:, None, None, None], jnp.sin)
        return jnp.concatenate([output, 0.1 * output], axis=-1) if plan.learned_variance else output

    model = denoiser(apply, {}, plan.schedule, plan.prediction, plan.time, learned_variance=plan.learned_variance)
    start = jnp.asarray(START)
    x1 = plan.noise_scale * start if strength == 1 else plan.noised(jnp.asarray(PICTURE), start)
    noise = DRAWN[: len(plan.ts) - 1]
    x0 = plan.sample(model, x1, jax.random.key(0), noise=noise)
    x0.block_until_ready()
    jax.effects_barrier()
    return np.asarray(x0), plan, np.array(told)
