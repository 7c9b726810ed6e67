"""The fields of diffusers' `scheduler_config.json`, a table for each class.

A config often has fields of other classes, which its own class does not read: another class may have written it. They change
nothing, and are known here to change nothing. What no class knows is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from diffusion_jax.convert.fields import UNUSED, Field, Table, choice, flag, number, only, reads, whole
from diffusion_jax.convert.fields import natural as from_zero
from diffusion_jax.typing import UserError

__all__ = ["CLASSES", "PREDICTIONS", "table"]

PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
"""What the network predicts: diffusers' name, and ours."""

BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")
SPACINGS = ("leading", "trailing", "linspace")


def share(what: str, value: Any) -> float:
    """A number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UserError(f"{what} {value!r} is not a number in [0, 1]")
    return float(value)


def beta(what: str, value: Any) -> float:
    """A number in (0, 1)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise UserError(f"{what} {value!r} is not a number in (0, 1)")
    return float(value)


def betas(what: str, value: Any) -> tuple[float, ...]:
    """A list of numbers in (0, 1)."""
    if not isinstance(value, list | tuple) or len(value) < 2:
        raise UserError(f"{what} is not a list of at least 2 numbers")
    return tuple(beta(f"{what}[{index}]", one) for index, one in enumerate(value))


def unbounded(what: str, value: Any) -> float:
    """Minus infinity, which JSON may also write as text."""
    if value in (-math.inf, "-inf", "-Infinity"):
        return -math.inf
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{what} {value!r} is not a number or -Infinity")
    return float(value)


def nothing(what: str, value: Any) -> tuple[()]:
    """An empty list."""
    if value not in ([], ()):
        raise UserError(f"{what} {value!r} is not possible here, only []: the corrector acts in every step")
    return ()


def common(
    beta_start: float = 1e-4, beta_end: float = 0.02, predictions: tuple[str, ...] = tuple(PREDICTIONS)
) -> dict[str, Field]:
    """What every class reads."""
    return {
        "num_train_timesteps": reads(whole, 1000),
        "beta_start": reads(beta, beta_start),
        "beta_end": reads(beta, beta_end),
        "beta_schedule": reads(choice(BETAS), "linear"),
        "trained_betas": reads(betas),
        "prediction_type": reads(choice(predictions), "epsilon"),
        "steps_offset": reads(from_zero, 0),
    }


def spacing(default: str) -> dict[str, Field]:
    """How the timesteps lie in the table."""
    return {"timestep_spacing": reads(choice(SPACINGS), default)}


