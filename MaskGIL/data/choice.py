"""Every tenth training image, held out: what is chosen is chosen on these, and told once on val.

Stands on any source of images.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from PIL import Image

from MaskGIL.data.folders import Split

SHARE = 10  # of so many training images one is held out
Told = Literal["train", "val", "choice"]  # what a set may be of


class Source(Protocol):
    """As `MaskGIL.data.Images`, which stands on this floor's sources."""

    labels: np.ndarray

    @property
    def classes(self) -> Sequence[str]:
        """Names of the labels."""
        ...

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image.Image:
        """The picture of a row."""
        ...

    def name(self, index: int) -> str:
        """What a message calls the row."""
        ...


class SomeImages:
    """The `rows` (n,) of a source of images; `labels` (n,) int64 index its classes."""

    def __init__(self, images: Source, rows: np.ndarray) -> None:
        self.rows, self.labels, self.classes = rows, images.labels[rows], images.classes
        self._images = images

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, index: int) -> Image.Image:
        """The picture of a row. Raises `folders.UnreadableImage`."""
        return self._images.image(int(self.rows[index]))

    def name(self, index: int) -> str:
        """What a message calls the row."""
        return self._images.name(int(self.rows[index]))


def choice_rows(images: Source) -> np.ndarray:
    """The rows (n,) of the training images that are held out: of each class every tenth.

    A class of fewer has one held out, unless it is its only one.
    """
    held = []
    for label in np.unique(images.labels):
        rows = np.flatnonzero(images.labels == label)
        held.append(rows[SHARE - 1 :: SHARE] if len(rows) >= SHARE else rows[1:2])
    return np.sort(np.concatenate(held))


def hold_out_choice(images: Source, split: Split) -> SomeImages:
    """Of the training images those that are left to train on, or as val those held out."""
    held = choice_rows(images)
    rows = np.setdiff1d(np.arange(len(images)), held) if split == "train" else held
    return SomeImages(images, rows)
