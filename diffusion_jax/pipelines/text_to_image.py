"""Stable Diffusion 1, 2, XL and its refiner (arXiv 2112.10752, 2307.01952) from the folder that people have.

    pipeline = load_pipeline("stable-diffusion-v1-5")
    images = pipeline.generate("a watercolour of a lighthouse", num_steps=30, seed=0)       # [1, 512, 512, 3] in [-1, 1]

The folder's own scheduler is run as diffusers runs it, by `pipelines.scheduler`; with `solver` or `grid` any of this library
takes its place. Nothing here is a second sampler: the U-Net with its weights is a `process.denoiser` of the latents, guidance
is `sampling.classifier_free`, and the one driver steps.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.build import guidance as guidances
from diffusion_jax.build.networks import kept
from diffusion_jax.nets import Network
from diffusion_jax.pipelines.adapting import adapted
from diffusion_jax.pipelines.checks import check_negative, guiding, number, tile_of
from diffusion_jax.pipelines.drawing import Begun, decoded, drawn, plan_of
from diffusion_jax.pipelines.pictures import check_size, masks_of, pictures_of, sizes_of
from diffusion_jax.pipelines.prompts import Sizes, listed, nothing, told
from diffusion_jax.pipelines.saving import save_pipeline
from diffusion_jax.pipelines.scheduler import Scheduler
from diffusion_jax.pipelines.text_encoder import TextEncoder
from diffusion_jax.process import denoiser
from diffusion_jax.sampling import invert
from diffusion_jax.systems.diffusion.loss import example_keys
from diffusion_jax.systems.vae.pretrained import Autoencoder
from diffusion_jax.typing import Array, Params, Solver, UserError, one_of, texts_of, whole_number

__all__ = ["TextToImage"]

OUTPUTS = ("image", "latent")
USUAL = {"sd": 7.5, "sdxl": 5.0}
"""Guidance scales that are usual for each system, where none is asked for."""
TOLD = 8.5
"""That of a U-Net that is told it, as latent consistency's are."""


