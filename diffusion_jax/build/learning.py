"""The groups `optimizer` and `ema`, and the contrastive `loss` of a CLIP config."""

from __future__ import annotations

from typing import Any

from diffusion_jax.build.constructors import Spec, construct
from diffusion_jax.train.ema import Ema
from diffusion_jax.train.optim import adamw
from diffusion_jax.typing import UserError, one_of

__all__ = ["CONTRASTIVE", "OPTIMIZERS", "contrastive_loss", "ema", "optimizer"]

OPTIMIZERS = {"adamw": adamw}
CONTRASTIVE: dict[str, Any] = {"chunk": 0, "micro_batches": 1, "identity": False}
"""The options of a contrastive loss beside its name."""


def contrastive_loss(spec: Spec | None, *, logit_bias: bool) -> dict[str, Any]:
    """The `loss` group of a CLIP config: name ("infonce", "sigmoid"), chunk, micro_batches, identity.

    `chunk` is 0 for whole logits, or how many columns of them stand at once on a device. Without a group, the loss that
    the model was made for. UserError for numbers that are no sizes, and for "sigmoid" without a logit bias.
    """
    options: dict[str, Any] = {"name": "sigmoid" if logit_bias else "infonce", **CONTRASTIVE}
    for key, value in dict(spec or {}).items():
        options[one_of("config key of loss:", key, options)] = value
    one_of("loss", options["name"], ("infonce", "sigmoid"))
    for key, least in (("chunk", 0), ("micro_batches", 1)):
        if not isinstance(options[key], int) or options[key] < least:
            raise UserError(f"config key 'loss.{key}' is {options[key]!r}; it is a whole number of at least {least}")
    if options["name"] == "sigmoid" and not logit_bias:
        raise UserError("loss 'sigmoid' needs model.logit_bias=True; nearest: loss 'infonce'")
    return options


def optimizer(spec: Spec, total_steps: int, **given: Any) -> Any:
    """The optax transformation of a config's `optimizer` group over `total_steps` steps."""
    return construct("optimizer", OPTIMIZERS, spec, total_steps=total_steps, **given)


def ema(spec: Spec) -> Ema:
    """The parameter average of a config's `ema` group."""
    return construct("ema", {"ema": Ema}, {"name": "ema", **spec})
