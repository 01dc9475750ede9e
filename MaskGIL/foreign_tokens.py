"""Tokens of images as other projects keep them: LlamaGen's .npy folders and RAR's lines of JSON.

Read row by row in bounded memory, and nothing in them is executed. C crops, N tokens of a crop.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from math import isqrt
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from Network.config import UserError

LONGEST_LINE = 2**26  # bytes; what is longer is no line of tokens and must not fill the memory
CODES, LABELS = "_codes", "_labels"  # how LlamaGen's two folders of a data set end
# What NumPy raises for a file that is no array, or whose header is damaged
NO_ARRAY = (ValueError, EOFError, OSError, MemoryError, RecursionError, SyntaxError, TokenError)


class Row(NamedTuple):
    """One image: `codes` (C, N) whole numbers. `place` is its file or line, for messages."""

    place: str
    codes: np.ndarray
    label: int


@dataclass(frozen=True)
class ForeignTokens:
    """Rows of one format. `read` begins anew each time and raises UserError for a bad row."""

    format: str
    num_rows: int
    read: Callable[[], Iterator[Row]]

    def shape(self) -> tuple[int, int, int]:
        """Crops and grid (C, h, w) of the first row. Raises UserError for what is no square."""
        row = next(self.read())
        crops, num_tokens = row.codes.shape
        side = isqrt(num_tokens)
        if crops < 1 or side < 1 or side * side != num_tokens:
            raise UserError(
                f"{row.place} has {crops} crops of {num_tokens} tokens, which is no square grid; "
                "only square images can be converted."
            )
        return crops, side, side

    def rows(self, codebook_size: int, num_classes: int) -> Iterator[Row]:
        """Every row, in the order of the numbers of files, or of lines.

        Raises UserError for another shape than that of the first, and for tokens and labels beyond.
        """
        shape = None
        for row in self.read():
            shape = shape or row.codes.shape
            if row.codes.shape != shape:
                raise UserError(
                    f"{row.place} has {_shape(row.codes)} tokens, but the first row "
                    f"{' x '.join(map(str, shape))}; convert the rows of each shape on their own."
                )
            for token in (int(row.codes.min()), int(row.codes.max())):
                if not 0 <= token < codebook_size:
                    raise UserError(
                        f"{row.place} has the token {token}, but the tokenizer has {codebook_size} "
                        f"codes, 0 to {codebook_size - 1}; name the tokenizer that made it."
                    )
            if not 0 <= row.label < num_classes:
                raise UserError(
                    f"{row.place} has the label {row.label}, but classes are 0 to "
                    f"{num_classes - 1}; give classes=FILE with the name of each, a line each."
                )
            yield row


def open_foreign_tokens(path: Path) -> ForeignTokens | None:
    """The tokens that lie in `path`; None if it is neither format. Raises UserError if empty."""
    if path.is_file():
        return _open_lines(path) if path.suffix.lower() == ".jsonl" else None
    folders = sorted(folder for folder in path.glob(f"*{CODES}") if folder.is_dir())
    if not folders:
        return None
    if len(folders) > 1:
        names = ", ".join(folder.name for folder in folders[:4])
        raise UserError(f"{path} holds tokens of several data sets ({names}); keep one in it.")
    return _open_folders(folders[0], path / (folders[0].name.removesuffix(CODES) + LABELS))


# -------------------------------------------------------------------------- LlamaGen's folders
def _open_folders(codes: Path, labels: Path) -> ForeignTokens:
    """`codes/7.npy` is (1, C, N) and `labels/7.npy` (1,), as extract_codes_c2i.py writes them."""
    if not labels.is_dir():
        raise UserError(f"No such folder of labels: {labels}; it belongs beside {codes}.")
    numbers = _numbers(codes)
    if not numbers:
        raise UserError(f"{codes} holds no .npy files; give a folder with tokens.")
    labelled = _numbers(labels)
    if differing := sorted(set(numbers) ^ set(labelled), key=int):
        lacks = labels if differing[0] in numbers else codes
        raise UserError(
            f"{lacks / differing[0]}.npy is missing ({len(differing)} of {codes.name} and "
            f"{labels.name} have no partner); copy the rest."
        )

    def read() -> Iterator[Row]:
        for number in numbers:
            file, label_file = codes / f"{number}.npy", labels / f"{number}.npy"
            found, label = _read_array(file), _read_array(label_file)
            if found.ndim != 3 or len(found) != 1 or not found.size:
                raise UserError(f"{file} is {_shape(found)}, not 1 x crops x tokens; give codes.")
            if label.shape != (1,):
                raise UserError(f"{label_file} is {_shape(label)}, not one label; give labels.")
            yield Row(str(file), found[0], int(label[0]))

    return ForeignTokens("llamagen", len(numbers), read)


def _numbers(folder: Path) -> list[str]:
    """Names of the .npy files without their ends, in the order of the numbers that they are."""
    with os.scandir(folder) as entries:
        names = [entry.name[:-4] for entry in entries if entry.name.endswith(".npy")]
    for name in names:
        if not re.fullmatch("[0-9]{1,18}", name):
            raise UserError(f"{folder / name}.npy is not named by a number; remove or rename it.")
    return sorted(names, key=lambda name: (int(name), name))


def _read_array(file: Path) -> np.ndarray:
    """Whole numbers of a .npy file, which may hold no objects: to read those would run code."""
    try:
        with file.open("rb") as stream:
            array = np.lib.format.read_array(stream)
    except NO_ARRAY as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{file} is no whole .npy file of numbers ({reason}).") from None
    if array.dtype.kind not in "iu":
        raise UserError(f"{file} holds {array.dtype}, not whole numbers; give tokens and labels.")
    return array


def _shape(array: np.ndarray) -> str:
    return " x ".join(map(str, array.shape)) or "a number"


# ------------------------------------------------------------------------------ lines of JSON
def _open_lines(file: Path) -> ForeignTokens:
    """Each line is {"class_id": 7, "tokens": [...]}, one crop, as RAR's pretokenised sets are."""
    with file.open("rb") as stream:
        num_rows = sum(1 for line in _lines(stream) if line.strip())  # blank ones may end it
    if not num_rows:
        raise UserError(f"{file} is empty; copy or download it again.")

    def read() -> Iterator[Row]:
        with file.open("rb") as stream:
            for number, line in enumerate(islice(_lines(stream), num_rows), 1):
                yield _read_line(line, f"{file}, line {number},")

    return ForeignTokens("jsonl", num_rows, read)


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines of a file, the last perhaps without its end; one that is too long comes in pieces."""
    return iter(lambda: stream.readline(LONGEST_LINE), b"")


def _read_line(line: bytes, place: str) -> Row:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        if isinstance(error, json.JSONDecodeError):  # whose own line is 1, which confuses
            reason = f"{error.msg} at character {error.pos + 1}"
        raise UserError(f"{place} is not JSON ({reason}); give a whole file.") from None
    fields = row if isinstance(row, dict) else {}
    label, listed = fields.get("class_id"), fields.get("tokens")
    try:
        codes = np.asarray(listed if isinstance(listed, list) else ())
    except (ValueError, OverflowError):  # lists of different lengths, numbers of many digits
        codes = np.empty(0)
    if type(label) is not int or codes.ndim != 1 or not codes.size or codes.dtype.kind not in "iu":
        raise UserError(
            f'{place} is not {{"class_id": 7, "tokens": [1, 2, ...]}} of whole numbers; give a '
            "file of tokens."
        )
    return Row(place.removesuffix(","), codes[None], label)
