"""How a token cache lies on disk: its index, its file of tokens, and the checks of both.

`index.json` names the tokenizer, the transform, the classes and the sha256 of every chunk of
CHUNK images. Nothing in it depends on time, machine or ranks. R rows, C crops, h w token grid.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from MaskGIL.data import Images, images_hash
from MaskGIL.data.crops import Size, num_crops, shape_of, show_size
from MaskGIL.durable import sha256, to_json
from MaskGIL.json_index import AGAIN, damaged, misfit, read_json_index
from Network.config import UserError
from Network.tokenizer import Tokenizer

VERSION = 2
UNKNOWN = "unknown"  # the precision of tokens that others have encoded
CHUNK = 256  # images
Index = dict[str, Any]  # what index.json holds
_FORM = {  # the types of what stands in an index, of all that is read from there
    "complete": bool,
    "dtype": str,
    "tokenizer": {"name": str, "fingerprint": str, "codebook_size": int},
    "transform": {"crops": str},
    "images": {},
    "classes": {},
    "classes_sha256": str,
    "parts": [
        {"file": str, "grid": [int, int], "rows": int, "crops": int, "chunk": int, "sha256": list}
    ],
    "labels_sha256": str,
    "skipped": int,
}


def new_index(
    images: Images,
    tokenizer: Tokenizer,
    crops: str,
    image_size: Size,
    encode_batch: int,
    precision: str = "fp32",
) -> Index:
    """The index of a cache still to be written. Raises UserError for a size without grid."""
    grid = token_grid(image_size, tokenizer.stride)
    part = {"file": _file_name(grid), "grid": list(grid), "rows": len(images)}
    # The batch too: the last bit of a latent, and so a token, may depend on it
    size = image_size if isinstance(image_size, int) else list(image_size)
    transform: dict[str, Any] = {"image_size": size, "crops": crops, "encode_batch": encode_batch}
    transform["precision"] = precision
    if draft := getattr(images, "draft", 0):
        transform["draft"] = draft
    classes = class_to_idx(images.classes)
    return {
        "version": VERSION,
        "complete": False,
        "dtype": dtype_of(tokenizer.codebook_size).str,
        "tokenizer": {
            "name": tokenizer.name,
            "fingerprint": tokenizer.fingerprint,
            "codebook_size": tokenizer.codebook_size,
        },
        "transform": transform,
        "images": {"number of images": len(images), "hash of their names": images_hash(images)},
        "classes": classes,
        "classes_sha256": sha256(to_json(classes)),
        "parts": [part | {"crops": num_crops(crops), "chunk": CHUNK, "sha256": []}],
        "labels_sha256": "",
        "skipped": 0,
    }


def token_grid(image_size: Size, stride: int) -> tuple[int, int]:
    """(h, w) of an image. Raises UserError unless the tokenizer's stride divides its sides."""
    height, width = shape_of(image_size)
    if height % stride or width % stride:
        key = "image_size" if isinstance(image_size, int) else "buckets"
        raise UserError(
            f"data.{key}={show_size(image_size)} is no multiple of {stride}, the stride of the "
            "tokenizer."
        )
    return height // stride, width // stride


def read_index(folder: Path) -> Index:
    """The index of a folder, checked in itself.

    Raises UserError when it is missing, not of this VERSION, or damaged.
    """
    index = read_json_index(folder, VERSION, "token cache")
    if key := misfit(index, _FORM) or _contradiction(index):
        raise damaged(folder, key)
    index["transform"].setdefault("precision", "fp32")  # all there was before it was written down
    return index


def is_converted(folder: Path) -> bool:
    """Whether a cache lies there whose tokens others have encoded, nobody knows how.

    Raises UserError when its index is damaged.
    """
    is_there = (folder / "index.json").exists()
    return is_there and read_index(folder)["transform"]["precision"] == UNKNOWN


def check_tokenizer(folder: Path, index: Index, fingerprint: str) -> None:
    """Raise UserError unless the cache is of this tokenizer, whatever its name."""
    found = {"fingerprint": index["tokenizer"]["fingerprint"]}
    check_same(folder, "tokenizer", found, {"fingerprint": fingerprint})


def check_classes(folder: Path, index: Index, classes: Sequence[str]) -> None:
    """Raise UserError unless the cache has these classes in this order."""
    check_same(folder, "list of classes", index["classes"], class_to_idx(classes))


