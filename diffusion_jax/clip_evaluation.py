"""A dual encoder on pictures of one's own: zero-shot, retrieval, linear probe and CLIP score, from folders to numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.clip_run import ClipRun
from diffusion_jax.data.caption_folder import CaptionFolder
from diffusion_jax.data.class_folder import ClassFolder
from diffusion_jax.data.prompts import TEMPLATES, templates
from diffusion_jax.evals.clip_score import PREFIX, clip_score
from diffusion_jax.evals.linear_probe import linear_probe
from diffusion_jax.evals.retrieval import retrieval
from diffusion_jax.evals.zero_shot import ZeroShot, class_embeddings, zero_shot
from diffusion_jax.typing import UserError

__all__ = ["clip_score_of", "probe_of", "read_templates", "recall_of", "retrieval_of", "zero_shot_of"]

Say = Callable[[str], None]


def read_templates(name: str) -> tuple[str, ...]:
    """The templates of a name of `data.prompts`, or of a text file with a template a line."""
    path = Path(name)
    if name in TEMPLATES or not path.is_file():
        return templates(name)
    lines = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    if not lines:
        raise UserError(f"template file {name!r} holds no template")
    return lines


def _features(run: ClipRun, files: Sequence[Any], say: Say | None, what: str, size: int = 64) -> np.ndarray:
    """Unit-norm image embeddings, with a line of progress at every tenth."""
    parts = []
    for start in range(0, len(files), size):
        parts.append(run.encode_image(list(files[start : start + size]), batch_size=size))
        done = min(start + size, len(files))
        if say is not None and done * 10 // len(files) > start * 10 // len(files):
            say(f"{what}: {done} of {len(files)} pictures")
    return np.concatenate(parts)


def zero_shot_of(
    run: ClipRun, folder: ClassFolder, prompts: Sequence[str] = TEMPLATES["photo"], *, say: Say | None = None
) -> ZeroShot:
    """Zero-shot classification of a folder a class; every class is embedded once."""
    classes = class_embeddings(run.encode_text, folder.class_names, prompts)
    size, total = 64, len(folder)

    def batches() -> Any:
        for start in range(0, total, size):
            yield folder.files[start : start + size], folder.labels[start : start + size]
            done = min(start + size, total)
            if say is not None and done * 10 // total > start * 10 // total:
                say(f"zero-shot: {done} of {total} pictures")

    return zero_shot(lambda files: run.encode_image(list(files), batch_size=size), classes, batches())


def retrieval_of(run: ClipRun, source: CaptionFolder, *, say: Say | None = None) -> dict[str, dict[str, float]]:
    """Recall at 1, 5 and 10 both ways between a folder's pictures and all of their captions; equal captions are one answer."""
    image = _features(run, [source[i]["image"] for i in range(len(source))], say, "retrieval")
    return recall_of(run, image, source.texts)


def recall_of(run: ClipRun, image: np.ndarray, texts: Sequence[Sequence[str]]) -> dict[str, dict[str, float]]:
    """The same from embeddings [n, embed] and the captions of each; a caption is encoded once, however often it stands."""
    pairs = [(number, text) for number, several in enumerate(texts) for text in several]
    captions = [text for _, text in pairs]
    index = {text: row for row, text in enumerate(dict.fromkeys(captions))}
    rows = run.encode_text(list(index))[[index[text] for text in captions]]
    return retrieval(image, rows, [number for number, _ in pairs], names=captions)


def probe_of(run: ClipRun, train: ClassFolder, test: ClassFolder, *, say: Say | None = None) -> dict[str, float]:
    """Linear probe on unit-norm embeddings: {"accuracy", "c", "train", "test"}."""
    if train.class_names != test.class_names:
        both = f"{train.path}: {len(train.class_names)} classes, {test.path}: {len(test.class_names)}"
        raise UserError(f"the classes of the two folders are not the same ({both})")
    parts = [(_features(run, part.files, say, "linear probe"), part.labels) for part in (train, test)]
    found = linear_probe(*parts)
    return {"accuracy": found.accuracy, "c": found.c, "train": len(train), "test": len(test)}


def clip_score_of(run: ClipRun, source: CaptionFolder, *, say: Say | None = None) -> dict[str, float]:
    """The mean CLIP score of each picture with each of its captions, behind "A photo depicts " as in the paper."""
    image = _features(run, [source[i]["image"] for i in range(len(source))], say, "CLIP score")
    pairs = [(number, PREFIX + text) for number, texts in enumerate(source.texts) for text in texts]
    scores = clip_score(image[[number for number, _ in pairs]], run.encode_text([text for _, text in pairs]))
    return {"mean": float(scores.mean()), "std": float(scores.std()), "pairs": len(pairs)}


def save_numbers(path: Path, found: dict[str, Any]) -> None:
    """The numbers as JSON; measures that are in the file already and were not taken again stay."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        before = json.loads(path.read_text())
    except (OSError, ValueError):
        before = {}
    path.write_text(json.dumps({**before, **found}, indent=2) + "\n")
