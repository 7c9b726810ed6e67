"""Guidance by the gradient of a log probability: a classifier's, or the likeness of an image to a text under CLIP.

By Bayes, grad log p_t(x | y) = grad log p_t(x) + grad log p_t(y | x), and with eps = -sigma score (guided-diffusion, arXiv
2105.05233, algorithm 2)

    eps' = eps - w sigma g,   x0' = x0 + w sigma^2 / alpha g,   g = grad_xt log p(y | xt).

p(y | xt) is that of a classifier of noised images (`of="xt"`), exact for a perfect one, or of a classifier of clean images
at x0_hat(xt), differentiated through the denoiser (`of="x0"`; universal guidance, arXiv 2302.07121, eq. 6). CLIP guidance
(GLIDE, arXiv 2112.10741, section 2.4) takes the cosine of the embeddings of image and text for log p.

Where alpha is 0 xt says nothing of y, and g is taken as 0. Near it g should vanish as alpha does, which that of a trained
network need not, while x0' takes 1 / alpha of it: `interval(guided, plain, schedule, high=5.0)` leaves that region out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from diffusion_jax.process.arguments import check_schedule, data
from diffusion_jax.process.asking import AnyTime, ask
from diffusion_jax.process.prediction import FLOOR
from diffusion_jax.process.sde import coefficients
from diffusion_jax.sampling.guidance.steered import Steered, fitted, memory_of, remembering, setting, structured
from diffusion_jax.typing import DenoiseFn, Prediction, PyTree, Schedule, UserError, one_of, pytree_dataclass, static

__all__ = ["GradientGuided", "Similarity", "classifier_guidance", "clip_guidance", "towards"]

SEEN = ("xt", "x0")


@pytree_dataclass
class GradientGuided(Steered, AnyTime):
    """A denoiser with the gradient of `log_prob` added to its score; made by `classifier_guidance` and `clip_guidance`."""

    denoise: Any
    log_prob: Any
    guidance_scale: Any
    schedule: Any
    of: str = static()

    def start(self, xt: Array) -> PyTree:
        """The memory of the denoiser."""
        return memory_of(self.denoise, xt)

    def step(self, xt: Array, t: ArrayLike, cond: PyTree, memory: PyTree) -> tuple[Prediction, PyTree]:
        """The guided pair at xt [batch, ...]; UserError where log_prob does not give [batch] numbers."""

        def seen(x: Array) -> tuple[Array, tuple[Prediction | None, PyTree]]:
            pair, after = remembering(self.denoise, x, t, cond, memory) if self.of == "x0" else (None, memory)
            values = ask(self.log_prob, x if pair is None else pair.x0, t, cond)
            if values.shape != xt.shape[:1]:
                raise UserError(f"log_prob gave the shape {values.shape} for a batch of {xt.shape[0]}")
            return jnp.sum(values.astype(jnp.float32)), (pair, after)

        gradient, (pair, memory) = jax.grad(seen, has_aux=True)(xt)
        if pair is None:
            pair, memory = remembering(self.denoise, xt, t, cond, memory)
        scale = fitted("guidance_scale", self.guidance_scale, pair.x0)
        return towards(pair, scale * gradient.astype(pair.x0.dtype), t, self.schedule), memory


def towards(pair: Prediction, gradient: Array, t: ArrayLike, schedule: Schedule) -> Prediction:
    """The pair of the same xt with `gradient` [batch, ...] added to its score; as it is where alpha is not above FLOOR."""
    alpha, sigma = coefficients(schedule, t, pair.x0)
    gradient = jnp.where(alpha > FLOOR, gradient, 0.0)
    x0 = pair.x0 + sigma**2 / jnp.maximum(alpha, FLOOR) * gradient
    return Prediction(x0, pair.eps - sigma * gradient, pair.variance)


def classifier_guidance(
    denoise: DenoiseFn,
    log_prob: Callable[..., Array],
    guidance_scale: ArrayLike = 1.0,
    *,
    schedule: Schedule,
    of: str = "xt",
) -> GradientGuided:
    """`denoise` led towards where log_prob(x [batch, ...], t, cond) -> [batch] is high; 1 is Bayes' rule.

    `log_prob` sees xt (`of="xt"`, for a classifier of noised images) or x0_hat (`of="x0"`), and the condition that the
    sampler is given: the class may be part of it. As a `DenoiseFn` it is written for a scalar t or for t [batch]. A plain
    function is structure; as a pytree (`jax.tree_util.Partial(fn, weights)`) its arrays do not recompile. Raises UserError
    for another `of`, and for what is no function or schedule.
    """
    one_of("of", of, SEEN)
    check_schedule(schedule)
    scale = setting("guidance_scale", guidance_scale)
    return GradientGuided(structured(denoise), structured(log_prob, "log_prob"), scale, schedule, of)


@pytree_dataclass
class Similarity(AnyTime):
    """The cosine of an image's embedding and `embedding` [1 or batch, embed]."""

    encode: Any
    embedding: Any

    def __call__(self, x: Array, t: ArrayLike, cond: PyTree) -> Array:
        """[batch], of images x."""
        made = self.encode(x)
        wanted = jnp.asarray(self.embedding)
        if wanted.ndim != 2 or wanted.shape[0] not in (1, x.shape[0]) or wanted.shape[1:] != made.shape[1:]:
            raise UserError(f"an embedding of shape {wanted.shape} does not fit images' embeddings of {made.shape}")
        return jnp.sum(_unit(made) * _unit(wanted), axis=-1)


def _unit(a: Array) -> Array:
    a = a.astype(jnp.float32)
    return a / jnp.sqrt(jnp.sum(a * a, axis=-1, keepdims=True) + 1e-12)


def clip_guidance(
    denoise: DenoiseFn,
    encode_image: Callable[[Array], Array],
    embedding: ArrayLike,
    guidance_scale: ArrayLike,
    *,
    schedule: Schedule,
    of: str = "x0",
) -> GradientGuided:
    """`denoise` led towards images whose CLIP embedding points along `embedding` [1 or batch, embed], a text's or an image's.

    encode_image(images [batch, ...]) -> [batch, embed]; the embeddings need not have unit norm. A CLIP of clean images is
    asked at x0_hat, through the denoiser; one that was trained on noised images may be asked at xt. Usual scales are tens
    to hundreds, as a cosine is within [-1, 1]. Raises UserError as `classifier_guidance`.
    """
    score = Similarity(structured(encode_image, "encode_image"), data("embedding", embedding))
    return classifier_guidance(denoise, score, guidance_scale, schedule=schedule, of=of)
