"""Karlo's unCLIP, and whatever has its parts, from the folder that diffusers keeps: the stages of `unclip.UnCLIP`.

    unclip = load_pipeline("karlo-v1-alpha")                       # UnCLIPPipeline, or UnCLIPImageVariationPipeline
    images = unclip.generate("a lighthouse in watercolour")        # [1, 256, 256, 3] in [-1, 1]
    others = unclip.variations(images, 4, inverted=False)          # with an image encoder in the folder

The prior predicts clean embeddings, which are clipped, and brought to CLIP's own scale at the end; CLIP's embeddings are of the
length that they come in, not of unit norm. The decoder hears both embeddings and the text's tokens by a projection of its own
(`nets.TextProjection`), is guided away from the learned null picture and the empty text, and says its variance; what enlarges
has two networks, the second for the last step alone, and no guidance. All three step by UnCLIPScheduler, which is DDPM with
variances in the logarithm (arXiv 2006.11239, 2102.09672).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.nets import Network
from diffusion_jax.pipelines.checks import guiding
from diffusion_jax.pipelines.drawing import drawn, plan_of
from diffusion_jax.pipelines.image_encoder import ImageEncoder
from diffusion_jax.pipelines.pictures import pictures_of
from diffusion_jax.pipelines.scheduler import Scheduler
from diffusion_jax.pipelines.text_encoder import TextEncoder
from diffusion_jax.process import denoiser
from diffusion_jax.sampling import discrete, invert
from diffusion_jax.systems.diffusion.loss import example_keys
from diffusion_jax.systems.diffusion.pretrained import Pretrained
from diffusion_jax.typing import Array, Params, Solver, UserError

__all__ = ["KarloDecoder", "KarloPrior", "KarloUpsampler"]

Cond = dict[str, Array]


def told_of(encoder: TextEncoder, prompts: Sequence[str]) -> Cond:
    """{"tokens", "length", "pooled"} of prompts: the last layer's features, normed, and the projected embedding."""
    tokens, pooled = encoder.encode(list(prompts))
    length = jnp.asarray(encoder.tokenizer.encode(list(prompts))["length"])
    return {"tokens": tokens, "length": length, "pooled": pooled}


def nothing_of(encoder: TextEncoder, count: int) -> Cond:
    """The same of the empty prompt, `count` times."""
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, count, axis=0), told_of(encoder, [""]))


@dataclasses.dataclass(frozen=True, eq=False)
class KarloPrior:
    """The prior, its text encoder and its scheduler."""

    prior: Pretrained
    encoder: TextEncoder
    scheduler: Scheduler

    def draw(
        self,
        prompts: Sequence[str],
        *,
        seed: int = 0,
        start: int = 0,
        num_steps: int = 25,
        guidance_scale: float = 4.0,
        noise: ArrayLike | None = None,
        solver: str | Solver | None = None,
        grid: Any = None,
        batch_size: int = 16,
    ) -> np.ndarray:
        """An embedding a prompt, [n, d] in CLIP's own scale; `noise` [n, d], or [1 + steps, n, d] also of each step.

        `guidance_scale` 1 and below is no guidance. Raises UserError for a negative one.
        """
        prior, count = self.prior, len(prompts)
        found = drawn(
            plan_of(self.scheduler, num_steps, solver=solver, grid=grid), prior.network.apply, prior.params,
            told_of(self.encoder, prompts), nothing_of(self.encoder, count), example_keys(seed, start, count),
            (prior.config["dim"],), guidance_scale=guiding(guidance_scale, 4.0), noise=noise, batch_size=batch_size,
        )  # fmt: skip
        return np.asarray(prior.network.method("denormalize")(prior.params, found))


