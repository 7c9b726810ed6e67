"""A pipeline that was fine-tuned: a diffusion run like any other, and its pipeline with what was learned in it."""

from __future__ import annotations

import dataclasses
import functools
import os
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import runs
from diffusion_jax.pipelines.class_to_image import ClassToImage
from diffusion_jax.pipelines.fine_tuning.prompts import PRETRAINED, TOKENIZER, WHAT, Prompts, check_process, noted_of
from diffusion_jax.pipelines.fine_tuning.trains import LoRA, trains
from diffusion_jax.pipelines.loading import load_pipeline
from diffusion_jax.pipelines.text_to_image import TextToImage
from diffusion_jax.process import Denoiser
from diffusion_jax.systems.diffusion.latents import AUTOENCODER, Latents, autoencoder_at
from diffusion_jax.systems.diffusion.latents import noted_of as latents_noted
from diffusion_jax.systems.diffusion.noted import place_noted, read_note
from diffusion_jax.systems.diffusion.run import DiffusionRun
from diffusion_jax.train.checkpoint import restore_params
from diffusion_jax.train.lora import merge_lora
from diffusion_jax.typing import Params, UserError

__all__ = ["FineTuned", "load_base", "load_fine_tuned", "unloaded"]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class FineTuned(DiffusionRun):
    """A fine-tuned pipeline as a run. `base` is the pipeline that it began with; `params` are its U-Net's, or the adapters of a
    LoRA (`train.lora`), see `adapts`."""

    base: TextToImage

    @property
    def adapts(self) -> bool:
        """Whether a LoRA was trained, else the whole U-Net."""
        return isinstance(trains(self.config), LoRA)

    def whole(self, params: Params) -> Params:
        """The U-Net's parameters of these: the base's with the adapters merged, or as they are."""
        return merge_lora(self.base.params, params) if self.adapts else params

    def denoiser(self, params: Params) -> Denoiser:  # type: ignore[override]
        """The U-Net with other weights, or other adapters."""
        return super().denoiser(self.whole(params))  # type: ignore[return-value]

    @functools.cached_property
    def pipeline(self) -> TextToImage:
        """The pipeline with what was learned, for all that a `TextToImage` does: its own scheduler, pictures to begin with,
        `save`."""
        return dataclasses.replace(self.base, params=self.whole(self.params), vae=self.space.autoencoder)  # type: ignore[attr-defined]

    def generate(self, prompts: Any = None, *, batch_size: int = 4, **options: Any) -> np.ndarray:
        """As `DiffusionRun.generate`, few pictures at a time."""
        return super().generate(prompts, batch_size=batch_size, **options)


def load_base(config: ConfigDict, path: str | Path | None = None) -> TextToImage:
    """The pipeline that a config fine-tunes, or the one at `path`. UserError for one that cannot be."""
    told = config.pretrained
    how = {name: told.get(name) for name in ("tokenizer", "prediction", "remat")}
    found = load_pipeline(path or told.path, **how, dtype=told.get("dtype", "auto"))
    where = repr(str(path or told.path))
    if not isinstance(found, TextToImage):
        what = "a DiT told classes" if isinstance(found, ClassToImage) else "an unCLIP"
        raise UserError(f"{where} holds {what}: fine-tuned are Stable Diffusion's U-Nets")
    if found.joins:
        raise UserError(
            f"{where}: its U-Net fills in what a mask hides, which no caption tells: fine-tuned are U-Nets of "
            f"{found.vae.channels} channels"
        )
    if found.unet_config["hearing"].get("guidance"):
        raise UserError(f"{where}: its U-Net is distilled, it is told a guidance scale: fine-tune what it was made of")
    within = config.get("space") or {}
    return found if within.get("autoencoder") is None else _with_vae(found, within["autoencoder"])


def _with_vae(pipeline: TextToImage, path: str | Path) -> TextToImage:
    vae, own = autoencoder_at(path), pipeline.vae
    if (vae.channels, vae.factor) != (own.channels, own.factor):
        raise UserError(
            f"config key 'space.autoencoder': {str(path)!r} has latents of {vae.channels} channels, each edge divided by "
            f"{vae.factor}; those of {str(pipeline.path)!r} are {own.channels} and {own.factor}"
        )
    if vae.kind != own.kind:
        raise UserError(
            f"config key 'space.autoencoder': {str(path)!r} is a {vae.kind}; that of {str(pipeline.path)!r} is an {own.kind}"
        )
    return dataclasses.replace(pipeline, vae=vae)


def unloaded(config: ConfigDict, folder: Path, image: tuple[int, ...], base: TextToImage) -> FineTuned:
    """The run of a config without weights, for images of this shape. Its config says what the pipeline says."""
    whole = ConfigDict(config.to_dict())
    scheduler, told = base.scheduler, config.get("condition") or {}
    whole.update({"model": {"name": "unet"}, "prediction": scheduler.prediction, "time": scheduler.time})
    if whole.get("loss") is None:
        whole.loss = ConfigDict({"space": scheduler.prediction, "weight": "simple", "times": "uniform"})
    whole.condition = ConfigDict({"name": "prompts", **told})
    whole.space = ConfigDict({**(config.get("space") or {}), "name": "latents"})
    if len(image) != 3 or image[2] != base.vae.config["in_channels"]:
        raise UserError(
            f"the data hold arrays {tuple(image)}; the pipeline in {base.path} draws pictures of "
            f"{base.vae.config['in_channels']} channels"
        )
    space = Latents(tuple(image), base.vae, whole, whole.space.get("cache"))
    base.vae.latent_shape(*image[:2])
    words = (config.get("pretrained") or {}).get("tokenizer")
    prompts = Prompts(base, (image[0], image[1]), told.get("drop", 0.1), told.get("cache"), words)
    return FineTuned(
        folder, whole, base.network, {}, scheduler.schedule, prompts, space, tuple(image), base=base,  # type: ignore[arg-type]
    )  # fmt: skip


def load_fine_tuned(path: Path, config: ConfigDict, which: str, step: int | None) -> FineTuned:
    """The run in `path`, with the pipeline that it began with. UserError where that is gone, or another."""
    place, fingerprint, gone = place_noted(path, PRETRAINED, WHAT)
    if not place.exists():
        raise UserError(
            f"{gone}; where it has moved, the run's `train` command with --config.pretrained.path=PLACE notes it anew"
        )
    config = ConfigDict(config.to_dict())
    if (config.get("space") or {}).get("autoencoder") is not None:
        vae, _, lost = place_noted(path, AUTOENCODER, "autoencoder")
        if not vae.exists():
            raise lost
        config.space.autoencoder = str(vae)
    words = runs.read_json(path / PRETRAINED).get(TOKENIZER)
    if words is not None:
        config.pretrained.tokenizer = os.path.normpath(path / words)
    base = load_base(config, place)
    if noted_of(base).fingerprint != fingerprint:
        raise UserError(
            f"the {WHAT} in {place} has other weights than that which {path} was fine-tuned from: put it back, or train anew"
        )
    check_process(base, path)
    if latents_noted(base.vae).fingerprint != read_note(path, AUTOENCODER, "autoencoder")["fingerprint"]:
        raise UserError(
            f"the autoencoder in {base.vae.path} has other weights, or another scale of its latents, than the one that {path} "
            "was fine-tuned in: put it back, or train anew"
        )
    image = tuple(runs.read_json(path / runs.EXAMPLE)["image"])
    run = unloaded(config, path, image, base)
    return dataclasses.replace(run, params=restore_params(path / runs.CHECKPOINTS, which, step))
