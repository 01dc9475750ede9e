"""Sets of images on disk as ADM's evaluator reads them, larger than memory.

An `.npz`: arr_0 uint8 (N, H, W, 3) in the order of the images, arr_1 int64 (N,) their labels, -1
unknown. N images, B of a batch, H height, W width.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

from MaskGIL.data.choice import Told
from MaskGIL.data.sampler import spread
from Metrics.statistics_file import array_names, read_array
from Network.config import UserError

BATCH = 256
PIXELS, LABELS = "arr_0.npy", "arr_1.npy"


class SampleFile:
    """The images of an `.npz`, read in batches.

    `labels` (n,) int64, -1 unknown; only `rows` (n,) are given, in their order on disk. Raises
    UserError for a file without images of this layout.
    """

    classes: Sequence[str] = ()  # the file has no names
    split: Told | None = None  # nor tells of which images they are
    transform = "as they are in the file"

    def __init__(self, path: str | Path, rows: NDArray[np.int64] | None = None) -> None:
        self.path, self.name, self.unreadable = Path(path), str(path), {}
        if not self.path.is_file():
            raise UserError(f"No such file: {path}.")
        try:
            with ZipFile(self.path) as archive:
                self._shape = _read_shape(archive)
                self.labels = _read_labels(archive, self._shape[0])
        except BadZipFile as error:
            raise UserError(_damaged(self.path, error)) from None
        except (KeyError, ValueError) as error:
            reason = str(error.args[0]).removesuffix(".")
            raise UserError(
                f"{path} is no set of images, which has arr_0, uint8 (N, H, W, 3): {reason}."
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
        return {"mu", "sigma"} <= array_names(self.path)

    def moments(
        self, width: int, mean: str = "mu", covariance: str = "sigma"
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Mean (D,) and covariance (D, D) of features, if the file has arrays of these names.

        ADM's references do, and its evaluator takes them: mu and sigma, and for the sFID mu_s and
        sigma_s. Raises UserError unless D is `width` and all are whole and finite.
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
        if not set(names) <= array_names(self.path):
            return None
        first, second = (read_array(self.path, name) for name in names)
        return first, second

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Tensor]:
        """Images (B, 3, H, W) uint8."""
        pieces = [range(start, start + BATCH) for start in range(0, self._shape[0], BATCH)]
        for rows, images in zip(pieces, self.pieces(pieces)):
            chosen = self._chosen[rows.start : rows.stop]
            if chosen.any():
                yield images[torch.from_numpy(chosen)]

    def pieces(self, pieces: Iterable[range]) -> Iterator[Tensor]:
        """Images (B, 3, H, W) uint8 of these ranges of rows of the file, which ascend."""
        num_images, *shape = self._shape
        size, position = int(np.prod(shape)), 0
        with ZipFile(self.path) as archive, archive.open(PIXELS) as file:
            _read_header(file)
            for rows in pieces:
                file.seek((rows.start - position) * size, os.SEEK_CUR)
                count = len(range(num_images)[rows.start : rows.stop])
                try:
                    data = bytearray(file.read(count * size))
                except BadZipFile as error:
                    raise UserError(_damaged(self.path, error)) from None
                position = rows.start + len(data) // size
                pixels = torch.frombuffer(data, dtype=torch.uint8).view(-1, *shape)
                yield pixels.permute(0, 3, 1, 2)  # (B, 3, H, W)


def _damaged(path: Path, error: BadZipFile) -> str:
    return f"{path} is no whole .npz ({error}); fetch or make it anew."


def _read_shape(archive: ZipFile) -> tuple[int, int, int, int]:
    with archive.open(PIXELS) as file:
        shape, fortran_order, dtype = _read_header(file)
        header = file.tell()
    found = f"its arr_0 is {dtype} of shape {shape}"
    if len(shape) == 4 and shape[1] == 3 != shape[3]:
        raise ValueError(f"{found}, channels first; transpose it (0, 2, 3, 1)")
    if dtype.kind == "f":
        raise ValueError(
            f"{found}, not whole numbers; round them to 0 ... 255 and save them as uint8"
        )
    if len(shape) != 4 or shape[3] != 3 or dtype != np.uint8 or fortran_order or 0 in shape:
        raise ValueError(found)
    if archive.getinfo(PIXELS).file_size != header + int(np.prod(shape)):
        raise ValueError(f"{found}, of which only a part is there")
    return shape


def _read_labels(archive: ZipFile, num_images: int) -> NDArray[np.int64]:
    if LABELS not in archive.namelist():
        return np.full(num_images, -1, dtype=np.int64)
    with archive.open(LABELS) as file:
        labels = npy.read_array(file, allow_pickle=False)
    if labels.shape != (num_images,) or labels.dtype.kind not in "iu":
        raise ValueError(f"its arr_1 is {labels.dtype} of shape {labels.shape}")
    return labels.astype(np.int64)


def _read_header(file) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and number format of an .npy file; leaves it at the first number."""
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    return read(file)
