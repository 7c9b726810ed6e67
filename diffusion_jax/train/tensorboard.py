"""TensorBoard events through tensorboardX, behind clu's MetricWriter, without TensorFlow.

`clu.metric_writers` imports its TensorFlow writer when it is itself imported. A stand-in for that one module, which
builds the true writer only when somebody asks for it, makes the import light and takes nothing from those who have
TensorFlow.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import tensorboardX

_WRITER = "clu.metric_writers.summary_writer"


class _SummaryWriter:
    """clu's TensorFlow writer, imported when it is built."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        from clu.metric_writers.tf.summary_writer import SummaryWriter

        return SummaryWriter(*args, **kwargs)


if _WRITER not in sys.modules:
    _module = ModuleType(_WRITER)
    _module.SummaryWriter = _SummaryWriter  # type: ignore[attr-defined]
    sys.modules[_WRITER] = _module

from clu.metric_writers.interface import MetricWriter  # noqa: E402  (after the stand-in)

__all__ = ["TensorBoardWriter"]


class TensorBoardWriter(MetricWriter):
    """Writes events to `directory`; TensorBoard forgets older events of steps from `purge_step` on.

    The names of the arguments are clu's, which passes them by keyword.
    """

    def __init__(self, directory: str | Path, purge_step: int | None = None) -> None:
        self._writer = tensorboardX.SummaryWriter(str(directory), purge_step=purge_step)

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Numbers by name."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, float(value), step)

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        """Images by name, [N, H, W, C] or [H, W, C]: floats in [0, 1] or uint8."""
        for name, value in images.items():
            value = np.asarray(value)
            value = value[None] if value.ndim == 3 else value
            self._writer.add_images(name, value, step, dataformats="NHWC")

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Texts by name."""
        for name, value in texts.items():
            self._writer.add_text(name, value, step)

    def write_histograms(
        self, step: int, arrays: Mapping[str, Any], num_buckets: Mapping[str, int] | None = None
    ) -> None:
        """The distribution of each array's elements."""
        for name, value in arrays.items():
            bins = (num_buckets or {}).get(name, "tensorflow")
            self._writer.add_histogram(name, np.asarray(value), step, bins=bins)

    def write_audios(self, step: int, audios: Mapping[str, Any], *, sample_rate: int) -> None:
        """Sound by name, [N, T, C] in [-1, 1]."""
        for name, value in audios.items():
            for i, clip in enumerate(np.asarray(value)):
                self._writer.add_audio(f"{name}/{i}", clip, step, sample_rate=sample_rate)

    def write_videos(self, step: int, videos: Mapping[str, Any]) -> None:
        """Films by name, [N, T, H, W, C] or [T, H, W, C]; needs moviepy."""
        for name, value in videos.items():
            value = np.asarray(value)
            value = value[None] if value.ndim == 4 else value
            self._writer.add_video(name, np.moveaxis(value, -1, 2), step)

    def write_summaries(self, step: int, values: Mapping[str, Any], metadata: Mapping[str, Any] | None = None) -> None:
        """Raises NotImplementedError: tensorboardX has no events for plug-ins."""
        raise NotImplementedError("tensorboardX has no events for plug-ins; write scalars, images, texts or histograms")

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Flat hyper-parameters, as a text."""
        self._writer.add_text("hparams", "\n".join(f"    {k}: {v}" for k, v in hparams.items()), 0)

    def flush(self) -> None:
        """Writes what waits."""
        self._writer.flush()

    def close(self) -> None:
        """Writes what waits and closes the file."""
        self._writer.close()