@dataclasses.dataclass(frozen=True, eq=False)
class TextToImage:
    """A published pipeline: its parts, ready to `generate`. Made by `load_pipeline`.

    `kind` is "sd" or "sdxl"; `unet_config` and `params` are of the U-Net, which other weights may take the place of
    (`dataclasses.replace(pipeline, params=...)`), as of `train.lora`.
    """

    path: Path
    kind: str
    network: Network
    params: Params
    unet_config: Mapping[str, Any]
    vae: Autoencoder
    encoders: tuple[TextEncoder, ...]
    scheduler: Scheduler
    size: int
    zeros: bool = False
    """Whether nothing told is all zeros where no negative prompt is given, as of XL."""
    aesthetics: bool = False
    """Whether nothing told has the lower of two scores of beauty, as of XL's refiner."""
    linear: bool = True
    """Whether the ends of the U-Net's transformers are linear maps in files, else 1x1 convolutions."""

    @property
    def joins(self) -> int:
        """Channels beside the latent's that the U-Net sees: 5 of one that fills in, a mask and the masked latent."""
        return int(self.unet_config["in_channels"]) - self.vae.channels

    @property
    def apply(self) -> Callable[..., Array]:
        """The U-Net as a function (params, xt, time, cond): what it joins to xt stands in the condition as "joined".

        The same function for all pipelines of one network, so that other weights do not compile it anew.
        """
        return _joining(self.network)

    def with_lora(self, path: str | Path, scale: float = 1.0) -> TextToImage:
        """This pipeline with a LoRA merged into its U-Net and text encoders: W + scale (alpha / r) A B for each that it adapts.

        `path` is a file or folder as of `convert.load_lora`: PEFT's, diffusers' and kohya's. Several are merged one after the
        other, each with its own scale: `pipeline.with_lora("a.safetensors", 0.7).with_lora("b.safetensors", -0.3)`; their order
        matters to rounding alone. Nothing is compiled anew. Raises UserError for a scale that is not finite, for adapters
        that are of another kind or of another model, and for weights in bfloat16, in whose rounding small changes are lost.
        """
        params, encoders = adapted(self, path, scale)
        return dataclasses.replace(self, params=params, encoders=encoders)

    def rounded(self, param_dtype: str = "bfloat16") -> TextToImage:
        """This pipeline with the weights of its U-Net and text encoders in "bfloat16", half the memory, or in "float32"."""
        encoders = tuple(
            dataclasses.replace(encoder, params=kept(encoder.params, param_dtype)) for encoder in self.encoders
        )
        return dataclasses.replace(self, params=kept(self.params, param_dtype), encoders=encoders)

    def save(self, folder: str | Path, dtype: str = "float32") -> Path:
        """Writes the whole pipeline as a new folder that diffusers and `load_pipeline` read, all of it or nothing.

        Weights are as they are here, a merged LoRA in them, in `dtype` "float32" or "float16". Returns the folder. Raises
        UserError for a folder that holds something, for a part that diffusers has not, and for weights that `dtype` does not
        reach.
        """
        return save_pipeline(self, folder, dtype)

    def notices(self, prompts: str | Sequence[str]) -> list[str]:
        """A line for each prompt of which a part is not read, by the encoder with the least room."""
        return self.encoders[0].explain(texts_of("prompts", prompts))

    def condition(
        self,
        prompts: str | Sequence[str],
        *,
        negative: str | Sequence[str] | None = None,
        second: str | Sequence[str] | None = None,
        negative_second: str | Sequence[str] | None = None,
        clip_skip: int | None = None,
        sizes: Sizes = Sizes(),  # noqa: B008 - frozen
        size: tuple[int, int] | None = None,
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """(what the U-Net is told of each prompt, what is kept away from), leading axis n.

        `second` are the prompts of XL's second encoder, by default the first's. Raises UserError for another number of texts.
        """
        texts = texts_of("prompts", prompts)
        count, encoders = len(texts), self.encoders
        if second is not None and len(encoders) < 2:
            raise UserError("a second prompt is for XL's second text encoder, and this pipeline has one encoder")
        towards = [texts, listed("second", second, count, texts)][: len(encoders)]
        cond = told(encoders, towards, penultimate=self.kind == "sdxl", clip_skip=clip_skip)
        if negative is None and negative_second is None and self.zeros:
            away = nothing(cond)
        else:
            first = listed("negative", negative, count, [""] * count)
            from_second = listed("negative_second", negative_second, count, first)
            away = told(encoders, [first, from_second][: len(encoders)], penultimate=self.kind == "sdxl")
        heard = self.unet_config["hearing"].get("ids")
        sizes.check(heard)
        if heard:
            pixels = size or (self.size * self.vae.factor,) * 2
            for entries, ids in zip((cond, away), sizes.ids(heard, pixels), strict=True):
                entries["ids"] = jnp.broadcast_to(jnp.asarray(ids, jnp.float32)[None, :], (count, heard))
        return cond, away

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        negative: str | Sequence[str] | None = None,
        guidance_scale: float | None = None,
        guidance: Mapping[str, Any] | str | None = None,
        num_steps: int | None = None,
        solver: str | Solver | None = None,
        grid: str | ArrayLike | None = None,
        eta: float | None = None,
        seed: int = 0,
        start: int = 0,
        noise: ArrayLike | None = None,
        image: Any = None,
        strength: float | None = None,
        mask: Any = None,
        size: int | tuple[int, int] | None = None,
        second: str | Sequence[str] | None = None,
        negative_second: str | Sequence[str] | None = None,
        clip_skip: int | None = None,
        sizes: Sizes = Sizes(),  # noqa: B008 - frozen
        output: str = "image",
        batch_size: int = 4,
        tile: int | None = None,
        say: Callable[[str], None] | None = None,
    ) -> np.ndarray:
        """A picture a prompt, float32 [n, height, width, 3] in [-1, 1], or with `output` "latent" its latent.

        A latent is [n, height / 8, width / 8, 4] in the folder's own scaling. `guidance_scale` 1 and below is no guidance, as
        published recipes with 0 mean it, and None what is usual, as 7.5; `num_steps` is 50 where none is given, of latent
        consistency 4; `guidance` is another than classifier-free, or has limits, as "apg" or {"rescale": 0.7}
        (`build.guidance`). `solver` (a name, or one of this library) and `grid` (a name, or falling times) take the place of
        the folder's scheduler, of which `eta` is DDIM's. `noise` [n, height / 8, width / 8, 4] of unit variance takes the place
        of what `seed` draws, [1 + steps, n, ...] also that of each step's; picture i is a function of the seed and of `start` +
        i alone.

        With `image` the drawing begins with it, noised to the last share `strength` of the steps (0.8; 1 with a mask); with
        `mask` only what is white is drawn anew. Both are a file, a PIL image or an array, or one a prompt. `size` is the edge
        in pixels, or (height, width), by default the picture's or the model's. `second`, `negative_second` and `sizes` are
        XL's. `tile` decodes in tiles of so many pixels, a multiple of 32. `say` is given a line about what is left out and what
        takes long; without it what is left out of a text is a warning.

        Raises UserError for a size that 8 does not divide, a mask of another size than the picture, noise of another shape, a
        strength that leaves no step, and for an option that the pipeline has not.
        """
        texts = texts_of("prompts", prompts)
        one_of("output", output, OUTPUTS)
        if not isinstance(sizes, Sizes):
            raise UserError(
                f"sizes is {sizes!r:.60}, not a Sizes: write Sizes(original_size=(512, 512)), and `size` for the picture's"
            )
        batch_size, seed = whole_number("batch_size", batch_size, 1), whole_number("seed", seed, 0, 2**32 - 1)
        num_steps = whole_number("num_steps", self.scheduler.usual_steps if num_steps is None else num_steps, 1)
        pixels = self.pixels(size, image)
        if mask is not None and image is None:
            raise UserError("a mask hides a part of a picture: give `image` as well")
        if self.joins and mask is None:
            raise UserError("this U-Net fills in what a mask hides: give `image` and `mask`")
        told_scale = bool(self.unet_config["hearing"].get("guidance"))  # distilled
        scale = guiding(guidance_scale, TOLD if told_scale else USUAL[self.kind], guidance, told=told_scale)
        check_negative((negative, negative_second), guidance, scale, told_scale)
        tile_of(self.vae, tile)
        share = _strength(strength, image, mask)
        plan = plan_of(self.scheduler, num_steps, solver=solver, grid=grid, eta=eta, strength=share)
        others = {"negative": negative, "second": second, "negative_second": negative_second}
        also = [text for name, given in others.items() if given is not None for text in texts_of(name, given)]
        for line in self.notices([*texts, *also]):
            warnings.warn(line, stacklevel=2) if say is None else say(line)
        cond, away = self.condition(
            texts, negative=negative, second=second, negative_second=negative_second, clip_skip=clip_skip,
            sizes=sizes, size=pixels,
        )  # fmt: skip
        if told_scale:
            cond = cond | {"guidance": jnp.full((len(texts),), scale, jnp.float32)}
            away, scale = cond, 1.0
        shape = self.vae.latent_shape(*pixels)
        keys = example_keys(seed, whole_number("start", start, 0, 2**31 - 1 - len(texts)), len(texts))
        begun = None if image is None else self._begun(image, mask, pixels, keys, len(texts))
        if begun is not None and begun.joined is not None:
            cond, away = (entries | {"joined": begun.joined} for entries in (cond, away))
        if say is not None:
            say(
                f"drawing {len(texts)} of {pixels[0]} x {pixels[1]} in {len(plan.ts) - 1} steps; the first time compiles"
            )
        latents = drawn(
            plan, self.apply, self.params, cond, away, keys, shape, guidance_scale=scale, guidance=guidance, noise=noise,
            begun=begun, strength=share, batch_size=batch_size,
        )  # fmt: skip
        if output == "latent":
            return np.asarray(latents)
        return self.decode(latents, tile=tile)

    def invert(
        self,
        image: Any,
        prompts: str | Sequence[str] = "",
        *,
        negative: str | Sequence[str] | None = None,
        guidance_scale: float = 1.0,
        num_steps: int = 50,
        grid: str | ArrayLike | None = None,
        refinements: int = 0,
        asked: str = "start",
        size: int | tuple[int, int] | None = None,
    ) -> np.ndarray:
        """The noise [n, height / 8, width / 8, 4] of which DDIM draws pictures again, by the ODE upwards (`sampling.invert`).

        `generate(prompts, noise=noise, solver="ddim", num_steps=.., grid=.., guidance_scale=..)` of the same is the way down.
        `guidance_scale` 1 and below is no guidance. `refinements` of each step bring the round trip towards exact; `asked`
        "target" is how diffusers inverts. Each picture's latent is the mean of its posterior. What is left out of a text is a
        warning. Raises UserError as `generate` and `sampling.invert`.
        """
        texts = texts_of("prompts", prompts)
        pixels = self.pixels(size, image)
        pictures = pictures_of(image, pixels)
        count = max(len(texts), len(pictures))
        texts = listed("prompts", prompts, count, texts)
        scale = guiding(guidance_scale, 1.0)
        check_negative((negative,), None, scale, False)
        for line in self.notices([*texts, *([] if negative is None else texts_of("negative", negative))]):
            warnings.warn(line, stacklevel=2)
        latents = self.vae.encode(jnp.asarray(_one_a_prompt("image", pictures, count)))
        cond, away = self.condition(texts, negative=negative, size=pixels)
        plan = plan_of(self.scheduler, whole_number("num_steps", num_steps, 1), solver="ddim", grid=grid)
        network = denoiser(self.apply, self.params, plan.schedule, plan.prediction, plan.time)
        guided = guidances.guided(None, network, away, scale, schedule=plan.schedule, prediction=plan.prediction)
        found = invert(guided, plan.schedule, latents, plan.ts, cond=cond, refinements=refinements, asked=asked)
        return np.asarray(found) / plan.noise_scale

    def decode(self, latents: ArrayLike, *, tile: int | None = None) -> np.ndarray:
        """Pictures float32 [n, height, width, 3] in [-1, 1] of latents in the folder's scaling, one after the other."""
        return decoded(self.vae, latents, tile)

    def pixels(self, size: Any = None, image: Any = None) -> tuple[int, int]:
        """(height, width) of what is drawn: of this size, else of the picture, else of the model. UserError as `generate`."""
        factor = self.vae.factor
        if size is not None:
            return check_size(size, factor)
        if image is None:
            return (self.size * factor,) * 2
        seen = sizes_of(image)
        own_sizes = [self._nearest(*one) for one in seen]
        if len(set(own_sizes)) > 1:
            first, other = own_sizes[0], next(one for one in own_sizes if one != own_sizes[0])
            raise UserError(
                f"the pictures are of several sizes, {first[0]} x {first[1]} and {other[0]} x {other[1]}: say size, to which "
                "they are all brought"
            )
        height, width = seen[0]
        own = (self.size * factor) ** 2
        if height * width > LARGEST * own:
            shrink = (own / (height * width)) ** 0.5
            near = " x ".join(str(max(factor, round(edge * shrink / factor) * factor)) for edge in (height, width))
            raise UserError(
                f"the picture is {height} x {width}, more than {LARGEST} times the pixels that the model draws: say size; "
                f"nearest to its form: {near}"
            )
        return own_sizes[0]

    def _nearest(self, height: int, width: int) -> tuple[int, int]:
        """The edges of a picture rounded down to what can be drawn."""
        factor = self.vae.factor
        return max(factor, height // factor * factor), max(factor, width // factor * factor)

    def _begun(self, image: Any, mask: Any, pixels: tuple[int, int], keys: Array, count: int) -> Begun:
        pictures = _one_a_prompt("image", pictures_of(image, pixels), count)
        latents = self.vae.encode(jnp.asarray(pictures), jax.vmap(jax.random.fold_in, (0, None))(keys, ENCODED))
        if mask is None:
            return Begun(latents)
        hidden = _one_a_prompt("mask", masks_of(mask, pixels, sizes_of(image)), count)
        factor = self.vae.factor
        small = jnp.asarray(hidden[:, ::factor, ::factor])
        if not self.joins:
            return Begun(latents, small)
        seen = self.vae.encode(
            jnp.asarray(pictures * (1.0 - hidden)), jax.vmap(jax.random.fold_in, (0, None))(keys, MASKED)
        )
        return Begun(latents, None, jnp.concatenate([small, seen], axis=-1))


@functools.lru_cache(maxsize=32)
def _joining(network: Network) -> Callable[..., Array]:
    def apply(params: Params, xt: Array, time: Array, cond: dict[str, Array], **how: Any) -> Array:
        rest = {name: value for name, value in cond.items() if name != "joined"}
        x = jnp.concatenate([xt, cond["joined"].astype(xt.dtype)], axis=-1) if "joined" in cond else xt
        return jnp.asarray(network.apply(params, x, time, rest, **how))

    return apply


LARGEST = 4
"""How many times the pixels of what the model draws a picture may have where no size is said: attention is of their square."""
ENCODED, MASKED = 11, 12  # what an example's key is folded with for the noise of the encoder


def _strength(strength: float | None, image: Any, mask: Any) -> float:
    if strength is None:
        return 0.8 if image is not None and mask is None else 1.0
    if image is None:
        raise UserError(f"strength {strength} says how far a picture is noised: give `image` as well")
    return number("strength", strength, "0.8")


def _one_a_prompt(what: str, arrays: np.ndarray, count: int) -> np.ndarray:
    if len(arrays) not in (1, count):
        raise UserError(f"{what} has {len(arrays)} pictures for {count} prompts: give one, or one a prompt")
    return np.broadcast_to(arrays, (count, *arrays.shape[1:]))
