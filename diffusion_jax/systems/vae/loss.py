"""What an autoencoder for latent diffusion is trained by (arXiv 2112.10752, appendix G; VQGAN, arXiv 2012.09841, section 3.1).

With x a picture of N numbers, x' what comes back of a latent that was drawn, and D the patch discriminator,

    rec  = mean |x - x'| + perceptual_weight P(x, x')
    L_G  = rec + kl KL / N  (or the codebook's terms)  + lambda G,      G = -mean D(x')
    L_D  = mean(max(0, 1 - D(x)) + max(0, 1 + D(x'))) / 2               (hinge: arXiv 1705.02894)
    lambda = weight |grad_K rec| / (|grad_K G| + 1e-4),  at most weight 1e4 of a codebook, weight 1e4 / N of a normal posterior

K is the kernel of the decoder's last convolution (VQGAN, eq. 7). Latent diffusion sums |x - x'| and P over the N numbers, and
adds kl KL of a normal posterior; here all is divided by N, the bound of lambda with it, which changes no direction, and a
published `kl` and weight mean the same. G and L_D count from the step `start`, when there is something worth telling apart.

Both networks are trained in one step, by the gradient of L_G + L_D: G sees D's parameters, and L_D sees x', with gradients
stopped, so that neither has a part in the other's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from diffusion_jax.nets.vae import Posterior, Quantized
from diffusion_jax.typing import Batch, Context, LossFn, Params, UserError

__all__ = ["DISCRIMINATOR", "LAST", "Adversary", "Latent", "adaptive_weight", "autoencoder_loss", "hinge"]

DISCRIMINATOR = "discriminator"
"""Where the discriminator's parameters stand, beside the autoencoder's own, which takes no notice of them."""
LAST = ("decoder", "end", "conv", "kernel")
"""The path of K, the kernel of the decoder's last convolution."""
LEAST, MOST = 1e-4, 1e4
PEAK, NO_ERROR = 2.0, 4e-12  # as in `metrics.psnr`
Distance = Callable[[PyTree, Array, Array], Array]
"""(frozen, x, x') -> [batch], of images in [-1, 1]."""
_stop = jax.lax.stop_gradient


@dataclasses.dataclass(frozen=True)
class Adversary:
    """A discriminator, `apply(params, images)` -> logits, which counts from the step `start` (of 0) with lambda's `weight`."""

    apply: Callable[..., Any]
    start: int = 50_001
    weight: float = 0.5


@dataclasses.dataclass(frozen=True)
class Latent:
    """How much the latents' own terms weigh: `kl` of a normal posterior; of a codebook `codebook`, `beta`, `legacy`
    (`nets.vae.Quantized.loss`)."""

    kl: float = 1e-6
    codebook: float = 1.0
    beta: float = 0.25
    legacy: bool = True


def hinge(real: Float[Array, "batch ..."], made: Float[Array, "batch ..."]) -> Float[Array, " batch"]:
    """L_D of the logits of real pictures and of made ones: 1 where both are 0, and 0 where they are above 1 and below -1."""
    return 0.5 * (_mean(jax.nn.relu(1.0 - real)) + _mean(jax.nn.relu(1.0 + made)))


def adaptive_weight(
    pull: Callable[[Array], PyTree], by_rec: Array, by_adversary: Array, weight: float, most: float = MOST
) -> Float[Array, ""]:
    """lambda, from the gradients of rec and of G in x' [batch, height, width, channels]; their ratio is at most `most`.

    `pull` takes such a gradient back to K, by the transpose of the derivative of x'. Nothing is differentiated through it.
    """
    rec, adversary = (optax.tree.norm(_stop(pull(gradient))) for gradient in (by_rec, by_adversary))
    return _stop(weight * jnp.clip(rec / (adversary + LEAST), 0.0, most))


