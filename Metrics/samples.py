"""Sets of samples on disk: an `.npz` as the ADM evaluator reads, written chunk by chunk.

arr_0 uint8 (N, H, W, 3) in the order of the images, arr_1 int64 (N,) their labels, -1 unknown.
N images, B of a batch, H height, W width.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from MaskGIL.data.folders import Split
from MaskGIL.data.sampler import spread
from MaskGIL.output import check_writable
from Network.config import UserError

BATCH = 256
PIXELS, LABELS = "arr_0.npy", "arr_1.npy"


class SampleFile:
    """The images of an `.npz`, read in batches: whole sets are larger than memory.

    `labels` (n,) int64, -1 unknown; only `rows` (n,) are given, in their order on disk. Raises
    UserError for a file without images of this layout.
    """

    classes: Sequence[str] = ()  # the file has no names
    split: Split | None = None  # nor tells of which images they are
    transform = "as they are in the file"

    def __init__(self, path: str | Path, rows: NDArray[np.int64] | None = None) -> None:
        self.path, self.name, self.unreadable = Path(path), str(path), {}
        if not self.path.is_file():
            raise UserError(f"No such file: {path}.")
        try:
            with ZipFile(self.path) as archive:
                self._shape = _read_shape(archive)
                self.labels = _read_labels(archive, self._shape[0])
        except (BadZipFile, KeyError, ValueError) as error:
            raise UserError(
                f"{path} is no set of images: it needs arr_0, uint8 (N, H, W, 3) ({error})."
            ) from None
        self.size = self._shape[1:3]
        self._chosen = np.ones(self._shape[0], dtype=bool)
        if rows is not None:
            self._chosen[:] = False
            self._chosen[rows] = True
        self.labels = self.labels[self._chosen]

    def part(self, count: int) -> "SampleFile":
        """Up to `count` of the images, evenly spread."""
        rows = np.flatnonzero(self._chosen)
        return SampleFile(self.path, rows[spread(len(rows), count)])

    def sha256(self) -> str:
        """Of the bytes of all images as (N, H, W, 3): reads the whole set."""
        digest = hashlib.sha256()
        for images in self:
            digest.update(images.permute(0, 2, 3, 1).contiguous().numpy().data)
        return digest.hexdigest()

    @property
    def has_moments(self) -> bool:
        """Whether the file has a mean and covariance of features, of more images than it holds."""
        return self._stored("mu", "sigma") is not None

    def moments(
        self, width: int, mean: str = "mu", covariance: str = "sigma"
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Mean (D,) and covariance (D, D) of features, if the file has arrays of these names.

        ADM's references do, and its evaluator takes them: mu and sigma, and for the sFID mu_s and
        sigma_s. Raises UserError unless D is `width`.
        """
        if (stored := self._stored(mean, covariance)) is None:
            return None
        found_mean, found_covariance = stored
        if found_mean.shape != (width,) or found_covariance.shape != (width, width):
            raise UserError(
                f"{self.path} has {mean} of shape {found_mean.shape} and {covariance} of "
                f"{found_covariance.shape}, the features are {width} numbers; name a reference "
                "with statistics of Inception."
            )
        return stored

    def _stored(self, *names: str) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        with np.load(self.path, allow_pickle=False) as arrays:
            if not set(names) <= set(arrays):
                return None
            first, second = (arrays[name] for name in names)
        return first, second

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Tensor]:
        """Images (B, 3, H, W) uint8."""
        num_images, *shape = self._shape
        with ZipFile(self.path) as archive, archive.open(PIXELS) as file:
            _read_header(file)
            for start in range(0, num_images, BATCH):
                chosen = self._chosen[start : start + BATCH]
                data = bytearray(file.read(len(chosen) * int(np.prod(shape))))
                pixels = torch.frombuffer(data, dtype=torch.uint8).view(-1, *shape)
                if chosen.any():
                    yield pixels[torch.from_numpy(chosen)].permute(0, 3, 1, 2)  # (B, 3, H, W)


class SampleWriter:
    """Fills a set of `num_images` images of `size` (H, W), in any order and from any rank.

    Images go to a plain file beside `out`; `finish` packs it. Plain writes and no memory map: a
    full disk is then an error and not a crash. A folder `png` gets every image as a file too.
    """

    def __init__(
        self, out: Path, num_images: int, size: tuple[int, int], png: Path | None = None
    ) -> None:
        self.out, self.png, self.shape = out, png, (num_images, *size, 3)
        self._partial = out.with_name(f".{out.name}.partial")
        self._packed = out.with_name(f".{out.name}.packed")

    def check(self) -> None:
        """Raise UserError unless `png` is new or empty, and the disk holds the set twice.

        It must while the set is packed.
        """
        if self.png is not None:
            check_writable("png", self.png.absolute())
            if self.png.exists() and any(self.png.iterdir()):
                raise UserError(f"png={self.png} is not empty; name a new folder.")
        folder = next(place for place in self.out.absolute().parents if place.exists())
        needed, free = 2 * int(np.prod(self.shape)), shutil.disk_usage(folder).free
        if needed > free:
            raise UserError(
                f"out={self.out} needs {needed / 1e9:.2f} GB while it is written, its disk has "
                f"only {free / 1e9:.2f} GB left; choose another disk or a smaller num_images."
            )

    def begin(self) -> None:
        """Make the empty file; on one rank, before any `write`."""
        for folder in filter(None, (self.out.parent, self.png)):
            folder.mkdir(parents=True, exist_ok=True)
        npy.open_memmap(self._partial, "w+", np.uint8, self.shape)

    def write(self, first: int, images: Tensor) -> None:
        """Put images (B, 3, H, W) uint8 to the places from `first` on."""
        pixels = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        assert pixels.shape[1:] == self.shape[1:], pixels.shape
        with self._partial.open("r+b") as file:
            _read_header(file)
            file.seek(first * pixels[0].nbytes, os.SEEK_CUR)
            file.write(pixels.tobytes())
        if self.png is not None:
            for index, picture in enumerate(pixels, first):
                Image.fromarray(picture).save(self.png / f"{index:06d}.png")

    def finish(self, labels: NDArray[np.int64]) -> None:
        """Pack images and labels (N,) under the final name; on one rank, when all have written."""
        images = npy.open_memmap(self._partial, "r")
        try:
            with self._packed.open("wb") as file:
                np.savez(file, images, labels)  # as arr_0 and arr_1; reads a piece at a time
                file.flush()
                os.fsync(file.fileno())
            os.replace(self._packed, self.out)
        finally:
            self._packed.unlink(missing_ok=True)
        self._partial.unlink()


def _read_shape(archive: ZipFile) -> tuple[int, int, int, int]:
    with archive.open(PIXELS) as file:
        shape, fortran_order, dtype = _read_header(file)
    if len(shape) != 4 or shape[3] != 3 or dtype != np.uint8 or fortran_order or 0 in shape:
        raise ValueError(f"arr_0 is {dtype} of shape {shape}")
    return shape


def _read_labels(archive: ZipFile, num_images: int) -> NDArray[np.int64]:
    if LABELS not in archive.namelist():
        return np.full(num_images, -1, dtype=np.int64)
    with archive.open(LABELS) as file:
        labels = npy.read_array(file, allow_pickle=False)
    if labels.shape != (num_images,) or labels.dtype.kind not in "iu":
        raise ValueError(f"arr_1 is {labels.dtype} of shape {labels.shape}")
    return labels.astype(np.int64)


def _read_header(file) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and number format of an .npy file; leaves it at the first number."""
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    return read(file)
