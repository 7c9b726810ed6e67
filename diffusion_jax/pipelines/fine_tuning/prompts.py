"""What a pipeline's U-Net is told of captions, as the condition of a training: by its own text encoders, which do not train.

Dropped captions are told what the pipeline tells where no negative prompt is given: the empty prompt, or zeros (XL). The sizes
that XL is told are those of the pictures that are trained on, uncropped, whatever the files' own were.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from diffusion_jax import runs
from diffusion_jax.pipelines.text_to_image import TextToImage
from diffusion_jax.systems.diffusion.conditions.captioned import Captioned
from diffusion_jax.systems.diffusion.noted import Noted
from diffusion_jax.typing import PyTree, UserError

__all__ = ["PRETRAINED", "TOKENIZER", "WHAT", "Prompts", "check_process", "noted_of"]

PRETRAINED, WHAT = "pretrained.json", "pipeline"
"""Where the pipeline that a run began with lies, relative to the run, a fingerprint of its U-Net and text encoders, the
`PROCESS` that these are trained in, and where the `TOKENIZER` lies that was named."""
PROCESS, TOKENIZER = "process", "tokenizer"


def noted_of(pipeline: TextToImage) -> Noted:
    """What a run notes of it."""
    return Noted(pipeline.path, weights_of(pipeline), PRETRAINED, WHAT)


def weights_of(pipeline: TextToImage) -> dict[str, Any]:
    """The weights of the U-Net and of the text encoders, and digests of their vocabularies."""
    encoders = {str(place): encoder.params for place, encoder in enumerate(pipeline.encoders)}
    words = [hashlib.sha256("\n".join(encoder.tokenizer.symbols).encode()).digest() for encoder in pipeline.encoders]
    return {"unet": pipeline.params, "text": encoders, "words": [np.frombuffer(one, np.uint8) for one in words]}


def process_of(pipeline: TextToImage) -> dict[str, str]:
    """What of the scheduler training goes by: the prediction, how time is told, and a fingerprint of the table of betas."""
    scheduler = pipeline.scheduler
    # Rounded: another machine's logarithms differ in the last bit.
    table = runs.fingerprint(np.round(np.asarray(scheduler.schedule.log_alphas, np.float64), 6))
    return {"prediction": scheduler.prediction, "time": scheduler.time, "betas": table}


def check_process(pipeline: TextToImage, run: Path) -> None:
    """UserError where the scheduler of `pipeline` says another process than the one that the run in `run` was trained in."""
    file = run / PRETRAINED
    noted, found = runs.read_json(file).get(PROCESS) if file.is_file() else None, process_of(pipeline)
    if noted is None or noted == found:  # runs of before note none
        return
    name = next(name for name, value in found.items() if value != noted.get(name))
    told = "" if name == "betas" else f" {noted.get(name)!r}, not {found[name]!r}"
    raise UserError(
        f"the scheduler of the {WHAT} in {pipeline.path} is not the one that {run} was fine-tuned by: another {name}{told}; "
        "put it back, or train anew"
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Prompts(Captioned):
    """Captions by the text encoders of `pipeline`, of pictures of `size` (height, width) pixels.

    The entries are `tokens`, and of XL `pooled` and `ids`. `words` is where the tokenizer of a single file lies.
    """

    pipeline: TextToImage
    size: tuple[int, int]
    drop: float = 0.1
    cache: str | None = None
    words: str | None = None
    part: ClassVar[int] = 32

    @functools.cached_property
    def noted(self) -> Noted:
        """What a run notes of the pipeline."""
        return noted_of(self.pipeline)

    @property
    def params(self) -> PyTree:  # type: ignore[override]
        """The weights that do not train, and those that training began with."""
        return weights_of(self.pipeline)

    def tell(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """The entries of texts."""
        cond, _ = self.pipeline.condition(list(texts), size=self.size)
        return {name: np.asarray(leaf) for name, leaf in cond.items()}

    @functools.cached_property
    def null(self) -> dict[str, np.ndarray]:  # type: ignore[override]
        """What the pipeline tells where no negative prompt is given."""
        _, away = self.pipeline.condition([""], size=self.size)
        return {name: np.asarray(leaf) for name, leaf in away.items()}

    def tokens_of(self, texts: Sequence[str]) -> np.ndarray:
        """The ids of texts, of all encoders side by side."""
        return np.concatenate([encoder.tokens(texts) for encoder in self.pipeline.encoders], axis=1)

    @functools.cached_property
    def reader(self) -> Mapping[str, Any]:  # type: ignore[override]
        """The encoders' weights, and what XL is told beside them."""
        encoders = runs.fingerprint({key: leaf for key, leaf in weights_of(self.pipeline).items() if key != "unet"})
        return {"kind": self.pipeline.kind, "encoders": encoders, "size": list(self.size)}

    def cut(self, texts: Sequence[str]) -> list[str]:
        """What of texts the first encoder leaves out."""
        return self.pipeline.notices(texts)

    def notes(self, folder: Path) -> Mapping[str, Mapping[str, Any]]:
        """Where the pipeline lies from the run's folder, its fingerprint, and the process."""
        more: dict[str, Any] = {PROCESS: process_of(self.pipeline)}
        if self.words is not None:
            more[TOKENIZER] = os.path.relpath(self.words, folder)
        return {file: {**note, **more} for file, note in self.noted.notes(folder).items()}

    def agrees(self, folder: Path, anew: bool) -> None:
        """UserError for a folder that holds the pipeline, and for a run there that began with another."""
        self.noted.agrees(folder, anew)
        if not anew:
            check_process(self.pipeline, folder)
