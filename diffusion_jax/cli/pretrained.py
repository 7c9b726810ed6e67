"""`diffusion-jax sample --pretrained FOLDER`: a published pipeline in the place of a run."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax import build, runs
from diffusion_jax.cli.applies import flag
from diffusion_jax.cli.asking import Asked
from diffusion_jax.pipelines import ClassToImage, Sizes, TextToImage, UnCLIP, load_pipeline
from diffusion_jax.pipelines.checks import check_guided, check_negative, guiding, tile_of
from diffusion_jax.pipelines.drawing import plan_of
from diffusion_jax.typing import Params, UserError, whole_number

__all__ = ["Published", "published", "sized"]

TEXTS = ("second", "negative_second", "clip_skip")
SIZES: dict[str, type] = {
    "original_size": int, "crop": int, "target_size": int, "aesthetic_score": float, "negative_aesthetic_score": float,
}  # fmt: skip
"""Options that are fields of `Sizes`, and whether each is two whole numbers or one."""


@dataclasses.dataclass(frozen=True, eq=False)
class Published:
    """A pipeline as a `systems.system.Drawing`: what is asked of it is a label, or a prompt, and a picture and a mask where
    given."""

    pipeline: TextToImage | ClassToImage
    asks: tuple[str, ...]
    size: tuple[int, int] | None = None
    strength: float | None = None
    tile: int | None = None
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ink: bool = False

    @property
    def path(self) -> Path:
        """The folder."""
        return self.pipeline.path

    @property
    def config(self) -> Mapping[str, Any]:
        """Nothing that a run's config would say."""
        return {}

    @property
    def params(self) -> Params:
        """The network's weights."""
        return self.pipeline.params

    @property
    def shape(self) -> tuple[int, ...]:
        """(height, width, 3) in pixels."""
        return (*(self.size or (self.pipeline.size * self.pipeline.vae.factor,) * 2), 3)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of the pipeline: all its weights and what its networks are, vocabularies, the scale of its latents, and its
        scheduler's fields."""
        pipeline, encoders = self.pipeline, getattr(self.pipeline, "encoders", ())
        vae, scheduler = pipeline.vae, pipeline.scheduler
        words = [
            [one.tokenizer.symbols, one.tokenizer.merges, one.tokenizer.context_length, one.pad, one.config]
            for one in encoders
        ]
        own = [getattr(pipeline, name, None) for name in ("unet_config", "config", "zeros", "guided_channels")]
        every = [scheduler.name, dict(scheduler.fields), words, own, vae.config]
        told = json.dumps(every, sort_keys=True, default=str).encode()
        return runs.fingerprint(
            {
                "network": pipeline.params,
                "vae": [vae.params, np.asarray(vae.scale), np.asarray(vae.shift)],
                "told": np.frombuffer(told, np.uint8),
                **{str(i): one.params for i, one in enumerate(encoders)},
            }
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of a pipeline that is asked for one."""
        return self.pipeline.class_names if isinstance(self.pipeline, ClassToImage) else ()

    def notices(self, requests: Sequence[Any]) -> list[str]:
        """A line for each prompt of which a part is not read."""
        if isinstance(self.pipeline, ClassToImage):
            return []
        texts = [request if isinstance(request, str) else request.get("prompt") for request in requests]
        texts += [self.more[name] for name in TEXTS if isinstance(self.more.get(name), str)]
        return self.pipeline.notices([text for text in texts if text is not None] or [""])

    def settings(self, *, solver_options: Mapping[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        """Those of `generate` that were given, checked: a solver, a grid and a number of steps that go together."""
        found = {name: value for name, value in options.items() if value is not None}
        if isinstance(found.get("negative"), Mapping):
            found["negative"] = found["negative"]["prompt"]
        given = dict(solver_options or {})
        eta = given.pop("eta", None)
        if given and "solver" not in found:
            raise UserError(f"--solver-option {next(iter(given))} needs --solver: the folder's scheduler has its own")
        if given:
            found["solver_options"] = given | ({} if eta is None else {"eta": eta})
        elif eta is not None:
            found["eta"] = eta
        scheduler = self.pipeline.scheduler
        plan_of(
            scheduler, found.get("num_steps", scheduler.usual_steps), solver=_solver(found), grid=found.get("grid"),
            eta=found.get("eta"), strength=self.strength or 1.0,
        )  # fmt: skip
        tile_of(self.pipeline.vae, self.tile)
        told = not isinstance(self.pipeline, ClassToImage) and bool(
            self.pipeline.unet_config["hearing"].get("guidance")
        )
        scale = guiding(found.get("guidance_scale"), 7.5, found.get("guidance"), told=told)
        if isinstance(self.pipeline, ClassToImage):
            if found.get("negative") is not None:
                check_guided(found.get("guidance"), scale)
        else:
            away = (found.get("negative"), self.more.get("negative_second"))
            check_negative(away, found.get("guidance"), scale, told)
        own = {} if isinstance(self.pipeline, ClassToImage) else {"size": self.size, "strength": self.strength}
        return found | own | {"tile": self.tile} | dict(self.more)

    def generate(
        self, requests: Any, *, count: int | None = None, seed: int, start: int = 0, batch_size: int, **settings: Any
    ) -> np.ndarray:
        """A picture a request, float32 [n, height, width, 3] in [-1, 1]."""
        asked: list[Any] = [requests] if isinstance(requests, str | int | Mapping) else list(requests)
        if count is not None and len(asked) == 1:
            asked *= whole_number("count", count, 1)
        how = {"seed": seed, "start": start, "batch_size": batch_size, **settings}
        if "solver_options" in how:  # which are noted as they were given
            how["solver"] = _solver(how)
            del how["solver_options"]
        if isinstance(self.pipeline, ClassToImage):
            return self.pipeline.generate(asked, **how)
        rows = [{"prompt": one} if isinstance(one, str) else one for one in asked]
        if "sizes" in how:  # which is noted as it was given
            how["sizes"] = Sizes(**{name: _of_json(value) for name, value in how["sizes"].items()})
        pictures: dict[str, Any] = {name: [row[name] for row in rows] for name in self.asks if name != "prompt"}
        how["say"] = lambda line: None  # what is left out has been said of all that are asked for
        return self.pipeline.generate([row.get("prompt") or "" for row in rows], **pictures, **how)


def _solver(given: Mapping[str, Any]) -> Any:
    """The solver of settings: its name, or with options the solver itself."""
    options = given.get("solver_options")
    return build.solver(given["solver"], **options) if options else given.get("solver")


def published(arguments: argparse.Namespace) -> Published:
    """The pipeline of `--pretrained`, with every `--lora` merged. UserError as `load_pipeline`, and for a `--size` that is
    none."""
    loras, kind = [_lora(given) for given in arguments.lora], arguments.param_dtype or "float32"
    try:
        pipeline = load_pipeline(
            arguments.pretrained, tokenizer=arguments.tokenizer, prediction=arguments.prediction,
            model=arguments.model, vae=arguments.vae, param_dtype="float32" if loras else kind,
        )  # fmt: skip
    except UserError as error:
        raise UserError(_by_option(str(error))) from error
    if isinstance(pipeline, UnCLIP):
        raise UserError(
            f"{arguments.pretrained!r} holds an unCLIP: diffusion-jax unclip generate --pretrained {arguments.pretrained}"
        )
    if isinstance(pipeline, ClassToImage):
        edge = pipeline.size * pipeline.vae.factor
        if arguments.size is not None and _size(arguments.size) != (edge, edge):
            raise UserError(f"--size {arguments.size}: this DiT draws {edge} x {edge} alone; nearest: {edge}")
        for option in ("strength", "lora", *TEXTS, *SIZES):
            if getattr(arguments, option) not in (None, []):
                raise UserError(f"--{option} is Stable Diffusion's: {arguments.pretrained!r} holds a DiT")
        return Published(pipeline, ("label",), tile=arguments.tile)
    for option in ("mask", "strength"):
        if getattr(arguments, option) not in (None, []) and not arguments.image:
            raise UserError(f"{flag(option)} is of a picture to begin with: give --image as well")
    for path, scale in loras:
        pipeline = pipeline.with_lora(path, scale)
    if loras and kind != "float32":
        pipeline = pipeline.rounded(kind)
    asks = ("prompt", *(name for name in ("image", "mask") if getattr(arguments, name)))
    size = _size(arguments.size)
    return Published(pipeline, asks, size, arguments.strength, arguments.tile, _more(arguments, pipeline))


def sized(run: Published, asked: Asked | None) -> Published:
    """The pipeline at the size of the pictures that it begins with, where no `--size` was said. UserError for several sizes."""
    if run.size is not None or asked is None or "image" not in run.asks or isinstance(run.pipeline, ClassToImage):
        return run
    pictures = list(dict.fromkeys(row["image"] for row in asked.different()))
    try:
        return dataclasses.replace(run, size=run.pipeline.pixels(image=pictures))
    except UserError as error:
        raise UserError(str(error).replace(": say size", ": say --size")) from error


def _more(arguments: argparse.Namespace, pipeline: TextToImage) -> dict[str, Any]:
    """What else of `generate` was given: texts, and sizes as JSON has them. UserError for sizes that the U-Net is not told."""
    found = {name: getattr(arguments, name) for name in TEXTS if getattr(arguments, name) is not None}
    sizes: dict[str, Any] = {}
    for name, read in SIZES.items():
        given = getattr(arguments, name)
        if given is None:
            continue
        heard = pipeline.unet_config["hearing"].get("ids")
        if not heard or (heard == 5 and name == "target_size") or (heard == 6 and read is float):
            raise UserError(
                f"{flag(name)}: this U-Net is told none; XL's hears sizes, its refiner scores in place of the last"
            )
        sizes[name] = given if read is float else list(_edges(flag(name), given))
    return found | ({"sizes": sizes} if sizes else {})


def _of_json(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _by_option(message: str) -> str:
    """What says "give tokenizer" in the words of the command line."""
    for python, shell in (
        (": give tokenizer,", ": give --tokenizer,"),
        (": give prediction,", ": give --prediction,"),
        ("model and vae are given together", "--model and --vae are given together"),
    ):
        message = message.replace(python, shell)
    return message


def _lora(given: str) -> tuple[str, float]:
    """(path, scale) of "style.safetensors" or "style.safetensors=0.7". UserError for what stands after = and is no number."""
    path, sign, scale = given.rpartition("=")
    if not sign or Path(given).exists():
        return given, 1.0
    try:
        found = float(scale)
    except ValueError as error:
        raise UserError(f"--lora {given!r}: {scale!r} is not a number; a scale stands after =, such as 0.7") from error
    return path, found


def _size(given: str | None) -> tuple[int, int] | None:
    """(height, width) of "512" or "512x768", height first. UserError for another text."""
    return None if given is None else _edges("--size", given)


def _edges(option: str, given: str) -> tuple[int, int]:
    """Two numbers of "512x768", or twice the one of "512"; of a crop 0 may be. UserError for another text."""
    parts = given.lower().split("x")
    if len(parts) > 2 or not all(part.isdigit() and int(part) >= (option != "--crop") for part in parts):
        meant = "TOPxLEFT, such as 0x128"
        if option != "--crop":
            meant = "an edge in pixels, such as 512, or HEIGHTxWIDTH, such as 512x768"
        raise UserError(f"{option} {given!r} is not {meant}")
    edges = [int(part) for part in parts]
    return edges[0], edges[-1]