ZERO_SNR = {"rescale_betas_zero_snr": reads(flag, False)}
CLIP = {"clip_sample": reads(flag, True), "clip_sample_range": reads(number, 1.0)}
THRESHOLD = {
    "thresholding": reads(flag, False),
    "dynamic_thresholding_ratio": reads(share, 0.995),
    "sample_max_value": reads(number, 1.0),
}
LEVELS = {name: reads(flag, False) for name in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")}
ENDS = {"sigma_min": reads(number), "sigma_max": reads(number)}
FINAL = {"final_sigmas_type": reads(choice(("zero", "sigma_min")), "zero")}
NO_FLOW = {
    "use_flow_sigmas": only(False, why="flow matching's levels are another process than a table of betas"),
    "flow_shift": UNUSED,
    "use_dynamic_shifting": only(False, why="flow matching's levels are another process than a table of betas"),
    "time_shift_type": UNUSED,
}
MULTISTEP = {
    "solver_order": reads(whole, 2),
    "lower_order_final": reads(flag, True),
    **THRESHOLD,
    **LEVELS,
    **ENDS,
    **NO_FLOW,
    **spacing("linspace"),
}
WITHOUT_X0 = ("epsilon", "v_prediction")
K_DIFFUSION = {**LEVELS, **ENDS, **spacing("linspace")}

CLASSES: dict[str, dict[str, Field]] = {
    "DDIMScheduler": {
        **common(),
        **CLIP,
        **THRESHOLD,
        **ZERO_SNR,
        **spacing("leading"),
        "set_alpha_to_one": reads(flag, True),
    },
    "DDPMScheduler": {
        **common(),
        **CLIP,
        **THRESHOLD,
        **ZERO_SNR,
        **spacing("leading"),
        "variance_type": reads(
            choice(("fixed_small", "fixed_small_log", "fixed_large", "learned_range")), "fixed_small"
        ),
    },
    "PNDMScheduler": {
        **common(predictions=WITHOUT_X0),
        **spacing("leading"),
        "skip_prk_steps": reads(flag, False),
        "set_alpha_to_one": reads(flag, False),
    },
    "EulerDiscreteScheduler": {
        **common(),
        **K_DIFFUSION,
        **ZERO_SNR,
        **FINAL,
        "interpolation_type": reads(choice(("linear", "log_linear")), "linear"),
        "timestep_type": reads(choice(("discrete", "continuous")), "discrete"),
    },
    "EulerAncestralDiscreteScheduler": {**common(predictions=WITHOUT_X0), **ZERO_SNR, **spacing("linspace")},
    "HeunDiscreteScheduler": {
        **common(0.00085, 0.012),
        **K_DIFFUSION,
        "clip_sample": reads(flag, False),
        "clip_sample_range": reads(number, 1.0),
    },
    "LMSDiscreteScheduler": {**common(), **LEVELS, **spacing("linspace")},
    "KDPM2DiscreteScheduler": {**common(0.00085, 0.012, WITHOUT_X0), **K_DIFFUSION},
    "KDPM2AncestralDiscreteScheduler": {**common(0.00085, 0.012, WITHOUT_X0), **K_DIFFUSION},
    "DPMSolverMultistepScheduler": {
        **common(),
        **MULTISTEP,
        **ZERO_SNR,
        **FINAL,
        "algorithm_type": reads(choice(("dpmsolver++", "sde-dpmsolver++", "dpmsolver", "deis")), "dpmsolver++"),
        "solver_type": reads(choice(("midpoint", "heun", "logrho", "bh1", "bh2")), "midpoint"),
        "euler_at_final": reads(flag, False),
        "use_lu_lambdas": reads(flag, False),
        "lambda_min_clipped": reads(unbounded, -math.inf),
        "variance_type": reads(choice(("learned", "learned_range"))),
    },
    "UniPCMultistepScheduler": {
        **common(),
        **MULTISTEP,
        **ZERO_SNR,
        **FINAL,
        "predict_x0": only(True, why="UniPC works on x0 here"),
        "solver_type": reads(choice(("bh1", "bh2", "midpoint", "heun", "logrho")), "bh2"),
        "disable_corrector": Field("only", nothing),
        "solver_p": Field("only", nothing),
        "shift_terminal": Field("only", nothing),
    },
    "DEISMultistepScheduler": {
        **common(),
        **MULTISTEP,
        "algorithm_type": only("deis", "dpmsolver", "dpmsolver++", why="the class knows these, and means DEIS by each"),
        "solver_type": only(
            "logrho", "midpoint", "heun", "bh1", "bh2", why="the class knows these, and means logrho by each"
        ),
    },
    "LCMScheduler": {
        **common(0.00085, 0.012),
        "beta_schedule": reads(choice(BETAS), "scaled_linear"),
        "original_inference_steps": reads(whole, 50),
        "clip_sample": reads(flag, False),
        "clip_sample_range": reads(number, 1.0),
        "set_alpha_to_one": UNUSED,  # the last step gives the clean end itself
        **THRESHOLD,
        **ZERO_SNR,
        "timestep_spacing": UNUSED,  # its timesteps are those of its distillation
        "timestep_scaling": reads(number, 10.0),
    },
    "UnCLIPScheduler": {
        "num_train_timesteps": reads(whole, 1000),
        "variance_type": reads(choice(("fixed_small_log", "learned_range")), "fixed_small_log"),
        "prediction_type": reads(choice(("epsilon", "sample")), "epsilon"),
        "beta_schedule": reads(choice(("squaredcos_cap_v2",)), "squaredcos_cap_v2"),
        **CLIP,
    },
}


def table(name: str) -> Table:
    """The fields of a class, and as unused those that only others read."""
    others: Mapping[str, Field] = {field: UNUSED for fields in CLASSES.values() for field in fields}
    return {**others, **CLASSES[name]}
