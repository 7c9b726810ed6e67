"""Which pictures of a folder a run was trained on, where retrieval or a CLIP score is measured on it: said, or left out."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from diffusion_jax import build
from diffusion_jax.data.sources.caption_folder import CaptionFolder
from diffusion_jax.data.sources.overlap import same_files
from diffusion_jax.systems.clip.run import ClipRun
from diffusion_jax.typing import UserError

__all__ = ["about", "measured"]


def measured(run: ClipRun, source: CaptionFolder, split: str | None) -> CaptionFolder:
    """What of `source` is measured: all, or what the run's own data have in `split`.

    Raises UserError for a run that was not trained on a folder, and for a split of which `source` has nothing.
    """
    if split is None:
        return source
    own = _files(run, split)
    if own is None:
        raise UserError(
            f"--split {split} is of a run that was trained on a folder of pictures, which {str(run.path)!r} was not"
        )
    files = [Path(source.path) / name for name in source.names]
    inside = {path for path, _ in same_files(own, files, contents=False)}
    if not inside:
        raise UserError(
            f"{str(source.path)!r} has none of the {len(own)} {split} pictures of the run's data, "
            f"{run.config.data.path!r}: measure it without --split"
        )
    return source.only([name for name, file in zip(source.names, files, strict=True) if file in inside])


def about(
    run: ClipRun,
    source: CaptionFolder,
    split: str | None,
    measure: str,
    say: Callable[[str], None],
    without: Collection[str] = (),
) -> dict[str, object]:
    """What was measured of `source` but for the files in `without`: said, and as numbers.

    {"pictures", "captions", "distinct_captions", "split" (or "all"), "trained_on"}: the last is how many of them the run
    was trained on, None where its data are no folder, or gone.
    """
    kept = [
        (Path(source.path) / name, texts)
        for name, texts in zip(source.names, source.texts, strict=True)
        if str(Path(source.path) / name) not in without
    ]
    trained = _files(run, "train")
    seen = None if trained is None else len(same_files(trained, [file for file, _ in kept], contents=False))
    captions = [text for _, texts in kept for text in texts]
    different = len(set(captions))
    of = f" of {len(captions)}" if different < len(captions) else ""
    say(f"{measure}: {len(kept)} pictures, {different} different captions{of}" + (f", {split}" if split else ""))
    if seen:
        say(
            f"{measure}: {seen} of these pictures were trained on, and {len(kept) - seen} held out: --split validation "
            "measures what was held out alone"
        )
    numbers = {"pictures": len(kept), "captions": len(captions), "distinct_captions": different}
    return numbers | {"split": split or "all", "trained_on": seen}


def _files(run: ClipRun, split: str) -> list[Path] | None:
    """The pictures of a split of what the run was trained on; None where that is no folder, or is not there any more."""
    if run.config.data.name != "folder" or not Path(run.config.data.path).is_dir():
        return None
    source = build.source(run.config.data, split)
    return [Path(source.path) / name for name in source.names]