@dataclasses.dataclass(frozen=True, eq=False)
class KarloDecoder:
    """The decoder with the projection of what it hears, the text encoder, and perhaps an image encoder."""

    unet: Pretrained
    projection: Network
    projection_params: Params
    encoder: TextEncoder
    scheduler: Scheduler
    size: int
    image_encoder: ImageEncoder | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(size, size, 3)."""
        return (self.size, self.size, 3)

    def embed(self, images: Any) -> np.ndarray:
        """Embeddings [n, d] of pictures, of the length that they come in. UserError where the folder has no image encoder."""
        if self.image_encoder is None:
            raise UserError(
                f"{str(self.unet.path.parent)!r} has no image_encoder, which sees pictures: a folder of "
                "UnCLIPImageVariationPipeline has one"
            )
        return self.image_encoder.encode(_each(images))

    def texts(self, prompts: Sequence[str]) -> np.ndarray:
        """Embeddings [n, d] of texts, of the length that they come in."""
        return np.asarray(self.encoder.encode(list(prompts))[1])

    def notices(self, prompts: Sequence[str]) -> list[str]:
        """A line for each prompt of which a part is not read."""
        return self.encoder.explain(list(prompts))

    def pictures(self, images: Any) -> np.ndarray:
        """Pictures of the decoder's size, float32 [n, size, size, 3] in [-1, 1], resized where they have another."""
        return pictures_of([_bytes_where_larger(one, self.size) for one in _each(images)], (self.size, self.size))

    def told(self, embeddings: np.ndarray, prompts: Sequence[str] | None) -> tuple[Cond, Cond]:
        """(what the decoder hears, what it is guided away from) of embeddings [n, d] and a prompt each, "" where None."""
        count = len(embeddings)
        text = told_of(self.encoder, [""] * count if prompts is None else prompts)
        project, params = self.projection.apply, self.projection_params
        entries = ("pooled", "tokens", "length")
        toward = project(params, jnp.asarray(embeddings), *(text[name] for name in entries))
        none = nothing_of(self.encoder, count)
        return toward, project(params, None, *(none[name] for name in entries))

    def draw(
        self,
        embeddings: np.ndarray,
        prompts: Sequence[str] | None = None,
        *,
        seed: int = 0,
        start: int = 0,
        num_steps: int = 25,
        guidance_scale: float = 8.0,
        noise: ArrayLike | None = None,
        solver: str | Solver | None = None,
        grid: Any = None,
        eta: float | None = None,
        batch_size: int = 4,
    ) -> np.ndarray:
        """A picture [n, size, size, 3] in [-1, 1] an embedding [n, d]; `noise` [n, size, size, 3], or [1 + steps, n, ...].

        `guidance_scale` 1 and below is no guidance. Raises UserError for a negative one, and for embeddings of another size.
        """
        size = self.projection_size
        if np.ndim(embeddings) != 2 or np.shape(embeddings)[1] != size:
            raise UserError(f"embeddings are floats [n, {size}], not {np.shape(embeddings)}: embed pictures first")
        toward, away = self.told(embeddings, prompts)
        found = drawn(
            plan_of(self.scheduler, num_steps, solver=solver, grid=grid, eta=eta), self.unet.network.apply, self.unet.params,
            toward, away, example_keys(seed, start, len(embeddings)), self.shape,
            guidance_scale=guiding(guidance_scale, 8.0), noise=noise, batch_size=batch_size,
            learned_variance=self.scheduler.learned_variance,
        )  # fmt: skip
        return np.clip(np.asarray(found), -1.0, 1.0)

    @property
    def projection_size(self) -> int:
        """Numbers of an embedding."""
        return int(self.encoder.config["embed"])

    def invert(
        self,
        images: Any,
        embeddings: np.ndarray,
        *,
        num_steps: int = 50,
        refinements: int = 0,
        batch_size: int = 4,
    ) -> np.ndarray:
        """Noise [n, size, size, 3] that DDIM turns into the pictures under their embeddings and the empty text."""
        schedule, pictures = self.scheduler.schedule, self.pictures(images)
        toward, _ = self.told(embeddings, None)
        model = denoiser(
            self.unet.network.apply, self.unet.params, schedule, self.scheduler.prediction, self.scheduler.time,
            learned_variance=self.scheduler.learned_variance,
        )  # fmt: skip
        ts, found = discrete(num_steps, schedule), []
        for first in range(0, len(pictures), batch_size):
            part = slice(first, first + batch_size)
            cond = jax.tree.map(lambda leaf: leaf[part], toward)  # noqa: B023
            x0 = jnp.asarray(pictures[part])
            found.append(np.asarray(invert(model, schedule, x0, ts, cond=cond, refinements=refinements)))
        return np.concatenate(found) / float(schedule.sigma(jnp.float32(ts[0])))


@dataclasses.dataclass(frozen=True, eq=False)
class KarloUpsampler:
    """What enlarges: a network for all steps but the last, and one for that."""

    first: Pretrained
    last: Pretrained
    scheduler: Scheduler
    size: int

    def draw(
        self,
        images: np.ndarray,
        *,
        seed: int = 0,
        start: int = 0,
        num_steps: int = 7,
        noise: ArrayLike | None = None,
        batch_size: int = 4,
    ) -> np.ndarray:
        """Pictures [n, size, size, 3] in [-1, 1] of smaller ones; `noise` [n, size, size, 3], or [1 + steps, n, ...]."""
        count = len(images)
        small = jnp.asarray(images, jnp.float32)
        large = jax.image.resize(small, (count, self.size, self.size, small.shape[-1]), "cubic", antialias=True)
        cond = {"image": large}
        found = drawn(
            self.scheduler.plan(num_steps), _two(self.first.network, self.last.network),
            {"first": self.first.params, "last": self.last.params}, cond, cond, example_keys(seed, start, count),
            (self.size, self.size, small.shape[-1]), guidance_scale=1.0, noise=noise, batch_size=batch_size,
        )  # fmt: skip
        return np.clip(np.asarray(found), -1.0, 1.0)


@functools.cache
def _two(first: Network, last: Network) -> Callable[..., Array]:
    """Both networks as one, by the timestep: at 0 the last one. What is small stands enlarged behind the noised channels."""

    def apply(params: Params, x: Array, t: Array, cond: Cond, **how: Any) -> Array:
        seen = jnp.concatenate([x, cond["image"].astype(x.dtype)], axis=-1)
        return jax.lax.cond(
            t[0] < 0.5,
            lambda: last.apply(params["last"], seen, t, None, **how),
            lambda: first.apply(params["first"], seen, t, None, **how),
        )

    return apply


def _each(images: Any) -> list[Any]:
    """Pictures one by one: of a list, of an array [n, h, w, 3], or of one."""
    if isinstance(images, list | tuple):
        return list(images)
    return list(images) if getattr(images, "ndim", 0) == 4 else [images]


def _bytes_where_larger(image: Any, size: int) -> Any:
    """Floats of another size than the decoder's as levels, which are resized."""
    if isinstance(image, np.ndarray | jax.Array) and np.issubdtype(image.dtype, np.floating):
        if image.shape[:2] != (size, size):
            return np.clip((np.asarray(image) + 1.0) * 127.5, 0, 255).round().astype(np.uint8)
        return np.asarray(image)
    return image
