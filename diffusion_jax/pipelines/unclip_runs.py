"""The stages of unCLIP as runs that were trained here: `load_unclip("runs/decoder", prior="runs/prior")`.

A prior is a diffusion run in the space of a CLIP's embeddings that is asked for a text; a decoder one that is told an image
embedding, alone or beside a text; an upsampler one that is told a low-resolution picture. All of one CLIP: compared by
fingerprints of its weights, not by where it lies.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffusion_jax.pipelines.unclip import UnCLIP
from diffusion_jax.sampling import invert
from diffusion_jax.systems.clip.run import ClipRun
from diffusion_jax.systems.diffusion.cached import embedded
from diffusion_jax.systems.diffusion.conditions import Condition, Embedding, LowResolution, Several, Text
from diffusion_jax.systems.diffusion.drawn import shape_shown, x0_of
from diffusion_jax.systems.diffusion.embeddings import Embeddings
from diffusion_jax.systems.diffusion.encoder import Encoder, embedder, load_encoder
from diffusion_jax.systems.diffusion.run import DiffusionRun, load_diffusion
from diffusion_jax.typing import Source, UserError

__all__ = ["RunDecoder", "RunPrior", "RunUpsampler", "load_unclip", "unclip_of"]

PART = 64
"""Pictures inverted at a time."""


def parts_of(told: Condition) -> list[Condition]:
    """What a condition is made of: its parts, or itself."""
    return list(told.parts.values()) if isinstance(told, Several) else [told]


@dataclasses.dataclass(frozen=True, eq=False)
class RunPrior:
    """A run that draws embeddings [d] of unit norm from texts."""

    run: DiffusionRun

    def __post_init__(self) -> None:
        """UserError for a run that is none."""
        if not isinstance(self.run.space, Embeddings):
            name = (self.run.config.get("space") or {"name": "pixels"})["name"]
            raise UserError(
                f"the prior in {str(self.run.path)!r} works in the space {name!r}: a prior draws 'embeddings' of a CLIP"
            )
        if self.run.asks != ("prompt",):
            raise UserError(
                f"the prior in {str(self.run.path)!r} is asked for {', '.join(self.run.asks) or 'nothing'}: a prior is asked "
                "for a prompt"
            )

    @property
    def encoder(self) -> Encoder:
        """The CLIP of its space."""
        found: Any = self.run.space
        return found.encoder

    def draw(self, prompts: Sequence[str], *, seed: int = 0, start: int = 0, **options: Any) -> np.ndarray:
        """An embedding a prompt, [n, d]; `options` are keywords of `DiffusionRun.generate`."""
        return self.run.generate(list(prompts), seed=seed, start=start, **options)


@dataclasses.dataclass(frozen=True, eq=False)
class RunDecoder:
    """A run that draws pictures from embeddings, and from texts beside them where it is told both.

    `reader` is the CLIP that embeds texts: of the run's own text, or what stands beside its image encoder.
    """

    run: DiffusionRun

    def __post_init__(self) -> None:
        """UserError for a run that is told no embedding, or more than texts beside it."""
        told = [part for part in parts_of(self.run.condition) if isinstance(part, Embedding)]
        if len(told) != 1 or not set(self.run.asks) <= {"image", "prompt"}:
            asks = ", ".join(self.run.asks) or "nothing"
            raise UserError(
                f"the decoder in {str(self.run.path)!r} is asked for {asks}: a decoder is told the embedding of an image, "
                "alone or beside a prompt (condition 'embedding', or 'several' with 'embedding' and 'text')"
            )

    @property
    def told(self) -> Embedding:
        """Its condition of pictures."""
        found: Any = next(part for part in parts_of(self.run.condition) if isinstance(part, Embedding))
        return found

    @property
    def encoder(self) -> Encoder:
        """The CLIP whose image tower it inverts."""
        return self.told.encoder

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its x0."""
        return self.run.shape

    @property
    def reads(self) -> bool:
        """Whether it is told texts too."""
        return "prompt" in self.run.asks

    def clip(self) -> ClipRun:
        """The CLIP with its tokenizer. UserError for published weights that have none beside them."""
        for part in parts_of(self.run.condition):
            if isinstance(part, Text) and part.encoder.fingerprint == self.encoder.fingerprint:
                return part.clip
        return load_encoder(self.encoder.clip.path)

    def embed(self, images: Any) -> np.ndarray:
        """Unit-norm embeddings [n, d] of pictures."""
        return self.told.request(self.told.listed("images", images))["embedding"]

    def embed_all(self, data: Source) -> np.ndarray:
        """The same [n, d] of the examples of a source, with progress."""
        clip, shape = self.encoder.clip, self.told.pictures.shape
        skip = self.run.config.data.get("on_error") == "skip"
        found = embedded(lambda params, images: embedder(clip, shape)[0](params, images), clip.params, data, skip=skip)
        return found[found.any(axis=1)]

    def notices(self, prompts: Sequence[str]) -> list[str]:
        """What of the prompts its CLIP does not read."""
        return self.clip().tokenizer.explain(list(prompts))

    def texts(self, prompts: Sequence[str]) -> np.ndarray:
        """Unit-norm embeddings [n, d] of texts, in the same space."""
        return self.clip().encode_text(list(prompts))

    def pictures(self, images: Any) -> np.ndarray:
        """Pictures as the run's own, float32 [n, h, w, c] in [-1, 1]. UserError for embeddings in their place."""
        listed = self.told.listed("images", images)
        for one in listed:
            if np.ndim(one) == 1:
                raise UserError(f"an embedding of {len(one)} numbers where a picture is wanted: decode it first")
        return self.told.pictures(listed)

    def requests(self, embeddings: np.ndarray, prompts: Sequence[str] | None) -> list[Any]:
        """What the run is asked by. UserError for pictures where embeddings are wanted."""
        found = np.asarray(embeddings)
        if found.ndim != 2 or found.dtype.kind != "f":
            raise UserError(
                f"embeddings are floats [n, {self.told.entries['embedding'][0]}], not {found.dtype} {found.shape}: embed "
                "pictures first"
            )
        if self.run.asks == ("image",):
            return list(found)
        texts = [None] * len(found) if prompts is None else prompts
        return [
            {"image": row} | ({} if text is None else {"prompt": text}) for row, text in zip(found, texts, strict=True)
        ]

    def draw(
        self,
        embeddings: np.ndarray,
        prompts: Sequence[str] | None = None,
        *,
        seed: int = 0,
        start: int = 0,
        eta: float | None = None,
        **options: Any,
    ) -> np.ndarray:
        """A picture an embedding; a run that is told no texts takes no notice of them. `eta` is DDIM's."""
        if eta is not None:
            options["solver_options"] = {**options.get("solver_options", {}), "eta": float(eta)}
        found = self.run.generate(self.requests(embeddings, prompts), seed=seed, start=start, **options)
        return np.clip(found, -1.0, 1.0)

    def invert(
        self,
        images: Any,
        embeddings: np.ndarray,
        *,
        prompts: Sequence[str] | None = None,
        num_steps: int = 50,
        grid: str | None = None,
        guidance_scale: float = 1.0,
        refinements: int = 0,
    ) -> np.ndarray:
        """Noise [n, *shape] of unit variance that DDIM turns into the pictures under their embeddings, in as many steps.

        `refinements` as in `sampling.invert`. The way back is `draw` by the solver "ddim" with the same `num_steps`, `grid` and
        `guidance_scale`.
        """
        run, pictures = self.run, self.pictures(images)
        _, ts, scale = run.sampler(solver="ddim", num_steps=num_steps, grid=grid, guidance_scale=guidance_scale)
        model = run.guided(guidance_scale=scale)
        cond = run.condition.request(self.requests(embeddings, prompts))
        found = []
        for first in range(0, len(pictures), PART):
            rows = np.minimum(np.arange(first, first + min(PART, len(pictures))), len(pictures) - 1)
            told = {name: jnp.asarray(leaf[rows]) for name, leaf in cond.items()}
            x0 = x0_of(run, pictures[rows])
            noise = invert(model, run.schedule, x0, ts, cond=told, refinements=refinements)
            found.append(np.asarray(noise)[: len(pictures) - first])
        return np.concatenate(found) / float(run.schedule.sigma(jnp.float32(run.schedule.t_max)))


