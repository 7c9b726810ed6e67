"""A folder of diffusers: model_index.json and the parts that it names, looked at before any weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_jax.convert.files import read_json
from diffusion_jax.typing import UserError, nearest_path, one_of

__all__ = ["PIPELINES", "Index", "read_index"]

INDEX = "model_index.json"
TEXT = ("text_encoder", "tokenizer")
TEXT_2 = ("text_encoder_2", "tokenizer_2")

PIPELINES: dict[str, str] = {
    "StableDiffusionPipeline": "sd",
    "StableDiffusionImg2ImgPipeline": "sd",
    "StableDiffusionInpaintPipeline": "sd",
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusionXLImg2ImgPipeline": "sdxl",
    "StableDiffusionXLInpaintPipeline": "sdxl",
    "LatentConsistencyModelPipeline": "sd",
    "LatentConsistencyModelImg2ImgPipeline": "sd",
    "DiTPipeline": "dit",
    "UnCLIPPipeline": "unclip",
    "UnCLIPImageVariationPipeline": "unclip",
}
"""Classes of pipelines that are read, and which system each is."""

NEEDED: dict[str, tuple[str, ...]] = {"sd": ("unet", "vae", "scheduler"), "dit": ("transformer", "vae", "scheduler")}
NEEDED["sdxl"] = NEEDED["sd"]
NEEDED["unclip"] = (
    "decoder",
    "text_proj",
    "super_res_first",
    "super_res_last",
    "decoder_scheduler",
    "super_res_scheduler",
)
OF_PRIOR, OF_IMAGES = ("prior", "prior_scheduler"), ("image_encoder", "feature_extractor")
PARTS: dict[str, tuple[str, ...]] = {"sd": (*NEEDED["sd"], *TEXT, *TEXT_2), "dit": NEEDED["dit"]}
PARTS["sdxl"] = PARTS["sd"]
PARTS["unclip"] = (*NEEDED["unclip"], *TEXT, *OF_PRIOR, *OF_IMAGES)
"""The parts of each system that are read, and of those the ones without which it is not whole."""

CLASSES: dict[str, tuple[str, ...]] = {
    "unet": ("UNet2DConditionModel",),
    "transformer": ("DiTTransformer2DModel", "Transformer2DModel"),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "prior": ("PriorTransformer",),
    "decoder": ("UNet2DConditionModel",),
    "text_proj": ("UnCLIPTextProjModel",),
    "super_res_first": ("UNet2DModel",),
    "super_res_last": ("UNet2DModel",),
    "image_encoder": ("CLIPVisionModelWithProjection",),
    "prior_scheduler": ("UnCLIPScheduler",),
    "decoder_scheduler": ("UnCLIPScheduler",),
    "super_res_scheduler": ("UnCLIPScheduler",),
}
FIELDS = ("force_zeros_for_empty_prompt", "requires_aesthetics_score", "requires_safety_checker", "id2label")
UNREAD = ("safety_checker", "feature_extractor", "image_encoder", "add_watermarker", "watermark")
"""What has no part in a latent: a judge of pictures, marks in them, and encoders that only adapters use."""


class Index:
    """What model_index.json says: `kind` "sd", "sdxl", "dit" or "unclip", the `parts` there are, the class of the `scheduler`,
    flags, and `labels`, the names of classes by their numbers."""

    def __init__(self, folder: Path, told: Mapping[str, Any]) -> None:
        where = f"{str(folder / INDEX)!r}"
        name = told.get("_class_name")
        if name is None:
            raise UserError(f"{where} names no _class_name: it is no folder of a pipeline")
        self.kind = PIPELINES[one_of(f"{where}: pipeline", name, PIPELINES)]
        self.path, self.name = folder, str(name)
        self.parts: list[str] = []
        self.scheduler: str | None = None
        for key, value in told.items():
            unread = key in UNREAD and key not in PARTS[self.kind]
            if key.startswith("_") or key in FIELDS or unread:
                continue
            if key not in PARTS[self.kind]:
                if value in (None, [None, None]):
                    continue
                raise UserError(f"{where}: the part {key!r} is not read here; read are {', '.join(PARTS[self.kind])}")
            if not isinstance(value, list | tuple) or len(value) != 2:
                raise UserError(f"{where}: {key} is {value!r}, not [library, class]")
            if value[1] is not None:
                self._check(key, str(value[1]), where)
                self.parts.append(key)
                self.scheduler = str(value[1]) if key == "scheduler" else self.scheduler
        self.zeros = bool(told.get("force_zeros_for_empty_prompt", self.kind == "sdxl"))
        self.aesthetics = bool(told.get("requires_aesthetics_score", False))
        self.labels = told.get("id2label") or {}
        self._check_whole(where)

    def _check(self, part: str, name: str, where: str) -> None:
        known = CLASSES.get(part)
        if known is not None:
            one_of(f"{where}: {part}", name, known)
        if not (self.path / part).is_dir():
            names = sorted(place.name for place in self.path.iterdir() if place.is_dir())
            near = nearest_path(part, names)
            raise UserError(
                f"{str(self.path)!r} lacks the folder {part!r}, which {INDEX} names"
                + (f"; did you mean {near!r}?" if near else f" (there are {', '.join(names) or 'no folders'})")
            )

    def _check_whole(self, where: str) -> None:
        needed = set(NEEDED[self.kind]) - set(self.parts)
        if self.kind == "unclip":
            needed |= set(OF_PRIOR if self.name == "UnCLIPPipeline" else OF_IMAGES) - set(self.parts)
        texts = [pair for pair in (TEXT, TEXT_2) if set(pair) <= set(self.parts)]
        if not texts and self.kind != "dit":
            needed |= set(TEXT_2 if "text_encoder_2" in self.parts else TEXT) - set(self.parts)
        if needed:
            raise UserError(f"{where} names no {', '.join(sorted(needed))}: a {self.name} needs it")

    @property
    def encoders(self) -> list[tuple[Path, Path]]:
        """(folder of the text encoder, folder of its tokenizer), the first one first."""
        pairs = [pair for pair in (TEXT, TEXT_2) if set(pair) <= set(self.parts)]
        return [(self.path / encoder, self.path / tokenizer) for encoder, tokenizer in pairs]


def read_index(folder: Path) -> Index:
    """The index of a folder. UserError where there is none, for another pipeline, and for a part that is missing."""
    if not folder.exists():
        beside = [place.name for place in folder.parent.iterdir()] if folder.parent.is_dir() else []
        near = nearest_path(folder.name, beside)
        other = (
            f"; did you mean {str(folder.parent / near)!r}?"
            if near
            else ": a pipeline is a folder of yours, not a name"
        )
        raise UserError(f"{str(folder)!r} does not exist{other}")
    if not (folder / INDEX).is_file():
        there = sorted(place.name for place in folder.iterdir())[:8] if folder.is_dir() else []
        raise UserError(
            f"{str(folder)!r} is no folder of a pipeline: {INDEX} is missing (there are {', '.join(there) or 'no files'})"
        )
    return Index(folder, read_json(folder / INDEX))
