"""The configs of diffusers' AutoencoderKL and VQModel as configs of `nets.vae`, and back.

Every field is read, possible at some values alone, or known to change nothing (`fields`). diffusers lists the levels on the way
up from the coarsest; here all are from the finest. `latents_mean` and `latents_std` count there where both are told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from diffusion_jax.convert.fields import UNUSED, Table, choice, flag, number, only, read, reads, whole
from diffusion_jax.convert.unet_config import ACTS, many
from diffusion_jax.typing import UserError

__all__ = ["CLASSES", "from_diffusers", "to_diffusers"]

Complete = Callable[[Mapping[str, Any]], dict[str, Any]]
CLASSES = {"AutoencoderKL": "kl", "VQModel": "vq"}
DOWN = {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}
UP = {"UpDecoderBlock2D": False, "AttnUpDecoderBlock2D": True}


def real(what: str, value: Any) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{what} {value!r} is not a finite number")
    return float(value)


def side(what: str, value: Any) -> int | tuple[int, ...]:
    """A length, or height and width."""
    if isinstance(value, list | tuple) and len(value) == 2:
        return tuple(whole(f"{what}[{i}]", each) for i, each in enumerate(value))
    return whole(what, value)


COMMON: Table = {
    "_class_name": UNUSED,
    "_diffusers_version": UNUSED,
    "in_channels": reads(whole, 3),
    "out_channels": reads(whole, 3),
    "down_block_types": reads(many(choice(DOWN)), ("DownEncoderBlock2D",)),
    "up_block_types": reads(many(choice(UP)), ("UpDecoderBlock2D",)),
    "block_out_channels": reads(many(whole), (64,)),
    "layers_per_block": reads(whole, 1),
    "act_fn": reads(choice(ACTS), "silu"),
    "norm_num_groups": reads(whole, 32),
    "sample_size": reads(side, 32),
    "scaling_factor": reads(number, 0.18215),
    "mid_block_add_attention": reads(flag, True),
}
TABLES: dict[str, Table] = {
    "kl": {
        **COMMON,
        "latent_channels": reads(whole, 4),
        "shift_factor": reads(real),
        "latents_mean": reads(many(real)),
        "latents_std": reads(many(number)),
        "force_upcast": reads(flag, True),
        "use_quant_conv": reads(flag, True),
        "use_post_quant_conv": reads(flag, True),
    },
    "vq": {
        **COMMON,
        "latent_channels": reads(whole, 3),
        "num_vq_embeddings": reads(whole, 256),
        "vq_embed_dim": reads(whole),
        "norm_type": only("group", why="norms that hear the latents (MoVQ) are not here"),
        "force_upcast": reads(flag, False),
        # What its decode does when told not to quantise: here indices are looked up in the codebook by who has them.
        "lookup_from_codebook": UNUSED,
    },
}
KEYS = {
    "in_channels": "in_channels",
    "out_channels": "out_channels",
    "block_out_channels": "channels",
    "layers_per_block": "layers",
    "latent_channels": "latent_channels",
    "norm_num_groups": "groups",
    "mid_block_add_attention": "middle_attention",
    "sample_size": "sample_size",
    "scaling_factor": "scale",
    "force_upcast": "upcast",
}
OF_KIND = {
    "kl": {
        "use_quant_conv": "quant", "use_post_quant_conv": "post_quant", "shift_factor": "shift",
        "latents_mean": "mean", "latents_std": "std",
    },
    "vq": {"num_vq_embeddings": "codes", "vq_embed_dim": "dim"},
}  # fmt: skip


def from_diffusers(told: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The config of `nets.vae`, every size in it. UserError for what is not here, by field and value."""
    name = told.get("_class_name")
    if name not in CLASSES:
        raise UserError(
            f"{where}: _class_name {name!r} is no autoencoder that is read here; read are {', '.join(CLASSES)}"
        )
    kind = CLASSES[name]
    given = read(TABLES[kind], told, where)
    count = len(given["block_out_channels"])
    for field in ("down_block_types", "up_block_types"):
        if len(given[field]) != count:
            raise UserError(f"{where}: {field} are {len(given[field])} for {count} block_out_channels")
    if (given.get("latents_mean") is None) != (given.get("latents_std") is None):
        raise UserError(f"{where}: latents_mean and latents_std are told together, or neither is")
    if given.get("latents_mean") is not None and given["shift_factor"] is not None:
        raise UserError(f"{where}: shift_factor {given['shift_factor']} and latents_mean are two shifts of the latents")
    made = {ours: given[theirs] for theirs, ours in (KEYS | OF_KIND[kind]).items()}
    made["act"] = "silu" if given["act_fn"] == "swish" else given["act_fn"]
    made["attends"] = tuple(DOWN[block] for block in given["down_block_types"])
    made["up_attends"] = tuple(UP[block] for block in reversed(given["up_block_types"]))
    return {"kind": kind} | made


def to_diffusers(config: Mapping[str, Any], complete: Complete) -> dict[str, Any]:
    """The JSON of an AutoencoderKL or VQModel; `complete` is `nets.complete_vae`.

    What comes out is read again and compared: UserError, by the key, for what diffusers has not.
    """
    made = complete(config)
    name = next(name for name, kind in CLASSES.items() if kind == made["kind"])
    downs, ups = ({attends: block for block, attends in table.items()} for table in (DOWN, UP))
    told: dict[str, Any] = {"_class_name": name}
    for theirs, ours in (KEYS | OF_KIND[made["kind"]]).items():
        value = made[ours]
        told[theirs] = list(value) if isinstance(value, tuple) else value
    told |= {
        "act_fn": made["act"],
        "down_block_types": [downs[attends] for attends in made["attends"]],
        "up_block_types": [ups[attends] for attends in reversed(made["up_attends"])],
    }
    if told["sample_size"] is None:
        del told["sample_size"]
    again = complete(from_diffusers(told, "the config that would be written"))
    for key, value in made.items():
        if again[key] != value and not (key == "sample_size" and value is None):
            raise UserError(f"diffusers has no {name} with {key} {value!r} (the nearest that it has: {again[key]!r})")
    return told
