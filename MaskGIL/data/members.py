"""What lies in tar files, of pictures, labels and captions: their headers, read once.

That takes minutes for ImageNet, and is remembered in torch.hub's folder. What is read of a member
is chosen by its name alone, and nothing is unpacked or unpickled. N pictures.
"""

import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from tqdm import tqdm

from MaskGIL.data.folders import is_image
from MaskGIL.durable import replace_file, sha256
from Network.config import UserError

_LONGEST_TEXT = 2**16  # bytes; a longer file is no label and no caption of a picture
_LONGEST_TAIL = 2**20  # zeros behind the last member: as many as the largest blocks of tar
_FORMAT = 2  # of what is remembered
CAPTION_FILES = (".json", ".caption", ".txt")  # of a picture, the last that is there
_CAPTION_KEYS = ("caption", "captions", "text", "prompt")  # of a .json, the first that is there
_PICKLED = (".pyd", ".pickle", ".pkl", ".pth")  # what WebDataset would unpickle
LABEL_KEYS = ("label", "cls", "class_id", "class")  # of a .json, the first that is there

Place = tuple[int, int, int]  # of captions: offset and size of their file, index in CAPTION_FILES
_NOWHERE = (-1, -1, -1)


@dataclass(frozen=True)
class Members:
    """Where the pictures of some tar files lie: arrays (N,), in the order of the tar files."""

    names: np.ndarray  # bytes
    labels: np.ndarray  # bytes: what .cls or .json says, empty where neither is there
    tars: np.ndarray  # index of the tar file
    offsets: np.ndarray
    sizes: np.ndarray
    captions: np.ndarray  # (N, 3): a Place, -1 where there are none
    orphans: np.ndarray  # bytes: names of captions without a picture


def read_members(tars: Sequence[Path]) -> Members:
    """The pictures in some tar files, from memory if they have been read before.

    Raises UserError for what is no whole, uncompressed tar file, for a name that points outside
    of it, and for pickled members.
    """
    states = [f"{tar.resolve()} {tar.stat().st_size} {tar.stat().st_mtime_ns}" for tar in tars]
    key = sha256("\n".join([str(_FORMAT), *states]).encode())
    memory = Path(torch.hub.get_dir()) / "maskgil" / f"tars-{key[:32]}.npz"
    if memory.is_file():
        with np.load(memory) as arrays:
            return Members(**arrays)
    rows: list[tuple[bytes, bytes, int, int, int, Place]] = []
    orphans: list[bytes] = []
    for number, tar in enumerate(tqdm(tars, desc="tar files", leave=False, disable=None)):
        found = _read_samples(tar)
        for key, name, offset, size in found.pictures:
            label, caption = found.labels.get(key, b""), found.captions.get(key, _NOWHERE)
            rows.append((_encoded(name), label, number, offset, size, caption))
        orphans += map(_encoded, found.orphans())
    names, labels, numbers, offsets, sizes, captions = zip(*rows) if rows else [()] * 6
    members = Members(
        names=np.array(names, bytes),
        labels=np.array(labels, bytes),
        tars=np.array(numbers, np.int64),
        offsets=np.array(offsets, np.int64),
        sizes=np.array(sizes, np.int64),
        captions=np.array(captions, np.int64).reshape(-1, 3),
        orphans=np.array(orphans, bytes),
    )
    _remember(members, memory)
    return members


def key_of(name: str) -> str:
    """What the files of a sample share: the name up to the first dot behind the folders."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def captions_of(value: Any) -> list[str]:
    """The captions that a .json file holds, one text or a list of them."""
    if not isinstance(value, dict):
        return []
    said = next((value[key] for key in _CAPTION_KEYS if key in value), [])
    return [text for text in (said if isinstance(said, list) else [said]) if isinstance(text, str)]


def _remember(members: Members, memory: Path) -> None:
    data = io.BytesIO()
    np.savez(data, **asdict(members))
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        replace_file(memory, data.getvalue())
    except OSError:
        return  # a home that cannot be written to: the next run reads the headers again


# ------------------------------------------------------------------------------------ headers
class _Refused(Exception):
    """A member of a tar file that nobody should open."""


class _Samples:
    """The pictures of a tar file, and by their keys what is known of them.

    A label or a caption may come behind its picture.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.pictures: list[tuple[str, str, int, int]] = []  # key, name, offset, size
        self.labels: dict[str, bytes] = {}
        self.captions: dict[str, Place] = {}
        for name, offset, size, content in _members(file):
            base = name.rpartition("/")[2]
            key = key_of(name)
            if is_image(base):
                self.pictures.append((key, name, offset, size))
            elif size <= _LONGEST_TEXT:
                self._describe(key, os.path.splitext(base)[1], offset, size, content)

    def _describe(self, key: str, ending: str, offset: int, size: int, content: IO[bytes]) -> None:
        is_caption = ending in CAPTION_FILES
        if ending in (".cls", ".json"):
            value = _json(content.read())
            self.labels[key] = _label(value) or self.labels.get(key, b"")
            is_caption = is_caption and bool(captions_of(value))
        if is_caption:
            kind = CAPTION_FILES.index(ending)
            if kind > self.captions.get(key, _NOWHERE)[2]:
                self.captions[key] = offset, size, kind

    def orphans(self) -> list[str]:
        """Keys with captions and without a picture."""
        return sorted(self.captions.keys() - {key for key, *_ in self.pictures})


def _read_samples(tar: Path) -> _Samples:
    with tar.open("rb") as file:
        try:
            return _Samples(file)
        except _Refused as error:
            raise UserError(f"{tar} holds {error}; do not use it.") from error
        # Headers may ask for a place that is none, or for tar files in tar files without end
        except (tarfile.TarError, EOFError, OSError, ValueError, RecursionError) as error:
            raise UserError(
                f"{tar} is not a whole tar file ({error}); download it again, uncompressed."
            ) from error


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _members(file: IO[bytes]) -> Iterator[tuple[str, int, int, IO[bytes]]]:
    """Name, offset, size and content of every file in a tar file and in tar files inside of it."""
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (member := archive.next()) is not None:
            # Else it remembers them all: a gigabyte for a million
            archive.members = []  # pyright: ignore[reportAttributeAccessIssue]
            if not member.isreg():
                continue
            if member.name.startswith("/") or ".." in member.name.split("/"):
                raise _Refused(f"{member.name!r}, which points outside of it")
            if member.name.lower().endswith(_PICKLED):
                raise _Refused(f"{member.name!r}, pickled objects that may run code when read")
            if member.issparse() or member.size < 0:  # its bytes do not lie there in a row
                raise tarfile.ReadError(f"{member.name!r} has holes or no size")
            content = archive.extractfile(member)
            assert content is not None
            if not member.name.endswith(".tar"):
                yield member.name, member.offset_data, member.size, content
                continue
            for name, offset, size, inner in _members(content):
                yield f"{member.name}/{name}", member.offset_data + offset, size, inner
        # A damaged header looks like the end to tarfile: behind the real one there are only zeros
        file.seek(archive.offset)
        tail = file.read(_LONGEST_TAIL + 1)
        if not tarfile.BLOCKSIZE <= len(tail) <= _LONGEST_TAIL or any(tail):
            raise tarfile.ReadError(f"damaged at byte {archive.offset}")


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _label(value: Any) -> bytes:
    """The number that a .cls or .json file holds, as digits; empty where there is none."""
    if isinstance(value, dict):
        value = next((value[key] for key in LABEL_KEYS if key in value), None)
    return str(value).encode() if str(value).isdecimal() else b""