@dataclasses.dataclass(frozen=True, eq=False)
class RunUpsampler:
    """A run that enlarges pictures."""

    run: DiffusionRun

    def __post_init__(self) -> None:
        """UserError for a run that does not."""
        if not isinstance(self.run.condition, LowResolution):
            name = (self.run.config.get("condition") or {"name": "none"})["name"]
            raise UserError(
                f"the upsampler in {str(self.run.path)!r} has the condition {name!r}: one is told a small picture (condition "
                "'image', kind 'low_resolution')"
            )

    @property
    def small(self) -> tuple[int, ...]:
        """The shape of the pictures that it enlarges."""
        told: Any = self.run.condition
        h, w, c = told.pictures.shape
        return (h // told.factor, w // told.factor, c)

    def draw(self, images: np.ndarray, *, seed: int = 0, start: int = 0, **options: Any) -> np.ndarray:
        """Large pictures of small ones [n, *small] in [-1, 1]."""
        if images.shape[1:] != self.small:
            raise UserError(f"the upsampler in {str(self.run.path)!r} enlarges {self.small}, not {images.shape[1:]}")
        found = self.run.generate(list(np.clip(images, -1.0, 1.0)), seed=seed, start=start, **options)
        return np.clip(found, -1.0, 1.0)


def unclip_of(
    decoder: DiffusionRun, prior: DiffusionRun | None = None, upsamplers: Sequence[DiffusionRun] = ()
) -> UnCLIP:
    """The pipeline of loaded runs. UserError for runs that are no such stages, and for ones that do not fit together."""
    last = RunDecoder(decoder)
    first = None if prior is None else RunPrior(prior)
    if first is not None:
        size, width = last.told.entries["embedding"][0], first.run.shape[0]
        if width != size:
            raise UserError(
                f"the prior in {str(first.run.path)!r} draws embeddings of {width} numbers, and the decoder in "
                f"{str(decoder.path)!r} is told {size}: train both on one CLIP"
            )
        if first.encoder.fingerprint != last.encoder.fingerprint:
            raise UserError(
                f"the prior in {str(first.run.path)!r} was trained on the CLIP {first.encoder.fingerprint[:12]} "
                f"({first.encoder.clip.path}), the decoder in {str(decoder.path)!r} on {last.encoder.fingerprint[:12]} "
                f"({last.encoder.clip.path}): train both on one CLIP"
            )
    shape, stages = shape_shown(decoder), []
    for run in upsamplers:
        stage = RunUpsampler(run)
        if stage.small != shape:
            raise UserError(
                f"the upsampler in {str(run.path)!r} enlarges {stage.small}, and is given {shape}: train it with "
                f"condition.factor and pictures that fit"
            )
        shape = shape_shown(run)
        stages.append(stage)
    return UnCLIP(last, first, tuple(stages))


def load_unclip(
    decoder: str | Path,
    *,
    prior: str | Path | None = None,
    upsamplers: Sequence[str | Path] | str | Path = (),
    which: str = "ema",
) -> UnCLIP:
    """The pipeline of the runs in these folders, with averaged weights ("ema") or raw ones ("params").

    Without a `prior` the embedding of the text itself is decoded. UserError as `unclip_of` and `load_diffusion`.
    """
    places = [upsamplers] if isinstance(upsamplers, str | Path) else list(upsamplers)
    return unclip_of(
        load_diffusion(decoder, which=which),
        None if prior is None else load_diffusion(prior, which=which),
        [load_diffusion(place, which=which) for place in places],
    )
