"""Picture files in a list, whose labels, if any, are known from elsewhere than their folders."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from MaskGIL.data.folders import read_image, read_shape


class Files:
    """Picture files of which someone else knows the labels; rows follow those, then the names.

    `labels` (N,) int64 index `classes`; without classes all are 0. A row is called
    SPLIT/CLASS/FILE, as in class folders.
    """

    draft = 0  # as `read_image` has it

    def __init__(
        self, folder: Path, split: str, files: Sequence[str], labels: np.ndarray, classes: list[str]
    ) -> None:
        names = np.array([os.fsencode(file) for file in files])
        order = np.lexsort((names, labels))
        self.folder, self.split, self.classes = folder, split, classes
        self.labels, self._files = labels[order], names[order]

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """SPLIT/CLASS/FILE, or SPLIT/FILE without classes."""
        folders = [self.split, *self.classes[self.labels[index] :][:1]]
        return "/".join([*folders, os.fsdecode(self._files[index])])

    def image(self, index: int) -> Image.Image:
        """The picture as RGB, upright. Raises UnreadableImage."""
        return read_image(self.path(index), self.name(index), self.draft)

    def shape(self, index: int) -> tuple[int, int]:
        """Height and width of the picture. Raises UnreadableImage."""
        return read_shape(self.path(index), self.name(index))

    def path(self, index: int) -> Path:
        """Where the file is."""
        return self.folder / os.fsdecode(self._files[index])
