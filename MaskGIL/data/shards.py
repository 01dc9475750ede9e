"""Pictures inside tar files, read where they lie: nothing is unpacked.

ImageNet as downloaded is a tar of tars, whose members are named `n01440764.tar/x.JPEG` here;
WebDataset shards keep the class of `KEY.jpg` in `KEY.cls` or `KEY.json`. The headers are read once,
which takes minutes for ImageNet, and remembered in torch.hub's folder. M members, N pictures.
"""

import io
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from MaskGIL.data.folders import is_image, read_image
from MaskGIL.durable import replace_file, sha256
from Network.config import UserError

SYNSET = re.compile(r"n[0-9]{8}(?=[_.]|$)")  # a WordNet id at the start of a file or folder name
_LONGEST_LABEL = 2**16  # bytes; a longer .json is no description of a picture
_LONGEST_TAIL = 2**20  # zeros behind the last member: as many as the largest blocks of tar
_FORMAT = 1  # of what is remembered
_LABEL_KEYS = (
    "label",
    "cls",
    "class_id",
    "class",
)  # of the .json of a sample, the first that is there


@dataclass(frozen=True)
class Members:
    """Where the pictures of some tar files lie: arrays (N,), in the order of the tar files."""

    names: np.ndarray  # bytes
    labels: np.ndarray  # bytes: what .cls or .json says, empty where neither is there
    tars: np.ndarray  # index of the tar file
    offsets: np.ndarray
    sizes: np.ndarray


class Packed:
    """The pictures of one split; rows follow the labels, then the file names.

    `labels` (N,) int64 index `classes`. A row is called SPLIT/CLASS/FILE, as in class folders.
    """

    draft = 0  # as `read_image` has it

    def __init__(
        self,
        split: str,
        tars: Sequence[Path],
        members: Members,
        classes: Sequence[str],
        labels: np.ndarray,
    ) -> None:
        files = np.array([name.rpartition(b"/")[2] for name in members.names.tolist()])
        order = np.lexsort((files, labels))
        self.classes, self.labels, self._split = list(classes), labels[order], split
        self._files, self._tars = files[order], [str(tar) for tar in tars]
        self._places = np.stack([members.tars, members.offsets, members.sizes], 1)[order]  # (N, 3)

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """SPLIT/CLASS/FILE, for instance `train/n01440764/n01440764_10026.JPEG`."""
        file = self._files[index].decode("utf-8", "surrogateescape")
        return f"{self._split}/{self.classes[self.labels[index]]}/{file}"

    def image(self, index: int) -> Image.Image:
        """The picture as RGB, upright. Raises UnreadableImage."""
        tar, offset, size = self._places[index].tolist()
        with open(self._tars[tar], "rb") as file:
            file.seek(offset)
            data = file.read(size)
        return read_image(io.BytesIO(data), self.name(index), self.draft)


def open_shards(tars: Sequence[Path], split: str, train: Sequence[Path]) -> Packed:
    """The pictures in `tars`; class names come from `train`, the tar files of the training split.

    A class is a number in KEY.cls or KEY.json, or else the folder (or inner tar) of the picture.
    Numbers take their names from `classes.txt` beside the tar files, one per line, or from WordNet
    ids at the start of the training pictures' names. Raises UserError where classes are missing or
    contradict each other.
    """
    members = read_members(tars)
    known = members if tars == train else read_members(train)
    folder = train[0].parent
    if not len(members.names) or not len(known.names):
        raise UserError(f"The tar files of {folder} hold no pictures for {split}.")
    if members.labels.all() and known.labels.all():
        labels, classes = _numbers(members.labels, folder), _names_of_numbers(known, folder)
        if labels.max() >= len(classes):
            raise UserError(
                f"A picture for {split} in the tar files of {folder} has the class "
                f"{labels.max()}, train has 0 to {len(classes) - 1}."
            )
        return Packed(split, tars, members, classes, labels)
    found = [_folder_of(name) for name in members.names.tolist()]
    classes = sorted({_folder_of(name) for name in known.names.tolist()})
    if "" in classes or not set(found) <= set(classes):
        odd = next((name for name in found if name not in classes), "")
        what = f"class {odd} is not among those of train" if odd else "a picture has no class"
        raise UserError(
            f"In the tar files of {folder} {what}: each needs KEY.cls or KEY.json with a number, "
            "or a folder named like its class."
        )
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers[name] for name in found], np.int64)
    return Packed(split, tars, members, classes, labels)


