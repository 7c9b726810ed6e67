"""A folder of one's own pictures with captions, as a random-access source.

Captions lie in a table (`captions.csv`, `metadata.csv`, `.tsv`, `.jsonl`) or beside each picture in a text of its name
(`cat.jpg`, `cat.txt`: a caption a line). A picture that stands in several rows has several captions; training takes one at
random.
All of it is read and checked at the start, the pictures when they are used.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusion_jax.typing import UserError, one_of

__all__ = ["IMAGE_ENDINGS", "CaptionFolder", "split_of"]

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
TABLE_ENDINGS = (".csv", ".tsv", ".jsonl")
IMAGE_COLUMNS = ("image", "file_name", "filename", "file", "filepath", "path", "image_path")
CAPTION_COLUMNS = ("caption", "text", "title", "prompt", "captions")
SPLITS = ("train", "validation", "test")


def split_of(name: str, shares: Mapping[str, float]) -> str:
    """The split of a name by its hash, stable as other files come and go; the shares sum to 1."""
    point = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    for split, share in shares.items():
        point -= share
        if point < 0:
            return split
    return next(iter(shares))


@dataclasses.dataclass(frozen=True)
class CaptionFolder:
    """Pictures in `path` and their captions; item i is {"image": Path, "captions": [str, ...], "name": str}.

    path: the folder; pictures are looked for below it, and named by their path relative to it.
    captions: the table, relative to the folder; by default the only one there, else texts beside the pictures.
    image_column, caption_column: columns of the table; by default the first known name, such as image and caption.
    empty: what empty captions are: "refuse" (an error that counts them) or "drop".
    split: "train", "validation", "test" or None (all), by a hash of the name, so that a picture stays where it is.
    validation, test: their shares.

    Raises UserError, one line, for a folder, table, column or picture that is missing (with the nearest one), for a row that
    cannot be read (with its line), for empty captions, and for a split without pictures.
    """

    path: str | Path
    captions: str | None = None
    image_column: str | None = None
    caption_column: str | None = None
    empty: str = "refuse"
    split: str | None = None
    validation: float = 0.05
    test: float = 0.0
    names: tuple[str, ...] = dataclasses.field(init=False, repr=False)
    texts: tuple[tuple[str, ...], ...] = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        one_of("empty", self.empty, ("refuse", "drop"))
        if self.split is not None:
            one_of("split", self.split, SPLITS)
        shares = {"train": 1 - self.validation - self.test, "validation": self.validation, "test": self.test}
        if min(shares.values()) < 0:
            raise UserError(
                f"shares validation {self.validation} and test {self.test} are not at least 0 with a sum below 1"
            )
        folder = Path(self.path)
        if not folder.is_dir():
            siblings = [p.name for p in folder.parent.iterdir() if p.is_dir()] if folder.parent.is_dir() else []
            near = difflib.get_close_matches(folder.name, siblings, n=1)
            raise UserError(f"there is no folder {str(folder)!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        found: dict[str, list[str]] = {}
        blank: list[str] = []
        for name, caption, where in self._rows(folder):
            kept = found.setdefault(name, [])
            if caption.strip():
                kept.append(caption.strip())
            else:
                blank.append(where)
        if blank and self.empty == "refuse":
            raise UserError(
                f"{len(blank)} empty captions, the first in {blank[0]}; mend them, or leave them out with empty='drop'"
            )
        chosen = {n: t for n, t in found.items() if t and self.split in (None, split_of(n, shares))}
        if not chosen:
            which = "" if self.split is None else f" in split {self.split!r}"
            raise UserError(f"no captioned picture in {str(folder)!r}{which}: {len(found)} have captions in all")
        object.__setattr__(self, "names", tuple(chosen))
        object.__setattr__(self, "texts", tuple(tuple(dict.fromkeys(text)) for text in chosen.values()))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name = self.names[index]
        return {"image": Path(self.path) / name, "captions": list(self.texts[index]), "name": name}

    def _rows(self, folder: Path) -> Iterator[tuple[str, str, str]]:
        """(picture's name, caption, where it stands) of everything that the folder says."""
        table = self._table(folder)
        if table is None:
            yield from _sidecars(folder)
            return
        records = _jsonl(table) if table.suffix == ".jsonl" else _csv(table)
        missing: list[str] = []
        columns: tuple[str, str] | None = None
        for where, record in records:
            if columns is None or not {*columns} <= record.keys():
                columns = self._columns(record, where)
            name, captions = record[columns[0]], record[columns[1]]
            several = captions if isinstance(captions, list) else [captions]
            if not isinstance(name, str) or not all(isinstance(caption, str) for caption in several):
                wrong = name if not isinstance(name, str) else next(c for c in several if not isinstance(c, str))
                raise UserError(f"{where}: {wrong!r} is not text")
            if not (folder / name).is_file():
                missing.append(f"{name!r} ({where})")
                continue
            for caption in several or [""]:
                yield name, caption, where
        if missing:
            near = difflib.get_close_matches(missing[0].split("'")[1], [p.name for p in folder.iterdir()], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"{len(missing)} pictures of {table.name} do not exist, the first {missing[0]}{hint}")

    def _table(self, folder: Path) -> Path | None:
        if self.captions is not None:
            table = folder / self.captions
            if not table.is_file():
                near = difflib.get_close_matches(self.captions, [p.name for p in folder.iterdir()], n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise UserError(f"there is no table {str(table)!r}{hint}")
            if table.suffix not in TABLE_ENDINGS:
                raise UserError(
                    f"table {table.name!r} ends in {table.suffix!r}; it is one of {', '.join(TABLE_ENDINGS)}"
                )
            return table
        tables = sorted(p for p in folder.iterdir() if p.suffix in TABLE_ENDINGS and p.is_file())
        if len(tables) > 1:
            raise UserError(
                f"{len(tables)} tables in {str(folder)!r} ({', '.join(p.name for p in tables)}): say captions=NAME"
            )
        return tables[0] if tables else None

    def _columns(self, record: Mapping[str, Any], where: str) -> tuple[str, str]:
        chosen = []
        for what, asked, known in (
            ("image_column", self.image_column, IMAGE_COLUMNS),
            ("caption_column", self.caption_column, CAPTION_COLUMNS),
        ):
            if asked is not None:
                chosen.append(one_of(f"{where}: {what}", asked, [str(key) for key in record]))
                continue
            here = [key for key in known if key in record]
            if not here:
                raise UserError(
                    f"{where}: none of the columns {', '.join(map(repr, record))} is called {', '.join(known)}; say {what}=NAME"
                )
            chosen.append(here[0])
        return chosen[0], chosen[1]


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")  # read_text would alter line ends within a caption
    except UnicodeDecodeError as error:
        raise UserError(f"{str(path)!r} is not UTF-8 text (byte {error.start})") from error


def _csv(table: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) of a table with a header; commas, or tabs where the header has them."""
    text = _text(table)
    header = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in header else ",", strict=True)
    try:
        for row in reader:
            where = f"{table.name}, line {reader.line_num}"
            if None in row or None in row.values():
                raise UserError(
                    f"{where} has another number of columns than the header ({', '.join(reader.fieldnames or ())})"
                )
            yield where, row
    except csv.Error as error:
        raise UserError(f"{table.name}, line {reader.line_num}: {error}") from error


def _jsonl(table: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(_text(table).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{table.name}, line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where} is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise UserError(f"{where} is not a JSON object: {line[:40]!r}")
        yield where, record


def _sidecars(folder: Path) -> Iterator[tuple[str, str, str]]:
    pictures = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_ENDINGS and p.is_file())
    if not pictures:
        raise UserError(f"no pictures in {str(folder)!r} ({', '.join(IMAGE_ENDINGS)})")
    texts = {p: p.with_suffix(".txt") for p in pictures}
    without = [p for p, text in texts.items() if not text.is_file()]
    if len(without) == len(pictures):
        raise UserError(
            f"no captions in {str(folder)!r}: neither a table ({', '.join(TABLE_ENDINGS)}) nor texts beside the pictures, "
            f"such as {texts[pictures[0]].name!r}"
        )
    if without:
        raise UserError(
            f"{len(without)} of {len(pictures)} pictures have no text beside them, the first {str(without[0])!r}"
        )
    for picture, text in texts.items():
        name = picture.relative_to(folder).as_posix()
        for line in _text(text).strip("\r\n").replace("\r\n", "\n").split("\n"):
            yield name, line, str(text)


def captions_of(source: Sequence[Any]) -> list[list[str]]:
    """The captions of every item of a source, without its pictures where it keeps them apart."""
    if isinstance(source, CaptionFolder):
        return [list(texts) for texts in source.texts]
    return [list(source[i]["captions"]) for i in range(len(source))]