def check_same(folder: Path, what: str, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise UserError naming the first difference of two dicts."""
    for key in (*wanted, *found):
        if found.get(key) != wanted.get(key):
            raise UserError(
                f"The token cache {folder} was made for another {what}: {key} is {found.get(key)} "
                f"there and {wanted.get(key)} here; choose another data.cache or delete this one."
            )


def check_files(folder: Path, index: Index, verify: bool) -> None:
    """Raise UserError for wrong sizes or labels, and with `verify` for wrong hashes or tokens."""
    part, labels = Part.of(folder, index), folder / "labels.bin"
    for path, size in ((part.path, part.size), (labels, 4 * part.rows)):
        found = path.stat().st_size if path.exists() else 0
        if found != size:
            raise UserError(f"{path} has {found} bytes, not {size}; {AGAIN.format(folder)}")
    data, num_classes = labels.read_bytes(), len(index["classes"])
    if sha256(data) != index["labels_sha256"]:
        raise UserError(f"{labels} is damaged (sha256 differs); {AGAIN.format(folder)}")
    numbers = np.frombuffer(data, "<i4")
    if not -1 <= numbers.min() <= numbers.max() < max(num_classes, 1):  # without classes all are 0
        raise UserError(
            f"{labels} has labels from {numbers.min()} to {numbers.max()}, but index.json "
            f"{num_classes} classes; {AGAIN.format(folder)}"
        )
    if verify:
        _check_tokens(folder, index, part)


def _check_tokens(folder: Path, index: Index, part: "Part") -> None:
    codebook_size = index["tokenizer"]["codebook_size"]
    for chunk, expected in enumerate(index["parts"][0]["sha256"]):
        data = part.read(chunk)
        if sha256(data) != expected:
            raise UserError(
                f"{part.path} is damaged in chunk {chunk} (sha256 differs); {AGAIN.format(folder)}"
            )
        largest = np.frombuffer(data, index["dtype"]).max()
        if largest >= codebook_size:
            raise UserError(
                f"{part.path} has token {largest} in chunk {chunk}, outside of the codebook of "
                f"{codebook_size}; {AGAIN.format(folder)}"
            )


@dataclass(frozen=True)
class Part:
    """A file of tokens, cut into chunks of CHUNK rows."""

    path: Path
    rows: int
    row_bytes: int

    @classmethod
    def of(cls, folder: Path, index: Index) -> "Part":
        """The one part of an index. (A cache of several grids would have several.)"""
        (part,) = index["parts"]
        codes = part["crops"] * math.prod(part["grid"])
        return cls(folder / part["file"], part["rows"], codes * np.dtype(index["dtype"]).itemsize)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.rows * self.row_bytes

    @property
    def num_chunks(self) -> int:
        """The last one may be short."""
        return -(-self.rows // CHUNK)

    def rows_of(self, chunk: int) -> range:
        """Rows of a chunk."""
        return range(chunk * CHUNK, min((chunk + 1) * CHUNK, self.rows))

    def read(self, chunk: int) -> bytes:
        """The chunk as it lies on disk."""
        with self.path.open("rb") as file:
            file.seek(self.rows_of(chunk).start * self.row_bytes)
            return file.read(len(self.rows_of(chunk)) * self.row_bytes)

    def hash_of(self, chunk: int) -> str:
        """Sha256 of the chunk as it lies on disk."""
        return sha256(self.read(chunk))


def class_to_idx(classes: Sequence[str]) -> dict[str, int]:
    """Torchvision's word for the label of each class name."""
    return {name: label for label, name in enumerate(classes)}


def dtype_of(codebook_size: int) -> np.dtype:
    """Number format of a code on disk: uint16 as long as it holds every code."""
    return np.dtype("<u2" if codebook_size <= 65_536 else "<u4")


def _file_name(grid: Sequence[int]) -> str:
    height, width = grid
    return f"tokens-{height}x{width}.bin"


def _contradiction(index: Index) -> str:
    """The first key that does not follow from the others as it must, if there is one."""
    part, classes = index["parts"][0], index["classes"]
    num_chunks = -(-part["rows"] // CHUNK) if index["complete"] else len(part["sha256"])
    codebook_size = index["tokenizer"]["codebook_size"]
    size = index["transform"].get("image_size")
    sides = size if isinstance(size, list) and len(size) == 2 else [size]
    expected = {
        "transform.image_size": all(type(side) is int for side in sides),
        "tokenizer.codebook_size": codebook_size > 0,
        "dtype": index["dtype"] == dtype_of(codebook_size).str,
        "classes": classes == class_to_idx(classes),
        "classes_sha256": index["classes_sha256"] == sha256(to_json(classes)),
        "parts.0.rows": part["rows"] > 0,
        "parts.0.crops": part["crops"] > 0,
        "parts.0.grid": min(part["grid"]) > 0,
        "parts.0.file": part["file"] == _file_name(part["grid"]),  # and so inside the folder
        "parts.0.chunk": part["chunk"] == CHUNK,
        "parts.0.sha256": len(part["sha256"]) == num_chunks,
    }
    return next((key for key, holds in expected.items() if not holds), "")
