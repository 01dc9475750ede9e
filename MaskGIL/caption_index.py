"""How a caption cache lies on disk: its index, its offsets, and the checks of all.

`images.bin` holds the number of the first caption of every image, `captions.bin` that of the first
token of every caption, each with the total at its end; `features.bin` the features of all tokens.
R images, N captions, T tokens, C width of features.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from MaskGIL.durable import sha256
from MaskGIL.json_index import AGAIN, damaged, misfit, read_json_index
from Network.config import UserError
from Network.text import EncoderFacts, TextEncoder

VERSION = 1
CHUNK = 1024  # captions: enough of every length for the encoder's batches to be full
Index = dict[str, Any]  # what index.json holds
_ENCODER = {  # what the features depend on, then the name, which tells people
    **{"width": int, "num_tokens": int, "most_tokens": int, "precision": str},
    **{"fingerprint": str, "name": str},
}
_FORM = {
    "complete": bool,
    "encoder": _ENCODER,
    "captions": {"images": int, "captions": int, "tokens": int, "sha256": str},
    "chunk": int,
    "offsets_sha256": list,
    "sha256": list,
}


class Captioned(Protocol):
    """The captions of every image: a list of lists of texts, or what acts like it."""

    def __len__(self) -> int: ...
    def __getitem__(self, row: int, /) -> Sequence[str]: ...


def new_index(captions: Captioned, encoder: TextEncoder, offsets: "Offsets") -> Index:
    """The index of a cache still to be written."""
    return {
        "version": VERSION,
        "complete": False,
        "encoder": describe(encoder),
        "captions": {
            "images": len(captions),
            "captions": offsets.num_captions,
            "tokens": offsets.num_tokens,
            "sha256": captions_hash(captions),
        },
        "chunk": CHUNK,
        "offsets_sha256": [sha256(data) for data in offsets.contents().values()],
        "sha256": [],
    }


def describe(encoder: TextEncoder | EncoderFacts) -> dict[str, Any]:
    """What the features depend on."""
    return {key: getattr(encoder, key) for key in _ENCODER}


def captions_hash(captions: Captioned) -> str:
    """Sha256 over all captions, as grouped by images."""
    digest = hashlib.sha256()
    for group in captions:
        digest.update(json.dumps(list(group)).encode() + b"\n")
    return digest.hexdigest()


@dataclass(frozen=True)
class Offsets:
    """Where captions and their tokens begin: `images` (R + 1,), `captions` (N + 1,), int64."""

    images: np.ndarray
    captions: np.ndarray

    @classmethod
    def of(cls, counts: Sequence[int], lengths: Sequence[int]) -> "Offsets":
        """From the captions of every image and the tokens of every caption."""
        return cls(*(np.cumsum([0, *sizes], dtype="<i8") for sizes in (counts, lengths)))

    @classmethod
    def read(cls, folder: Path, index: Index) -> "Offsets":
        """Those of a folder. Raises UserError if they are not what the index says."""
        arrays = []
        for name, expected in zip(("images.bin", "captions.bin"), index["offsets_sha256"]):
            path = folder / name
            data = path.read_bytes() if path.exists() else b""
            if sha256(data) != expected:
                raise UserError(f"{path} is damaged (sha256 differs); {AGAIN.format(folder)}")
            arrays.append(np.frombuffer(data, "<i8"))
        return cls(*arrays)

    def contents(self) -> dict[str, bytes]:
        """The files, by their names."""
        return {"images.bin": self.images.tobytes(), "captions.bin": self.captions.tobytes()}

    @property
    def num_captions(self) -> int:
        """N."""
        return int(self.images[-1])

    @property
    def num_tokens(self) -> int:
        """T."""
        return int(self.captions[-1])

    @property
    def num_chunks(self) -> int:
        """The last one may be short."""
        return -(-self.num_captions // CHUNK)

    def captions_of(self, chunk: int) -> range:
        """The numbers of the captions of a chunk."""
        return range(chunk * CHUNK, min((chunk + 1) * CHUNK, self.num_captions))


@dataclass(frozen=True)
class Features:
    """The file of features, (T, C) bf16, cut into chunks of captions."""

    path: Path
    offsets: Offsets
    token_bytes: int

    @classmethod
    def of(cls, folder: Path, index: Index, offsets: Offsets) -> "Features":
        """That of a folder."""
        return cls(folder / "features.bin", offsets, 2 * index["encoder"]["width"])

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.offsets.num_tokens * self.token_bytes

    def start_of(self, chunk: int) -> int:
        """The byte where a chunk begins."""
        first = self.offsets.captions[self.offsets.captions_of(chunk).start]
        return int(first) * self.token_bytes

    def size_of(self, chunk: int) -> int:
        """Bytes of a chunk."""
        captions = self.offsets.captions_of(chunk)
        first, last = self.offsets.captions[[captions.start, captions.stop]]
        return int(last - first) * self.token_bytes

    def hash_of(self, chunk: int) -> str:
        """Sha256 of the chunk as it lies on disk."""
        with self.path.open("rb") as file:
            file.seek(self.start_of(chunk))
            return sha256(file.read(self.size_of(chunk)))


def read_index(folder: Path) -> Index:
    """The index of a folder, checked in itself.

    Raises UserError when it is missing, not of this VERSION, or damaged.
    """
    index = read_json_index(folder, VERSION, "caption cache")
    key = misfit(index, _FORM)
    if not key and index["chunk"] != CHUNK:
        key = "chunk"
    if key:
        raise damaged(folder, key)
    return index


def check_encoder(folder: Path, index: Index, encoder: TextEncoder | EncoderFacts) -> None:
    """Raise UserError unless the features are those of this encoder, whatever its name."""
    found, wanted = index["encoder"], describe(encoder)
    for key in (key for key in _ENCODER if key != "name"):
        if found[key] != wanted[key]:
            remedy = "use that one"
            if key == "precision":
                remedy = f"use text.precision={found[key]}"
            raise UserError(
                f"The caption cache {folder} was made by the text encoder {found['name']} ({key} "
                f"{found[key]}), not by {wanted['name']} ({key} {wanted[key]}); {remedy}, or "
                "delete the folder and write it anew."
            )


def check_captions(folder: Path, index: Index, captions: Captioned) -> None:
    """Raise UserError unless the cache is of these captions, of every image in this order."""
    found = index["captions"]
    if found["sha256"] != captions_hash(captions):
        count = sum(len(group) for group in captions)
        raise UserError(
            f"The caption cache {folder} is of other captions ({found['captions']:,} of "
            f"{found['images']:,} images, here {count:,} of {len(captions):,}); name another "
            "folder, or delete that one."
        )


def check_features(folder: Path, index: Index, offsets: Offsets, verify: bool) -> None:
    """Raise UserError for a wrong size, and with `verify` for wrong hashes."""
    features = Features.of(folder, index, offsets)
    found = features.path.stat().st_size if features.path.exists() else 0
    if found != features.size:
        raise UserError(
            f"{features.path} has {found} bytes, not {features.size}; {AGAIN.format(folder)}"
        )
    for chunk in range(offsets.num_chunks if verify else 0):
        if index["sha256"][chunk : chunk + 1] != [features.hash_of(chunk)]:
            raise UserError(
                f"{features.path} is damaged in chunk {chunk} (sha256 differs); "
                f"{AGAIN.format(folder)}"
            )
