"""What a person sees while a run trains: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

__all__ = ["Progress"]

MOST_TOLD = 4


class Progress:
    """Shows step, loss, images a second and the time left. `shown=False` leaves the bar out.

    The speed counts the time between `resume` and `pause` alone: compilation, evaluation and saving are left out.
    """

    def __init__(
        self,
        name: str,
        start: int,
        steps: int,
        batch_size: int,
        *,
        shown: bool = True,
        stream: Any = None,
        every: float = 5.0,
    ) -> None:
        self.name, self.steps, self.batch_size, self.every = name, steps, batch_size, every
        self.stream = sys.stderr if stream is None else stream
        self.shown = shown
        self._seconds = 0.0
        self._images = 0
        self._since: float | None = None
        self._said = -float("inf")
        self._bar: Any = None
        if shown and self.stream.isatty():
            form = "{desc} {percentage:3.0f}%|{bar}| step {n_fmt}/{total_fmt}{postfix}"
            self._bar = tqdm(
                desc=name, total=steps, initial=start, file=self.stream, bar_format=form, dynamic_ncols=True, leave=True
            )

    def resume(self) -> None:
        """The clock runs from now."""
        self._since = time.perf_counter()

    def pause(self) -> None:
        """The clock stands still until `resume`."""
        if self._since is not None:
            self._seconds += time.perf_counter() - self._since
        self._since = None

    def count(self) -> None:
        """One step was done while the clock ran."""
        if self._since is not None:
            self._images += self.batch_size

    @property
    def images_per_second(self) -> float | None:
        """The mean speed of this run, or None before there is one."""
        running = 0.0 if self._since is None else time.perf_counter() - self._since
        total = self._seconds + running
        return self._images / total if self._images and total > 0 else None

    def due(self) -> bool:
        """Whether it is time to show something: reading a loss from the device costs a little."""
        every = 0.2 if self._bar is not None else self.every
        return self.shown and time.monotonic() - self._said >= every

    def show(self, step: int, loss: float | None) -> None:
        """Shows that `step` steps are done, the latest known loss, the speed and the time left."""
        self._said = time.monotonic()
        if not self.shown:
            return
        text = [] if loss is None else [f"loss {loss:.4g}"]
        if (speed := self.images_per_second) is not None:
            text += [f"{speed:,.0f} images/s", f"left {_clock((self.steps - step) * self.batch_size / speed)}"]
        if self._bar is not None:
            self._bar.n = step
            self._bar.set_postfix_str(", ".join(text))
        else:
            print(f"{self.name}: " + ", ".join([f"step {step}/{self.steps}", *text]), file=self.stream, flush=True)

    def measured(self, step: int, numbers: Mapping[str, Any]) -> None:
        """A line of its own with what was measured on held-out examples after `step` steps: the losses, or the first few."""
        losses = [name for name in numbers if "loss" in name]
        told = ", ".join(f"{name} {float(numbers[name]):.4g}" for name in losses or list(numbers)[:MOST_TOLD])
        if self.shown and told:
            self.say(f"{self.name}: step {step}/{self.steps}, held out: {told}")

    def say(self, text: str) -> None:
        """One line of its own, above the bar where there is one; said with `shown=False` too."""
        if self._bar is not None:
            self._bar.write(text, file=self.stream)
        else:
            print(text, file=self.stream, flush=True)

    def close(self) -> None:
        """Leaves the bar as it is."""
        if self._bar is not None:
            self._bar.close()


def _clock(seconds: float) -> str:
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"
