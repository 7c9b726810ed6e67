"""Tables of captions as rows: .csv, .tsv, .jsonl and .json, as people and their programs write them.

Each row comes with where it stands, for messages. A separator is the comma, the tab or the semicolon (what spreadsheets write
where the comma divides decimals), the first with which the header has the columns that are looked for.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusion_jax.data.text.text_files import parse_json, read_json, read_text, shortened
from diffusion_jax.typing import UserError

__all__ = ["TABLE_ENDINGS", "rows"]

TABLE_ENDINGS = (".csv", ".tsv", ".jsonl", ".json")
SEPARATORS = (",", "\t", ";")
Row = tuple[str, Mapping[str, Any]]


def rows(table: Path, wanted: Sequence[Sequence[str]]) -> Iterator[Row]:
    """(where, row) of every row of a table; `wanted` are the names that each looked-for column may have.

    Raises UserError for a file that is no UTF-8, and for a row that cannot be read, with its line.
    """
    ending = table.suffix.lower()
    if ending == ".jsonl":
        return _jsonl(table)
    return _json(table) if ending == ".json" else _csv(table, wanted)


def _csv(table: Path, wanted: Sequence[Sequence[str]]) -> Iterator[Row]:
    text = read_text(table)
    if not text.strip():
        raise UserError(f"table {str(table)!r} is empty")
    # Excel's own "sep=;" may stand before the header.
    skipped = re.match(r"sep=(.)\r?\n", text)
    header_text = re.split(r"[\r\n]", text[skipped.end() :] if skipped else text, maxsplit=1)[0]
    if skipped:
        separator = skipped[1]
    else:
        # Without one that has all columns, what divides the header: the message then names its columns.
        separator = next((s for s in SEPARATORS if _has(_fields(header_text, s), wanted)), "") or next(
            (s for s in SEPARATORS[1:] if s in header_text and "," not in header_text), ","
        )
    spaced = separator + " " in header_text
    reader = csv.reader(
        io.StringIO(text[skipped.end() :] if skipped else text, newline=""),
        delimiter=separator,
        strict=True,
        skipinitialspace=spaced,
    )
    above = 1 if skipped else 0
    try:
        header = [name.strip() for name in next(reader)]
        for name in header:
            if name and header.count(name) > 1:
                raise UserError(f"{table.name}: the column {name!r} stands {header.count(name)} times in the header")
        for row in reader:
            if not row:
                continue
            where = f"{table.name}, line {reader.line_num + above}"
            if len(row) != len(header):
                raise UserError(f"{where} has another number of columns than the header ({', '.join(header)})")
            yield where, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise UserError(f"{table.name}, line {reader.line_num + above}: {error}") from error


def _fields(line: str, separator: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])]
    except csv.Error:
        return []


def _has(header: Sequence[str], wanted: Sequence[Sequence[str]]) -> bool:
    return all(any(name in header for name in names) for names in wanted)


def _jsonl(table: Path) -> Iterator[Row]:
    for number, line in enumerate(re.split(r"\r\n|\r|\n", read_text(table)), 1):
        if line.strip():
            where = f"{table.name}, line {number}"
            yield where, _record(parse_json(line, where), where)


def _json(table: Path) -> Iterator[Row]:
    """A list of objects, or one object {picture: caption or captions}."""
    found = read_json(table)
    if isinstance(found, dict) and not any(isinstance(value, dict) for value in found.values()):
        found = [{"image": name, "caption": caption} for name, caption in found.items()]
    if not isinstance(found, list):
        raise UserError(
            f'{table.name} is neither a list of objects such as {{"image": "a.jpg", "caption": "a cat"}} nor one object '
            '{"a.jpg": "a cat", ...}'
        )
    for number, value in enumerate(found, 1):
        where = f"{table.name}, entry {number}"
        yield where, _record(value, where)


def _record(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where} is not a JSON object: {shortened(value, 40)}")
    return value
