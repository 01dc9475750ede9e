"""A set of samples in the making: its chunks on disk, then the `.npz` of them.

A chunk is a file of its own, which is whole or not there. So a run that was killed goes on with the
chunks that are missing, on any number of ranks. B images of a chunk, H height, W width.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from MaskGIL.command import Failure
from MaskGIL.config import changed_keys
from MaskGIL.durable import is_full, replace_file, to_json
from MaskGIL.output import check_writable
from Metrics.samples import LABELS, PIXELS
from Network.config import UserError


class PartialSet:
    """The chunks of `num_images` images of `size` (H, W), in a folder beside `out`.

    A folder `png` gets every image as a file too. Any rank may read and write chunks; one begins,
    packs and publishes.
    """

    def __init__(
        self, out: Path, num_images: int, size: tuple[int, int], png: Path | None = None
    ) -> None:
        self.out, self.png, self.shape = out, png, (num_images, *size, 3)
        self.folder = out.with_name(f"{out.name}.partial")
        self._description = self.folder / "set.json"
        self._packed = self.folder / "packed.npz"

    @property
    def num_bytes(self) -> int:
        """Of all pixels."""
        return math.prod(self.shape)

    @property
    def num_images_kept(self) -> int:
        """Of the chunks that are there."""
        return self._num_bytes_kept() // math.prod(self.shape[1:])

    def check(self) -> None:
        """Raise UserError for what is in the way, a filled folder `png`, and a small disk.

        The disk holds the set twice while it is packed, and at most once more in PNG files.
        """
        if self.png is not None:
            check_writable("png", self.png.absolute())
        if not self._description.exists():
            if self.folder.is_file() or self._chunks():
                raise UserError(f"{self.folder} is in the way of out={self.out}; remove it.")
            if self.png is not None and self.png.exists() and any(self.png.iterdir()):
                raise UserError(f"png={self.png} is not empty; name a new folder.")
        needed = 2 * self.num_bytes - self._num_bytes_kept()
        _check_disk("out", self.out, needed)
        if self.png is not None:
            same = _place(self.png).stat().st_dev == _place(self.out).stat().st_dev
            _check_disk("png", self.png, self.num_bytes + needed * same)

    def check_identity(self, identity: Mapping[str, Any]) -> None:
        """Raise UserError for chunks of another set: nothing is mixed."""
        if not self._description.exists():
            return
        try:
            found = dict(json.loads(self._description.read_text("utf-8")))
        except ValueError:
            raise UserError(f"{self._description} is damaged; remove {self.folder}.") from None
        if changes := changed_keys(found, self._told(identity)):
            key, old, new = changes[0]
            more = f" ({len(changes) - 1} more differ)" if len(changes) > 1 else ""
            raise UserError(
                f"out={self.out} was begun as another set: {key} is {old} in {self.folder} and "
                f"{new} here{more}; remove that folder, or name another out."
            )

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Make the folders, and clear away what a killed run has left half; before any `write`."""
        for folder in filter(None, (self.folder, self.png)):
            folder.mkdir(parents=True, exist_ok=True)
        for leftover in (*self.folder.glob(".*"), self._packed):
            leftover.unlink(missing_ok=True)
        if not self._description.exists():
            replace_file(self._description, to_json(self._told(identity)))

    def read(self, first: int) -> Tensor | None:
        """The images (B, 3, H, W) uint8 of the chunk that starts with `first`, if it is there.

        And if their PNG files are, where there are to be any.
        """
        file = self._file(first)
        if not file.exists():
            return None
        data = torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8)
        images = data.view(-1, *self.shape[1:]).permute(0, 3, 1, 2)
        pictures = map(self._picture, range(first, first + len(images)))
        return images if self.png is None or all(map(Path.exists, pictures)) else None

    def write(self, first: int, images: Tensor) -> None:
        """Keep the images (B, 3, H, W) uint8 of the chunk that starts with `first`."""
        pixels = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        assert pixels.shape[1:] == self.shape[1:], pixels.shape
        with self._told_when_full():
            if self.png is not None:
                for index, picture in enumerate(pixels, first):
                    Image.fromarray(picture).save(self._picture(index))
            replace_file(self._file(first), pixels.tobytes())

    def pack(self, labels: NDArray[np.int64]) -> str:
        """Make the file of all images and their labels (N,); returns the sha256 of the pixels.

        The same bytes as `numpy.savez`, which would need an array of all images.
        """
        digest = hashlib.sha256()
        header = {"descr": "|u1", "fortran_order": False, "shape": self.shape}
        with self._told_when_full(), self._packed.open("wb") as file:
            with ZipFile(file, "w") as archive:
                with archive.open(PIXELS, "w", force_zip64=True) as array:
                    npy.write_array_header_1_0(array, header)
                    for chunk in self._chunks():
                        digest.update(pixels := chunk.read_bytes())
                        array.write(pixels)
                with archive.open(LABELS, "w", force_zip64=True) as array:
                    npy.write_array(array, labels, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        return digest.hexdigest()

    def publish(self) -> None:
        """Give the packed file its name, and remove the chunks."""
        os.replace(self._packed, self.out)
        self.clear()

    def clear(self) -> None:
        """Remove the chunks that a run has left which was killed at its very end."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    @contextmanager
    def _told_when_full(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not is_full(error):
                raise
            self._packed.unlink(missing_ok=True)  # else the next run would find less room
            raise Failure(
                f"The disk is full: make room for out={self.out}, then give the command again; the "
                "chunks that are there are kept."
            ) from error

    def _told(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """What the folder says of itself: also where the PNG files of its chunks are."""
        return {**identity, "png": str(self.png or "")}

    def _num_bytes_kept(self) -> int:
        return sum(chunk.stat().st_size for chunk in self._chunks())

    def _chunks(self) -> list[Path]:
        """The files of the chunks that are there, in their order."""
        return sorted(self.folder.glob("*.rgb"))

    def _file(self, first: int) -> Path:
        return self.folder / f"{first:09d}.rgb"

    def _picture(self, index: int) -> Path:
        return (self.png or self.folder) / f"{index:06d}.png"


def _check_disk(key: str, path: Path, needed: int) -> None:
    free = shutil.disk_usage(_place(path)).free
    if needed > free:
        raise UserError(
            f"{key}={path} needs {needed / 1e9:.2f} GB while it is written, its disk has only "
            f"{free / 1e9:.2f} GB left; choose another disk or a smaller num_images."
        )


def _place(path: Path) -> Path:
    """The folder that is there, on whose disk `path` will lie."""
    return next(place for place in path.absolute().parents if place.exists())
