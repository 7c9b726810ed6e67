"""A dual encoder on pictures of one's own: zero-shot, retrieval, linear probe and CLIP score, from folders to numbers.

Pictures that cannot be read stop a measure (`on_error="raise"`), or are left out, counted and named in its numbers ("skip").
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.data.reading import check_share
from diffusion_jax.data.sources.caption_folder import CaptionFolder
from diffusion_jax.data.sources.class_folder import ClassFolder
from diffusion_jax.data.sources.folders import status
from diffusion_jax.data.text.prompts import TEMPLATES, templates
from diffusion_jax.data.text.text_files import read_json, read_lines
from diffusion_jax.files import write_atomic
from diffusion_jax.metrics.clip_score import PREFIX, clip_score
from diffusion_jax.metrics.linear_probe import linear_probe
from diffusion_jax.metrics.retrieval import retrieval
from diffusion_jax.metrics.zero_shot import ZeroShot, class_embeddings, zero_shot
from diffusion_jax.systems.clip.run import ClipRun
from diffusion_jax.typing import UserError, one_of

__all__ = [
    "Skipped",
    "check_classes",
    "clip_score_of",
    "numbers_before",
    "probe_of",
    "read_templates",
    "recall_of",
    "retrieval_of",
    "save_numbers",
    "zero_shot_of",
]

Say = Callable[[str], None]
BATCH = 64
NAMED = 20  # skipped pictures that the numbers name; all are counted


@dataclasses.dataclass
class Skipped:
    """What is done about pictures that cannot be read: `on_error` is "raise", or "skip", which collects them here.

    `advice` is what to say to skip them, such as "--on-error=skip", for the message where one stops a measure.
    """

    on_error: str = "raise"
    advice: str = ""
    files: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        one_of("on_error", self.on_error, ("raise", "skip"))

    def numbers(self) -> dict[str, Any]:
        """For a measure's numbers: how many were left out, and which."""
        if self.on_error == "raise":
            return {}
        return {"skipped": len(self.files), "skipped_files": list(self.files)[:NAMED]}


def read_templates(name: str) -> tuple[str, ...]:
    """The templates of a name of `data.text.prompts`, or of a text file with a template a line.

    Raises UserError for an unknown name, and for a file that is no UTF-8 or has a line without one place {}.
    """
    path = Path(name)
    if name in TEMPLATES or status(path) is None:
        return templates(name)
    lines = tuple(read_lines(path))
    if not lines:
        raise UserError(f"template file {name!r} holds no template")
    for line in lines:
        if line.count("{}") != 1:
            raise UserError(
                f"template file {name!r}: {line!r} has {line.count('{}')} places {{}} for the class name; 1 is needed"
            )
    return lines


def check_classes(folder: ClassFolder) -> ClassFolder:
    """The folder. UserError where it has one class, of which accuracy is 1 whatever a model says."""
    if len(folder.class_names) < 2:
        raise UserError(
            f"{str(folder.path)!r} has one class, {folder.class_names[0]!r}, which is right whatever the model says: give two "
            "at least"
        )
    return folder


def _pixels(run: ClipRun, files: Sequence[Any], skipped: Skipped) -> tuple[np.ndarray, list[int]]:
    """(the pictures that can be read as the run's uint8 [n, edge, edge, channels], which of `files` they are)."""
    if run.preprocess is None:
        raise UserError(f"the CLIP in {str(run.path)!r} takes no pictures of one's own")
    rows, kept = [], []
    for number, file in enumerate(files):
        try:
            rows.append(run.preprocess.pixels(file))
            kept.append(number)
        except UserError as error:
            if skipped.on_error == "raise":
                advice = f"; {skipped.advice} leaves such pictures out" if skipped.advice else ""
                raise UserError(f"{error}{advice}") from error
            skipped.files[str(file)] = str(error)
    edge, channels = run.preprocess.edge, run.preprocess.channels
    return (np.stack(rows) if rows else np.zeros((0, edge, edge, channels), np.uint8)), kept


def _embedded(run: ClipRun, pixels: np.ndarray, size: int) -> np.ndarray:
    """Unit-norm embeddings, the batch filled up to `size` so that pictures that are left out do not compile it anew."""
    filled = np.concatenate([pixels, np.repeat(pixels[-1:], size - len(pixels), axis=0)])
    return run.encode_image(filled, batch_size=size)[: len(pixels)]


def _check_skipped(skipped: Skipped, of: int, what: str, say: Say | None) -> None:
    if not skipped.files:
        return
    first = next(iter(skipped.files.values()))
    check_share(len(skipped.files), of, f"the pictures of {what}", first)
    if say is not None:
        say(f"{what}: {len(skipped.files)} of {of} pictures cannot be read and are left out, the first: {first}")


def _progress(say: Say | None, what: str, done: int, total: int) -> None:
    """A line at every tenth."""
    if say is not None and done * 10 // total > max(done - BATCH, 0) * 10 // total:
        say(f"{what}: {done} of {total} pictures")


