"""What the keys of an autoencoder's config may be, beside those of every system (`build.key_ranges`)."""

from __future__ import annotations

from diffusion_jax.build.key_ranges import SIZE
from diffusion_jax.build.ranges import Range, choice, either, flag, number, numbers, optional, text, whole
from diffusion_jax.nets.unet.blocks import ACTIVATIONS
from diffusion_jax.systems.vae.network import ADVERSARIES, AUTOENCODERS

__all__ = ["RANGES"]

_LEVELS = either(
    flag(),
    Range(
        "a list of them, one a level", lambda value: isinstance(value, list | tuple) and all(map(flag().holds, value))
    ),
)

RANGES: dict[str, Range] = {
    "model.name": choice("model", AUTOENCODERS),
    "model.channels": numbers(SIZE, of="a list of the levels' widths, such as (64, 128, 128)"),
    "model.layers": whole(1, 64),
    "model.latent_channels": whole(1, 1024),
    "model.groups": whole(1, 1024),
    "model.act": choice("model.act", ACTIVATIONS),
    "model.attends": _LEVELS,
    "model.up_attends": optional(_LEVELS, "as on the way down"),
    "model.middle_attention": flag(),
    "model.quant": flag(),
    "model.post_quant": flag(),
    "model.codes": whole(2, 2**24),
    "model.dim": optional(whole(1, 1024), "the latents' channels"),
    "loss.perceptual": text(
        "none, laplacian, the folder of a CLIP or of LPIPS, or a function of yours as 'module:attribute', as text"
    ),
    "loss.perceptual_weight": number(0.0, 1e6, usual=1.0),
    "loss.kl": number(0.0, 1e6, usual=1e-6),
    "loss.codebook": number(0.0, 1e6, usual=1.0),
    "loss.beta": number(0.0, 1e6, usual=0.25),
    "loss.legacy": flag(),
    "adversary.name": choice("adversary", ADVERSARIES),
    "adversary.start": whole(0),
    "adversary.weight": number(0.0, 1e6, usual=0.5),
    "adversary.width": SIZE,
    "adversary.layers": whole(1, 16),
    "adversary.rate": number(0.0, 1e3, above=True, usual=1.0, of="a multiple of the learning rate"),
}
