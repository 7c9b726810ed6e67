"""Classes of a source: what they are called, which one an example is of, and what captions their names make."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.data.text.prompts import templates as named_templates
from diffusion_jax.data.text.text_files import read_json, read_lines, shortened
from diffusion_jax.typing import UserError

__all__ = ["captions_of", "class_names_of", "numbered", "templates_of"]


def _few(names: Sequence[str]) -> str:
    return ", ".join(shortened(name, 30).strip("'\"") for name in names[:12]) + (", ..." if len(names) > 12 else "")


def class_names_of(said: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Names in the order of their numbers: themselves, or of a JSON file (a list, or {"0": name}) or a text, a name a line.

    Raises UserError for a file that is none of these, for names that are blank and for one that stands twice.
    """
    if isinstance(said, str | Path):
        file = Path(said)
        if file.suffix.lower() == ".json":
            found = read_json(file)
            if isinstance(found, dict):
                numbers = [str(number) for number in range(len(found))]
                if sorted(found) != sorted(numbers):
                    raise UserError(
                        f"{str(file)!r} names no classes: its keys are not the numbers 0 .. {len(found) - 1}"
                    )
                found = [found[number] for number in numbers]
        else:
            found = [line for line in read_lines(file) if line.strip()]
        where = str(file)
    else:
        found, where = list(said), "class_names"
    if not isinstance(found, list) or not found or not all(isinstance(name, str) and name.strip() for name in found):
        raise UserError(f"{where}: the names of classes are a list of texts, in the order of their numbers")
    names = tuple(name.strip() for name in found)
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{where}: {name!r} is the name of {names.count(name)} classes: each needs one of its own")
    return names


def numbered(found: Any, class_names: Sequence[str] | None, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """(int64 [n], the names of the classes) of labels as data have them: numbers, numerals, or names.

    Without `class_names` the classes of numbers are called by their numbers, and names stand in their order. Raises UserError,
    which begins with `where`, for labels that are neither, and for one that is not among the names.
    """
    labels = np.asarray(found)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise UserError(f"{where}: labels of shape {labels.shape}; there is one an example, [{len(labels)}]")
    if labels.dtype.kind in "OSU":
        texts = [text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text) for text in labels.tolist()]
        texts = [text.strip() for text in texts]
        if not all(text.lstrip("-").isdecimal() for text in texts) or set(texts) <= set(class_names or ()):
            names = tuple(class_names) if class_names is not None else tuple(sorted(set(texts)))
            numbers = {name: number for number, name in enumerate(names)}
            for text in texts:
                if text not in numbers:
                    near = difflib.get_close_matches(text, names, n=1)
                    hint = f"; did you mean {near[0]!r}?" if near else ""
                    raise UserError(f"{where}: the label {shortened(text, 40)} is no class of {_few(names)}{hint}")
            return np.array([numbers[text] for text in texts], np.int64), names
        labels = np.array([int(text) for text in texts], np.int64)
    elif labels.dtype.kind == "f" and (labels == np.floor(labels)).all():
        labels = labels.astype(np.int64)
    elif labels.dtype.kind not in "iub":
        raise UserError(f"{where}: labels of {labels.dtype} are neither whole numbers nor texts")
    labels = labels.astype(np.int64)
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, -1)
    if low < 0:
        raise UserError(f"{where}: the label {low} is below 0; classes are numbered from 0")
    if class_names is None:
        if high > 100_000:
            raise UserError(
                f"{where}: the label {high} is no number of a class; give the column or array of the classes"
            )
        return labels, tuple(str(number) for number in range(high + 1))
    if high >= len(class_names):
        raise UserError(f"{where}: the label {high} has no name: there are {len(class_names)} class_names")
    return labels, tuple(class_names)


def templates_of(said: str | Sequence[str] | None) -> tuple[str, ...]:
    """Templates by a name of `data.text.prompts`, or themselves; () for None. UserError for one without one place {}."""
    if said is None:
        return ()
    if isinstance(said, str):
        return named_templates(said)
    found = tuple(said)
    for template in found:
        if not isinstance(template, str) or template.count("{}") != 1:
            raise UserError(f"template {shortened(template, 60)} has no one place {{}} for the class name")
    return found


def captions_of(class_name: str, found: Sequence[str]) -> list[str]:
    """The captions that templates make of a name."""
    return [template.replace("{}", class_name) for template in found]
