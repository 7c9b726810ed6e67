"""Published diffusion networks: `load_pretrained("stable-diffusion-v1-5/unet")` gives its `network`, `params` and `config`.

The network is a pure function like any other here: `network.apply(params, xt, time, cond)`, images NHWC, the time in the unit
of the folder's own scheduler (17., 803.). `process.denoiser` makes a DenoiseFn of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_jax.build.networks import compute_dtype, kept
from diffusion_jax.convert.dit import load_dit
from diffusion_jax.convert.files import read_config
from diffusion_jax.convert.prior import load_prior
from diffusion_jax.convert.unet import load_unet
from diffusion_jax.nets import (
    DIT_MODELS,
    UNET_MODELS,
    DiT,
    Network,
    PriorTransformer,
    UNet,
    complete_unet,
    dit_model,
    unet_model,
)
from diffusion_jax.typing import Params, UserError, path_of

__all__ = ["Pretrained", "load_network", "order_of", "publishes"]

UNETS = ("UNet2DModel", "UNet2DConditionModel")
DITS = ("DiTTransformer2DModel", "Transformer2DModel")
PRIORS = ("PriorTransformer",)


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """A published network: `network.apply(params, xt, time, cond)`; `config` are the keywords of its class `kind`, "UNet",
    "DiT" or "PriorTransformer", `told` its own config.json."""

    path: Path
    kind: str
    network: Network
    params: Params
    config: Mapping[str, Any]
    told: Mapping[str, Any]


def publishes(path: Path, model: str | None = None) -> bool:
    """Whether weights at a path are said to be a diffusion network's, by the name of a model or by what lies beside them."""
    return model in (*UNET_MODELS, *DIT_MODELS) if model is not None else "_class_name" in read_config(path)


def order_of(model: str | None) -> str:
    """In which order guided-diffusion's file of a model has q, k and v: all of its 64 x 64 model's q first, else by heads."""
    return "parts" if model == "adm-64" else "heads"


def load_network(
    path: str | Path,
    *,
    model: str | None = None,
    order: str | None = None,
    dtype: str = "auto",
    scan: bool = False,
    remat: str | None = None,
    param_dtype: str = "float32",
) -> Pretrained:
    """The U-Net, DiT or unCLIP's prior in a folder or file, its parameters on the device, "float32" or rounded to "bfloat16".

    `model` is a name of `nets.UNET_MODELS` for weights that do not say what they are (guided-diffusion's, whose q, k and v are
    in an `order` "heads" or "parts", by default that of its publication, and whole checkpoints of latent diffusion), or one of
    `nets.DIT_MODELS` for a DiT's file in Meta's layout. `dtype`,
    `scan` and `remat` say how it computes. Raises UserError for a model that is not here, by the class or the field that is
    not, and for weights that do not fit.
    """
    path = path_of("path", path)
    told = read_config(path)
    order = order_of(model) if order is None else order
    how = {"dtype": compute_dtype(dtype), "scan": scan, "remat": remat}
    name, kind = told.get("_class_name"), "UNet"
    if model in DIT_MODELS:
        kind, (config, params) = "DiT", load_dit(path, config=dit_model(model))
        network = Network(lambda rngs: DiT(rngs, **config, **how))
    elif model is not None:
        sizes = unet_model(model)
        if "width" in sizes or "unet" in sizes:
            raise UserError(f"model {model!r} has no published weights in a layout that is read here")
        config, params = load_unet(path, complete_unet, config=sizes, order=order)
        network = Network(lambda rngs: UNet(rngs, **config, **how))
    elif name in DITS:
        kind, (config, params) = "DiT", load_dit(path)
        network = Network(lambda rngs: DiT(rngs, **config, **how))
    elif name in PRIORS:
        kind, (config, params) = "PriorTransformer", load_prior(path)
        network = Network(lambda rngs: PriorTransformer(rngs, **config, **how))
    elif name in UNETS or name is None:
        config, params = load_unet(path, complete_unet, order=order)
        network = Network(lambda rngs: UNet(rngs, **config, **how))
    else:
        known = ", ".join((*UNETS, *DITS, *PRIORS))
        raise UserError(f"{str(path)!r} holds a {name}, which is not read here; read are {known}")
    return Pretrained(path, kind, network, kept(params, param_dtype), config, told)
