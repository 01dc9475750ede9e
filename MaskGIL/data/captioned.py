"""Captions in files beside pictures: NAME.txt for NAME.jpg, or one table that names them all.

A table is captions or metadata .tsv, .csv or .jsonl, or emoji64's index.tsv; it names each picture
from its own folder. A picture may have several captions: several lines of its .txt, several rows
of a table, or a list in .jsonl.
"""

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from MaskGIL.data.emoji import EMOJI_COLUMNS, emoji_captions
from MaskGIL.data.folders import is_image
from Network.config import UserError

SIDECARS = (".txt", ".caption")
TABLES = (
    *(f"{name}.{kind}" for name in ("captions", "metadata") for kind in ("tsv", "csv", "jsonl")),
    "index.tsv",
)
IMAGE_COLUMNS = ("file_name", "filename", "image", "file", "path")
CAPTION_COLUMNS = ("caption", "captions", "text", "prompt")
_LONGEST = 2**16  # bytes of a .txt; a longer one is no caption


def has_captions(root: Path) -> bool:
    """Whether a folder has a table, or a picture in it or in a folder of it has a caption."""
    if find_table(root):
        return True
    folders = [root, *(Path(entry) for entry in os.scandir(root) if entry.is_dir())]
    firsts = (next((e.path for e in os.scandir(f) if is_image(e.name)), "") for f in folders)
    return any(sidecar(Path(first)) for first in firsts if first)


def find_table(folder: Path) -> Path | None:
    """The table of a folder, if it has one. Raises UserError if it has two."""
    found = [folder / name for name in TABLES if (folder / name).is_file()]
    if len(found) > 1:
        names = " and ".join(table.name for table in found)
        raise UserError(f"{folder} holds {names}, two tables of captions; keep one.")
    return found[0] if found else None


def sidecar(picture: Path) -> Path | None:
    """The file of the captions of a picture, if it has one."""
    files = (picture.with_suffix(ending) for ending in SIDECARS)
    return next((file for file in files if file.is_file()), None)


def read_sidecar(file: Path) -> list[str]:
    """Its lines. Raises UserError for a file that is no text or too long."""
    if file.stat().st_size > _LONGEST:
        raise UserError(f"{file} is too long for captions ({_LONGEST} bytes); shorten it.")
    return _read_text(file).split("\n")


def read_table(path: Path) -> dict[str, list[str]]:
    """The captions of each picture, by its name in the table.

    Raises UserError where a column is missing and where a line cannot be read.
    """
    found: dict[str, list[str]] = {}
    for number, row in _rows(path):
        if row.keys() >= EMOJI_COLUMNS:
            name, captions = f"{row['split']}/{row['class']}/{row['file']}", emoji_captions(row)
        else:
            name = _value(row, IMAGE_COLUMNS, path, number)
            captions = _value(row, CAPTION_COLUMNS, path, number)
            captions = captions if isinstance(captions, list) else [captions]
        if not isinstance(name, str) or not all(isinstance(text, str) for text in captions):
            raise UserError(f"{path}, line {number}: the picture or a caption is no text; mend it.")
        found.setdefault(name.removeprefix("./"), []).extend(captions)
    return found


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The number of each line and what it says, by column."""
    text = _read_text(path)
    if path.suffix == ".jsonl":
        yield from _json_rows(text, path)
        return
    kind = "excel" if path.suffix == ".csv" else _Tabs
    reader = csv.DictReader(io.StringIO(text, newline=""), dialect=kind)
    try:
        for row in reader:
            yield reader.line_num, {key: value or "" for key, value in row.items() if key}
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num + 1}: {error}; mend it.") from error


class _Tabs(csv.excel_tab):
    """A quotation mark is one: captions have many, and no tabs."""

    quoting = csv.QUOTE_NONE


def _json_rows(text: str, path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number} is not JSON ({error}); mend it.") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number} names no columns; it must be {{...}}.")
        yield number, row


def _value(row: Mapping[str, Any], columns: Sequence[str], path: Path, number: int) -> Any:
    """What stands in the first of the columns that is there."""
    for column in columns:
        if column in row:
            return row[column]
    raise UserError(
        f"{path}, line {number} has no column {' or '.join(columns)}, only "
        f"{', '.join(map(str, row)) or 'none'}; rename one."
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except ValueError as error:
        raise UserError(f"{path} is not text in UTF-8 ({error}); save it as such.") from error