def _features(
    run: ClipRun, files: Sequence[Any], skipped: Skipped, say: Say | None, what: str
) -> tuple[np.ndarray, np.ndarray]:
    """(unit-norm image embeddings, which of `files` they are of)."""
    parts, kept = [], []
    mine = Skipped(skipped.on_error, skipped.advice)
    for start in range(0, len(files), BATCH):
        pixels, here = _pixels(run, files[start : start + BATCH], mine)
        if len(pixels):
            parts.append(_embedded(run, pixels, min(BATCH, len(files))))
        kept += [start + number for number in here]
        _progress(say, what, min(start + BATCH, len(files)), len(files))
    skipped.files |= mine.files
    _check_skipped(mine, len(files), what, say)
    return np.concatenate(parts), np.array(kept)


def zero_shot_of(
    run: ClipRun,
    folder: ClassFolder,
    prompts: Sequence[str] = TEMPLATES["photo"],
    *,
    skipped: Skipped | None = None,
    say: Say | None = None,
) -> ZeroShot:
    """Zero-shot classification of a folder a class; every class is embedded once."""
    skipped = Skipped() if skipped is None else skipped
    classes = class_embeddings(run.encode_text, check_classes(folder).class_names, prompts)
    total = len(folder)
    before = len(skipped.files)

    def batches() -> Any:
        for start in range(0, total, BATCH):
            pixels, kept = _pixels(run, folder.files[start : start + BATCH], skipped)
            yield pixels, folder.labels[start : start + BATCH][kept]
            _progress(say, "zero-shot", min(start + BATCH, total), total)

    found = zero_shot(lambda pixels: _embedded(run, pixels, min(BATCH, total)), classes, batches())
    if len(skipped.files) > before:
        _check_skipped(skipped, total, "zero-shot", say)
    return found


def _pairs(source: CaptionFolder, kept: np.ndarray) -> list[tuple[int, str]]:
    """(row of a picture, caption) of every caption of the pictures that were read."""
    return [(row, text) for row, number in enumerate(kept) for text in source.texts[number]]


def retrieval_of(
    run: ClipRun, source: CaptionFolder, *, skipped: Skipped | None = None, say: Say | None = None
) -> dict[str, dict[str, float]]:
    """Recall at 1, 5 and 10 both ways between a folder's pictures and all of their captions; equal captions are one answer."""
    files = [source[i]["image"] for i in range(len(source))]
    image, kept = _features(run, files, Skipped() if skipped is None else skipped, say, "retrieval")
    return recall_of(run, image, [source.texts[number] for number in kept])


def recall_of(run: ClipRun, image: np.ndarray, texts: Sequence[Sequence[str]]) -> dict[str, dict[str, float]]:
    """The same from embeddings [n, embed] and the captions of each; a caption is encoded once, however often it stands."""
    pairs = [(number, text) for number, several in enumerate(texts) for text in several]
    captions = [text for _, text in pairs]
    index = {text: row for row, text in enumerate(dict.fromkeys(captions))}
    rows = run.encode_text(list(index))[[index[text] for text in captions]]
    return retrieval(image, rows, [number for number, _ in pairs], names=captions)


def probe_of(
    run: ClipRun, train: ClassFolder, test: ClassFolder, *, skipped: Skipped | None = None, say: Say | None = None
) -> dict[str, float]:
    """Linear probe on unit-norm embeddings: {"accuracy", "c", "train", "test"}."""
    if train.class_names != test.class_names:
        both = f"{train.path}: {len(train.class_names)} classes, {test.path}: {len(test.class_names)}"
        raise UserError(f"the classes of the two folders are not the same ({both})")
    check_classes(train)
    skipped = Skipped() if skipped is None else skipped
    parts = []
    for part in (train, test):
        features, kept = _features(run, part.files, skipped, say, "linear probe")
        parts.append((features, part.labels[kept]))
    found = linear_probe(*parts)
    return {"accuracy": found.accuracy, "c": found.c, "train": len(parts[0][1]), "test": len(parts[1][1])}


def clip_score_of(
    run: ClipRun, source: CaptionFolder, *, skipped: Skipped | None = None, say: Say | None = None
) -> dict[str, float]:
    """The mean CLIP score of each picture with each of its captions, behind "A photo depicts " as in the paper."""
    files = [source[i]["image"] for i in range(len(source))]
    image, kept = _features(run, files, Skipped() if skipped is None else skipped, say, "CLIP score")
    pairs = [(row, PREFIX + text) for row, text in _pairs(source, kept)]
    scores = clip_score(image[[number for number, _ in pairs]], run.encode_text([text for _, text in pairs]))
    return {"mean": float(scores.mean()), "std": float(scores.std()), "pairs": len(pairs)}


def numbers_before(path: Path) -> dict[str, Any]:
    """The numbers that are in the file already, for `save_numbers`. UserError for a file of something else."""
    if status(path) is None:
        return {}
    found = read_json(path)
    if not isinstance(found, dict):
        raise UserError(f"{str(path)!r} holds no numbers of measures: move it, or write elsewhere by --out")
    return found


def save_numbers(path: Path, found: dict[str, Any]) -> None:
    """The numbers as JSON; measures that are in the file already and were not taken again stay."""
    write_atomic(path, (json.dumps({**numbers_before(path), **found}, indent=2) + "\n").encode())
