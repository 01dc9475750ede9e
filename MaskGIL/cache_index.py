"""How a token cache lies on disk: its index, its file of tokens, and the checks of both.

`index.json` names the tokenizer, the transform, the classes and the sha256 of every chunk of
CHUNK images. Nothing in it depends on time, machine or ranks. R rows, C crops, h w token grid.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from MaskGIL.data import Images, images_hash
from MaskGIL.data.crops import num_crops
from MaskGIL.durable import sha256, to_json
from Network.config import UserError
from Network.tokenizer import Tokenizer

VERSION = 2
CHUNK = 256  # images
Index = dict[str, Any]  # what index.json holds
_AGAIN = "delete the folder {} and run the command that wrote it again."


def new_index(
    images: Images, tokenizer: Tokenizer, crops: str, image_size: int, encode_batch: int
) -> Index:
    """The index of a cache still to be written. Raises UserError for a size without grid."""
    if image_size % tokenizer.stride:
        raise UserError(
            f"data.image_size={image_size} is no multiple of {tokenizer.stride}, the stride of the "
            "tokenizer."
        )
    side = image_size // tokenizer.stride
    part = {"file": f"tokens-{side}x{side}.bin", "grid": [side, side], "rows": len(images)}
    # The batch too: the last bit of a latent, and so a token, may depend on it
    transform = {"image_size": image_size, "crops": crops, "encode_batch": encode_batch}
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


def read_index(folder: Path) -> Index:
    """The index of a folder. Raises UserError when it is missing or not of this VERSION."""
    path = folder / "index.json"
    if not path.exists():
        raise UserError(
            f"No token cache in {folder}: index.json is missing; write the cache first."
        )
    try:
        index = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); {_AGAIN.format(folder)}") from error
    found = index.get("version") if isinstance(index, dict) else None
    if found != VERSION:
        raise UserError(f"{path} has version {found}, not {VERSION}; {_AGAIN.format(folder)}")
    return index


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
    """Raise UserError for a wrong size, and with `verify` for a wrong hash of tokens."""
    part, labels = Part.of(folder, index), folder / "labels.bin"
    for path, size in ((part.path, part.size), (labels, 4 * part.rows)):
        found = path.stat().st_size if path.exists() else 0
        if found != size:
            raise UserError(f"{path} has {found} bytes, not {size}; {_AGAIN.format(folder)}")
    if sha256(labels.read_bytes()) != index["labels_sha256"]:
        raise UserError(f"{labels} is damaged (sha256 differs); {_AGAIN.format(folder)}")
    for chunk, expected in enumerate(index["parts"][0]["sha256"] if verify else ()):
        if part.hash_of(chunk) != expected:
            raise UserError(
                f"{part.path} is damaged in chunk {chunk} (sha256 differs); {_AGAIN.format(folder)}"
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
        row = (part["crops"], *part["grid"])
        return cls(folder / part["file"], part["rows"], np.empty(row, index["dtype"]).nbytes)

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

    def hash_of(self, chunk: int) -> str:
        """Sha256 of the chunk as it lies on disk."""
        with self.path.open("rb") as file:
            file.seek(self.rows_of(chunk).start * self.row_bytes)
            return sha256(file.read(len(self.rows_of(chunk)) * self.row_bytes))


def class_to_idx(classes: Sequence[str]) -> dict[str, int]:
    """Torchvision's word for the label of each class name."""
    return {name: label for label, name in enumerate(classes)}


def dtype_of(codebook_size: int) -> np.dtype:
    """Number format of a code on disk: uint16 as long as it holds every code."""
    return np.dtype("<u2" if codebook_size <= 65_536 else "<u4")
