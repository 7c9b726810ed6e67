"""What the single files of Stable Diffusion hold: the sizes that a folder tells and a file of weights does not.

Sources: the public configs of latent diffusion (arXiv 2112.10752), of Stable Diffusion 2 and of XL (arXiv 2307.01952), and
diffusers' folders of the same models, whose scheduler is the one that its `from_single_file` takes:

| model | scheduler | predicts | pictures |
|---|---|---|---|
| sd-1.5 (1.1 to 1.5) | PNDMScheduler | eps | 512 |
| sd-2.1 (2.0 too) | DDIMScheduler | v | 768 |
| sd-2.1-base (2.0's too) | PNDMScheduler | eps | 512 |
| sdxl, sdxl-refiner | EulerDiscreteScheduler | eps | 1024 |

2.1 and its base have the same weights by name and shape. All were trained with the noise of 1.5: betas from 0.00085 to 0.012,
whose roots are evenly spaced.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from diffusion_jax.nets import unet_model, vae_model

__all__ = ["MODELS", "Description", "Tower"]

Config = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Tower:
    """A text encoder in a file: names after `prefix` in a `layout` "hf" or "open_clip", and its sizes.

    `embed` is None where no projection is read; `text` are the keywords of `nets.text.TextTransformer`, `pad` the token that
    fills a row, None for the end token. `unread` blocks follow in the file and are left out: Stable Diffusion 2 reads the
    last but one, through the last norm.
    """

    prefix: str
    layout: str
    embed: int | None
    text: Config
    pad: str | None = None
    unread: int = 0


@dataclasses.dataclass(frozen=True)
class Description:
    """A model: `kind` "sd" or "sdxl", the keywords of `nets.UNet`, a config of `nets.vae`, the text encoders in their order.

    `scheduler` is a scheduler_config.json; `size` the edge of the latents that it was trained on. `zeros` and `aesthetics` are
    those of `TextToImage`. A U-Net that fills in (of 2 n + 1 channels for latents of n) is described by the one that does not.
    """

    kind: str
    unet: Config
    vae: Config
    towers: tuple[Tower, ...]
    scheduler: Config
    size: int
    zeros: bool = False
    aesthetics: bool = False


NOISE = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "steps_offset": 1, "prediction_type": "epsilon",
}  # fmt: skip
PNDM = {"_class_name": "PNDMScheduler", **NOISE, "set_alpha_to_one": False, "skip_prk_steps": True}
DDIM = {"_class_name": "DDIMScheduler", **NOISE, "set_alpha_to_one": False, "clip_sample": False}
EULER = {"_class_name": "EulerDiscreteScheduler", **NOISE, "timestep_spacing": "leading"}


def _text(width: int, layers: int, activation: str) -> dict[str, Any]:
    """CLIP's text towers: heads of 64 features, 49408 tokens, rows of 77."""
    return {
        "width": width, "layers": layers, "heads": width // 64, "mlp_ratio": 4.0, "activation": activation, "eps": 1e-5,
        "vocabulary_size": 49408, "context_length": 77, "pool": "end", "end_token": None,
    }  # fmt: skip


_SMALL = _text(768, 12, "quick_gelu")
_BIG = _text(1280, 32, "gelu")
_SD2 = Description(
    "sd",
    unet_model("sd-2.1") | {"out_channels": 4},
    vae_model("kl-f8"),
    (Tower("cond_stage_model.model.", "open_clip", None, _text(1024, 23, "gelu"), "!", unread=1),),
    {**DDIM, "prediction_type": "v_prediction"},
    96,
)
MODELS: dict[str, Description] = {
    "sd-1.5": Description(
        "sd",
        unet_model("sd-1.5") | {"out_channels": 4},
        vae_model("kl-f8"),
        (Tower("cond_stage_model.transformer.", "hf", None, _SMALL),),
        PNDM,
        64,
    ),
    "sd-2.1": _SD2,
    "sd-2.1-base": dataclasses.replace(_SD2, scheduler=PNDM, size=64),
    "sdxl": Description(
        "sdxl",
        unet_model("sdxl") | {"out_channels": 4},
        vae_model("sdxl-vae"),
        (
            Tower("conditioner.embedders.0.transformer.", "hf", None, _SMALL),
            Tower("conditioner.embedders.1.model.", "open_clip", 1280, _BIG, "!"),
        ),
        EULER,
        128,
        zeros=True,
    ),
    "sdxl-refiner": Description(
        "sdxl",
        unet_model("sdxl-refiner") | {"out_channels": 4},
        vae_model("sdxl-vae"),
        (Tower("conditioner.embedders.0.model.", "open_clip", 1280, _BIG, "!"),),
        EULER,
        128,
        aesthetics=True,
    ),
}
"""The models whose files are read, by name."""
