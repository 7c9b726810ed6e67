"""A folder of one's own pictures, with captions or without, as a random-access source.

Captions lie in a table (`captions.csv`, `metadata.csv`, `.tsv`, `.jsonl`, `captions.json`) or beside each picture in a text of
its name (`cat.jpg`, `cat.txt`: a caption a line). A picture that stands in several rows has several captions; training takes
one at random. Two names of one file (`a.jpg` and `./a.jpg`, a link, other capitals where the system does not tell them apart)
are one picture, so that it stands in one split.
All of it is read and checked at the start, the pictures when they are used.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from diffusion_jax.data.sources.caption_tables import TABLE_ENDINGS, rows
from diffusion_jax.data.sources.captioned import CAPTION_COLUMNS, setting, split_of, split_shares
from diffusion_jax.data.sources.folders import (
    IMAGE_ENDINGS,
    existing_folder,
    file_in,
    hint,
    names_in,
    pictures_in,
    status,
)
from diffusion_jax.data.text.text_files import read_text, shortened
from diffusion_jax.typing import UserError, one_of

__all__ = ["CaptionFolder", "PictureFolder"]

IMAGE_COLUMNS = ("image", "file_name", "filename", "file", "filepath", "path", "image_path")
JSON_TABLES = ("captions.json", "metadata.json")  # other .json files beside pictures are seldom tables


@dataclasses.dataclass(frozen=True)
class CaptionFolder:
    """Pictures in `path` and their captions; item i is {"image": Path, "captions": [str, ...], "name": str}.

    path: the folder; pictures are looked for below it, and named by their path relative to it.
    captions: the table, relative to the folder; by default the only one there, else texts beside the pictures.
    image_column, caption_column: columns of the table; by default the first known name, such as image and caption.
    empty: what empty captions are: "refuse" (an error that counts them) or "drop".
    split: "train", "validation", "test" or None (all), by a hash of the name, so that a picture stays where it is.
    validation, test: their shares.
    blank: how many empty captions were dropped, from all splits; lacking: what is said of a table without captions.

    Raises UserError, one line, for a folder, table, column or picture that is missing (with the nearest one), for a row that
    cannot be read (with its line), for empty captions, and for a split without pictures.
    """

    pictures: ClassVar[bool] = True  # to be prepared, rather than arrays in [-1, 1]
    levels: ClassVar[int] = 256
    needs_captions: ClassVar[bool] = True
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
    blank: int = dataclasses.field(init=False, repr=False)
    lacking: str = dataclasses.field(init=False, repr=False, default="")

    def __post_init__(self) -> None:
        one_of("empty", self.empty, ("refuse", "drop"))
        shares = split_shares(self.split, self.validation, self.test)
        folder = existing_folder(self.path)
        found: dict[tuple[Any, ...], tuple[list[str], list[str]]] = {}
        blank: list[str] = []
        bare = False
        for name, identity, caption, where in self._rows(folder):
            names, kept = found.setdefault(identity, ([], []))
            names.append(name)
            if caption is None:  # no picture of the folder has one
                bare = True
            elif caption.strip():
                kept.append(caption.strip())
            else:
                blank.append(where)
        if blank and self.empty == "refuse":
            raise UserError(
                f"{len(blank)} empty captions, the first in {blank[0]}; mend them, or leave them out by empty=drop "
                "(train: --config.data.empty=drop; evaluate: --on-error=skip)"
            )
        # Of several names of one file the first in order, whatever the order of the rows.
        named = {min(names): kept for names, kept in found.values()}
        chosen = {n: t for n, t in named.items() if (t or bare) and self.split in (None, split_of(n, shares))}
        if not chosen:
            which = "" if self.split is None else f" in split {self.split!r}"
            if bare:
                raise UserError(f"no picture in {str(folder)!r}{which}: there are {len(found)} in all")
            said = f"no captioned picture in {str(folder)!r}{which}: {len(found)} have captions in all"
            if self.split in ("validation", "test") and shares[self.split] > 0 and len(named) > 1:
                more = min(0.5, max(0.2, 3 / len(named)))
                said += f", whose names a hash gives no share of; hold out more: --config.data.{self.split}={more:.2g}"
            raise UserError(said)
        object.__setattr__(self, "path", folder)
        object.__setattr__(self, "names", tuple(chosen))
        object.__setattr__(self, "texts", tuple(tuple(dict.fromkeys(text)) for text in chosen.values()))
        object.__setattr__(self, "blank", len(blank))

    def only(self, names: Sequence[str]) -> CaptionFolder:
        """The same with these pictures alone, in the order that they have."""
        wanted, part = set(names), copy.copy(self)
        kept = [pair for pair in zip(self.names, self.texts, strict=True) if pair[0] in wanted]
        object.__setattr__(part, "names", tuple(name for name, _ in kept))
        object.__setattr__(part, "texts", tuple(texts for _, texts in kept))
        return part

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name = self.names[index]
        texts = {"captions": list(self.texts[index])} if self.texts[index] else {}
        return {"image": Path(self.path) / name, **texts, "name": name}

    def _rows(self, folder: Path) -> Iterator[tuple[str, tuple[Any, ...], str | None, str]]:
        """(picture's name, what makes it one file, caption, where it stands) of everything that the folder says."""
        table = self._table(folder)
        if table is None:
            yield from _sidecars(folder, self.needs_captions)
            return
        missing: list[str] = []
        columns: tuple[str, str | None] | None = None
        first: tuple[str, str | None, Mapping[str, Any]] | None = None
        known: dict[str, tuple[str, tuple[Any, ...]] | None] = {}
        wanted = [
            [asked] if asked is not None else names
            for asked, names in ((self.image_column, IMAGE_COLUMNS), (self.caption_column, CAPTION_COLUMNS))
        ]
        for where, record in rows(table, wanted):
            if columns is None or not {*filter(None, columns)} <= record.keys():
                needed = self.needs_captions or self.captions is not None or columns is not None
                columns = self._columns(folder, record, where, needed)
            if columns[1] is None and any(key in record for key in CAPTION_COLUMNS):
                raise UserError(self.lacking)  # as others have them
            name, captions = record[columns[0]], [] if columns[1] is None else record[columns[1]]
            several = captions if isinstance(captions, list) else [captions]
            if not isinstance(name, str) or not all(isinstance(caption, str) for caption in several):
                wrong = name if not isinstance(name, str) else next(c for c in several if not isinstance(c, str))
                raise UserError(f"{where}: {shortened(wrong)} is not text")
            if name not in known:
                there = file_in(folder, name)
                known[name] = None if there is None else (there[0], _identity(folder / there[0], there[1]))
            file = known[name]
            if file is None:
                first = first or (name, columns[1], record)
                missing.append(f"{shortened(name)} ({where})")
                continue
            for caption in several or ["" if columns[1] is not None else None]:
                yield (*file, caption, where)
        if missing and first is not None:
            raise UserError(
                f"{len(missing)} pictures of {table.name} do not exist, the first {missing[0]}{_why(folder, *first)}"
            )

    def _table(self, folder: Path) -> Path | None:
        names = names_in(folder)
        if self.captions is not None:
            table = folder / self.captions
            found = status(table)
            if found is None or not stat.S_ISREG(found.st_mode):
                near = hint(str(self.captions), names)
                raise UserError(f"there is no table {shortened(str(table), 200)}{near}")
            if table.suffix.lower() not in TABLE_ENDINGS:
                raise UserError(
                    f"table {table.name!r} ends in {table.suffix!r}; it is one of {', '.join(TABLE_ENDINGS)}"
                )
            return table
        tables = [
            folder / name
            for name in names
            if not name.startswith(".")
            and os.path.splitext(name)[1].lower() in TABLE_ENDINGS
            and (not name.lower().endswith(".json") or name.lower() in JSON_TABLES)
            and (folder / name).is_file()
        ]
        if len(tables) > 1:
            raise UserError(
                f"{len(tables)} tables in {str(folder)!r} ({', '.join(p.name for p in tables)}): "
                f"say {setting('captions', tables[0].name)}"
            )
        return tables[0] if tables else None

    def _columns(self, folder: Path, record: Mapping[str, Any], where: str, needed: bool) -> tuple[str, str | None]:
        """The columns of the pictures and of the captions, None where there is none and none is `needed`."""
        chosen: list[str | None] = []
        for what, asked, known in (
            ("image_column", self.image_column, IMAGE_COLUMNS),
            ("caption_column", self.caption_column, CAPTION_COLUMNS),
        ):
            if asked is not None:
                chosen.append(one_of(f"{where}: {what}", asked, [str(key) for key in record]))
                continue
            here = [key for key in known if key in record]
            if not here:
                if any(file_in(folder, str(key)) for key in record):
                    raise UserError(
                        f"{where.split(',')[0]} has no header: its first line is a row; write 'image,caption' above"
                    )
                near = next((str(key) for key in record if str(key).casefold() in known), "NAME")
                told = (
                    f"{where}: none of the columns {', '.join(shortened(key) for key in record)} is called "
                    f"{', '.join(known)}; say {setting(what, near)}"
                )
                if what == "image_column" or needed:
                    raise UserError(told)
                object.__setattr__(self, "lacking", told)
            chosen.append(here[0] if here else None)
        return str(chosen[0]), chosen[1]


@dataclasses.dataclass(frozen=True)
class PictureFolder(CaptionFolder):
    """The same, where captions may be missing: a folder without a table and without a text beside any picture is read too.

    So is a table without a column of captions, as `sample` writes one of pictures that it was asked for by pictures.
    Its items then have no "captions". Some pictures with a text and some without are refused all the same.
    """

    needs_captions: ClassVar[bool] = False

    @property
    def uncaptioned(self) -> str:
        """What is to be said where captions are asked for and the folder has none."""
        return self.lacking or _no_captions(Path(self.path), Path(self.names[0]))


def _no_captions(folder: Path, first: Path) -> str:
    return (
        f"no captions in {str(folder)!r}: neither a table ({', '.join(TABLE_ENDINGS)}) nor texts beside the pictures, "
        f"such as {first.with_suffix('.txt').name!r}"
    )


def _identity(file: Path, found: os.stat_result) -> tuple[Any, ...]:
    """What two names of one file have in common: its place on the disk."""
    return (found.st_dev, found.st_ino) if found.st_ino else (os.path.realpath(file),)


def _why(folder: Path, name: str, caption_column: str | None, record: Mapping[str, Any]) -> str:
    """The likely reason for a picture that is not there, as the end of a message."""
    caption = None if caption_column is None else record[caption_column]
    if isinstance(caption, str) and file_in(folder, caption):
        return f"; the column {caption_column!r} names a picture: the two columns are swapped"
    place = folder / os.path.dirname(name.replace("\\", "/")[:300])
    return hint(os.path.basename(name.replace("\\", "/")), names_in(place))


def _sidecars(folder: Path, needed: bool) -> Iterator[tuple[str, tuple[Any, ...], str | None, str]]:
    pictures = pictures_in(folder)
    if not pictures:
        raise UserError(f"no pictures in {str(folder)!r} ({', '.join(IMAGE_ENDINGS)})")
    beside: dict[Path, dict[str, Path]] = {}
    texts: dict[Path, Path] = {}
    for picture in pictures:
        place = picture.parent
        if place not in beside:
            beside[place] = {}
            for name in (name for name in names_in(place) if name.lower().endswith(".txt")):
                other = beside[place].setdefault(name[:-4], place / name)
                if other.name != name:
                    raise UserError(f"{other.name!r} and {name!r} in {str(place)!r} are texts of one picture: keep one")
        if picture.stem in beside[place]:
            texts[picture] = beside[place][picture.stem]
    without = [picture for picture in pictures if picture not in texts]
    if len(without) == len(pictures) and not needed:
        for picture in pictures:
            yield picture.relative_to(folder).as_posix(), _identity(picture, _file(picture)), None, str(picture)
        return
    if len(without) == len(pictures):
        raise UserError(_no_captions(folder, pictures[0]))
    if without:
        raise UserError(
            f"{len(without)} of {len(pictures)} pictures have no text beside them, the first {str(without[0])!r}"
        )
    owners: dict[Path, Path] = {}
    for picture, text in texts.items():
        if text in owners:
            raise UserError(
                f"{owners[text].name!r} and {picture.name!r} in {str(picture.parent)!r} share {text.name!r}: one of them is "
                "no picture to learn from, or has a caption of its own; a table says which"
            )
        owners[text] = picture
        found = _file(picture)
        name = picture.relative_to(folder).as_posix()
        for line in read_text(text).replace("\r\n", "\n").replace("\r", "\n").strip("\n").split("\n"):
            yield name, _identity(picture, found), line, str(text)


def _file(picture: Path) -> os.stat_result:
    found = status(picture)
    if found is None or not stat.S_ISREG(found.st_mode):
        raise UserError(f"the picture {str(picture)!r} is a link to nothing, or no file")
    return found