def read_members(tars: Sequence[Path]) -> Members:
    """The pictures in some tar files, from memory if they have been read before.

    Raises UserError for what is no whole, uncompressed tar file, and for a name that points
    outside of it.
    """
    states = [f"{tar.resolve()} {tar.stat().st_size} {tar.stat().st_mtime_ns}" for tar in tars]
    key = sha256("\n".join([str(_FORMAT), *states]).encode())
    memory = Path(torch.hub.get_dir()) / "maskgil" / f"tars-{key[:32]}.npz"
    if memory.is_file():
        with np.load(memory) as arrays:
            return Members(**arrays)
    rows: list[tuple[bytes, bytes, int, int, int]] = []
    for number, tar in enumerate(tqdm(tars, desc="tar files", leave=False, disable=None)):
        with tar.open("rb") as file:
            try:
                rows += [(*row[:2], number, *row[2:]) for row in _pictures(file)]
            except _Outside as error:
                raise UserError(
                    f"{tar} holds {error}, which points outside of it; do not use it."
                ) from error
            # Headers may ask for a place that is none, or for tar files in tar files without end
            except (tarfile.TarError, EOFError, OSError, ValueError, RecursionError) as error:
                raise UserError(
                    f"{tar} is not a whole tar file ({error}); download it again, uncompressed."
                ) from error
    names, labels, *places = zip(*rows) if rows else [()] * 5
    members = Members(
        np.array(names, bytes), np.array(labels, bytes), *(np.array(p, np.int64) for p in places)
    )
    _remember(members, memory)
    return members


def _remember(members: Members, memory: Path) -> None:
    fields = dict(zip(("names", "labels", "tars", "offsets", "sizes"), astuple(members)))
    data = io.BytesIO()
    np.savez(data, **fields)
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        replace_file(memory, data.getvalue())
    except OSError:
        return  # a home that cannot be written to: the next run reads the headers again


# ------------------------------------------------------------------------------------ headers
class _Outside(Exception):
    """The name of a member that points outside of its tar file."""


def _pictures(file: IO[bytes]) -> Iterator[tuple[bytes, bytes, int, int]]:
    """Name, label, offset and size of each picture of a tar file. A label may come behind it."""
    found: list[tuple[str, str, int, int]] = []  # key and picture
    labels: dict[str, bytes] = {}
    for name, offset, size, content in _members(file):
        folder, slash, base = name.rpartition("/")
        key = folder + slash + base.partition(".")[0]
        if is_image(base):
            found.append((key, name, offset, size))
        elif name.endswith((".cls", ".json")) and size <= _LONGEST_LABEL:
            labels[key] = _label(content.read()) or labels.get(key, b"")
    for key, name, offset, size in found:
        yield name.encode("utf-8", "surrogateescape"), labels.get(key, b""), offset, size


def _members(file: IO[bytes]) -> Iterator[tuple[str, int, int, IO[bytes]]]:
    """Name, offset, size and content of every file in a tar file and in tar files inside of it."""
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (member := archive.next()) is not None:
            # Else it remembers them all: a gigabyte for a million
            archive.members = []  # pyright: ignore[reportAttributeAccessIssue]
            if not member.isreg():
                continue
            if member.name.startswith("/") or ".." in member.name.split("/"):
                raise _Outside(repr(member.name))
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


def _label(data: bytes) -> bytes:
    """The number that a .cls or .json file holds, as digits; empty where there is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return b""
    if isinstance(value, dict):
        value = next((value[key] for key in _LABEL_KEYS if key in value), None)
    return str(value).encode() if str(value).isdecimal() else b""


# ------------------------------------------------------------------------------------ classes
def _folder_of(name: bytes) -> str:
    """The folder, or the inner tar file, that a picture lies in."""
    folder = name.decode("utf-8", "surrogateescape").rpartition("/")[0].rpartition("/")[2]
    return folder.removesuffix(".tar")


def _numbers(labels: np.ndarray, folder: Path) -> np.ndarray:
    longest = max(map(len, labels.tolist()))
    if longest > 6:
        raise UserError(
            f"A picture in the tar files of {folder} has a class number of {longest} digits in "
            f"KEY.cls or KEY.json ({', '.join(_LABEL_KEYS)}): that is no class."
        )
    return labels.astype(np.int64)


def _names_of_numbers(train: Members, folder: Path) -> list[str]:
    numbers = _numbers(train.labels, folder)
    count, listed = int(numbers.max()) + 1, folder / "classes.txt"
    if listed.is_file():
        names = listed.read_text("utf-8").split("\n")
        names = [name.strip() for name in names if name.strip()]
        if len(names) < count:
            raise UserError(
                f"{listed} names {len(names)} classes, but a picture has the class {count - 1}."
            )
        return names
    starts = [SYNSET.match(name.rpartition(b"/")[2].decode("latin-1")) for name in train.names]
    pairs = {(number, start[0]) for number, start in zip(numbers.tolist(), starts) if start}
    ids = dict(sorted(pairs))
    if len(pairs) == len(ids) == count and all(starts):
        return list(ids.values())
    return [str(number) for number in range(count)]
