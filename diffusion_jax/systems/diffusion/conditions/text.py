"""The condition of captions by the text tower of a CLIP: a run trained here, or published weights with their vocabulary."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax.build.sources import captioned
from diffusion_jax.data.examples import raw
from diffusion_jax.systems.clip.run import ClipRun
from diffusion_jax.systems.diffusion.conditions.captioned import Captioned
from diffusion_jax.systems.diffusion.encoder import Encoder, encoder_of
from diffusion_jax.systems.diffusion.noted import read_note
from diffusion_jax.typing import PyTree, Source

__all__ = ["TEXT_ENCODER", "Text", "read_text_encoder", "text"]

TEXT_ENCODER, WHAT = "text_encoder.json", "text encoder"
"""Where a run's text encoder lies, relative to it, and a fingerprint of the weights that it was trained on."""


@dataclasses.dataclass(frozen=True, eq=False)
class Text(Captioned):
    """Captions, by the frozen text tower of a CLIP: `pooled`, its embedding, and `tokens` with `length`, its features.

    Each example gets one of its captions at random. Without `tokens` there is `pooled` alone, for a network that reads vectors.
    """

    encoder: Encoder
    drop: float = 0.1
    cache: str | None = None
    tokens: bool = True

    @property
    def clip(self) -> ClipRun:
        """The CLIP."""
        return self.encoder.clip

    def tell(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """The entries of texts."""
        found = self.clip.condition(texts)
        return found if self.tokens else {"pooled": found["pooled"]}

    def tokens_of(self, texts: Sequence[str]) -> np.ndarray:
        """The ids of texts."""
        return np.asarray(self.clip.tokenizer.encode(texts)["tokens"])

    @property
    def reader(self) -> Mapping[str, Any]:
        """The CLIP's weights."""
        return {"tokens": self.tokens, "encoder": self.encoder.fingerprint}

    def cut(self, texts: Sequence[str]) -> list[str]:
        """What of texts the tokenizer leaves out."""
        return self.clip.tokenizer.explain(texts)

    @property
    def params(self) -> PyTree:  # type: ignore[override]
        """The CLIP's weights."""
        return self.clip.params

    def notes(self, folder: Path) -> Mapping[str, Mapping[str, Any]]:
        """Where the CLIP lies from the run's folder, and its fingerprint."""
        return self.encoder.notes(folder)

    def agrees(self, folder: Path, anew: bool) -> None:
        """UserError for a folder that holds the CLIP, and for a run there of other weights."""
        self.encoder.agrees(folder, anew)


def text(
    encoder: str,
    drop: float = 0.1,
    cache: str | None = None,
    tokens: bool = True,
    run: Path | None = None,
    data: Source | None = None,
    config: ConfigDict | None = None,
) -> Text:
    """The text condition of a config, or of the run in `run`, whose note says where its CLIP lies from there.

    UserError where the `data` that a run begins with have no captions.
    """
    found = encoder_of(encoder, run, TEXT_ENCODER, WHAT)
    if data is not None and config is not None:
        captioned(config.data, raw(data))
    return Text(found, drop, cache, tokens)


def read_text_encoder(path: Path) -> dict[str, str]:
    """{"run", "fingerprint"} of the text encoder that the diffusion run in `path` was trained on."""
    return read_note(path, TEXT_ENCODER, WHAT)