def autoencoder_loss(
    apply: Callable[..., Any],
    *,
    latent: Latent = Latent(),
    distance: Distance | None = None,
    perceptual_weight: float = 1.0,
    adversary: Adversary | None = None,
    train: bool = True,
) -> LossFn:
    """The loss of a batch {"image": [batch, height, width, channels] in [-1, 1]}, for `train.loop.fit`.

    `apply(params, x, key=, train=)` -> (x', Posterior or Quantized). `distance` is P, whose arrays are
    `ctx.frozen["perceptual"]`; with an `adversary` the discriminator's parameters are `params["discriminator"]`. Without
    `train` the latents are the posterior's means and there is no adversary: held-out pictures are measured by rec and the
    latents' terms.

    Metrics: "reconstruction" (mean |x - x'|), "psnr" in dB, "perceptual", "kl" in nats an example or "codebook", and
    "adversary" (G), "discriminator" (L_D), "adaptive_weight". Raises UserError for a network that gives something else, and one
    without K where there is an adversary.
    """

    def rec_of(frozen: PyTree, x: Array, made: Array) -> tuple[Array, dict[str, Array]]:
        pixels = _mean(jnp.abs(x - made))
        if distance is None:
            return pixels, {"reconstruction": pixels}
        far = distance(frozen, x, made)
        return pixels + perceptual_weight * far, {"reconstruction": pixels, "perceptual": far}

    def loss_fn(params: Params, ctx: Context, batch: Batch, key: Array) -> tuple[Array, dict[str, Array], Any]:
        x = batch["image"]
        network = {name: value for name, value in params.items() if name != DISCRIMINATOR}
        how = {"key": jax.random.fold_in(key, 0) if train else None, "train": train}
        frozen = None if distance is None else ctx.frozen["perceptual"]
        if adversary is None or not train:
            made, latents = apply(network, x, **how)
            rec, metrics = rec_of(frozen, x, made)
            terms, told = _latent_terms(latents, latent, x)
            return rec + terms, metrics | told | {"psnr": _psnr(x, made)}, ctx.aux

        # One pass gives x' and what takes a gradient in x' back to K: the rest of the network is not gone through again.
        made, pull, latents = jax.vjp(
            lambda last: apply(_with(network, LAST, last), x, **how), _at(network, LAST), has_aux=True
        )
        judge = params[DISCRIMINATOR]
        rec, metrics = rec_of(frozen, x, made)
        terms, told = _latent_terms(latents, latent, x)

        def generated(made: Array) -> Array:
            return -_mean(adversary.apply(_stop(judge), made))

        weight = adaptive_weight(
            lambda gradient: pull(gradient)[0],
            jax.grad(lambda made: rec_of(frozen, x, made)[0].mean())(_stop(made)),
            jax.grad(lambda made: generated(made).mean())(_stop(made)),
            adversary.weight,
            MOST / x[0].size if isinstance(latents, Posterior) else MOST,
        )
        fooled = generated(made)
        real, fake = jnp.split(adversary.apply(judge, jnp.concatenate([x, _stop(made)])), 2)
        apart = hinge(real, fake)
        counts = (jnp.asarray(ctx.step) >= adversary.start).astype(jnp.float32)
        metrics |= told | {"psnr": _psnr(x, made)}
        metrics |= {"adversary": fooled, "discriminator": apart, "adaptive_weight": counts * weight}
        return rec + terms + counts * (weight * fooled + apart), metrics, ctx.aux

    return loss_fn


def _latent_terms(latents: Any, weights: Latent, x: Array) -> tuple[Array, dict[str, Array]]:
    """(their part of the loss [batch], what they are by name)."""
    if isinstance(latents, Posterior):
        kl = latents.kl()
        return weights.kl * kl / x[0].size, {"kl": kl}
    if isinstance(latents, Quantized):
        codebook = latents.loss(weights.beta, legacy=weights.legacy)
        return weights.codebook * codebook, {"codebook": codebook}
    raise UserError(
        f"an autoencoder gives pictures and their latents as a Posterior or a Quantized, not a {type(latents).__name__}"
    )


def _mean(numbers: Array) -> Array:
    """[batch, ...] -> [batch]."""
    return numbers.reshape(numbers.shape[0], -1).mean(axis=1)


def _psnr(x: Array, made: Array) -> Array:
    """In dB, [batch]; nothing trains by it."""
    squared = _mean((_stop(jnp.clip(made, -1.0, 1.0)) - x) ** 2)
    return 10.0 * jnp.log10(PEAK**2 / jnp.maximum(squared, NO_ERROR))


def _at(params: Params, path: Sequence[str]) -> Array:
    node: Any = params
    for name in path:
        if not isinstance(node, dict) or name not in node:
            raise UserError(f"the autoencoder has no parameter {'/'.join(LAST)}, by which an adversary is weighed")
        node = node[name]
    return node


def _with(params: Params, path: Sequence[str], leaf: Array) -> Params:
    """The tree with another leaf at a path."""
    name, *rest = path
    return {**params, name: _with(params[name], rest, leaf) if rest else leaf}
