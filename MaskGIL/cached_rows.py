"""Rows of a finished token cache as a source of images: whatever but pixels is known of them.

So a generator trains where only tokens are at hand. R rows of the cache, N of them here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from MaskGIL.cache import TokenCache
from MaskGIL.cache_index import check_classes, class_to_idx, read_index
from MaskGIL.data.folders import UnreadableImage
from MaskGIL.data.sampler import spread
from MaskGIL.durable import sha256, to_json
from Network.config import UserError


@dataclass
class CachedRows:
    """`rows` (N,) of the cache in `folder`, their `labels` (N,), its classes.

    `sha256` is that of all tokens and labels of the cache, of rows left out here too.
    """

    folder: Path
    rows: np.ndarray
    labels: np.ndarray
    classes: Sequence[str]
    sha256: str

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        """The number of a row in the cache."""
        return str(self.rows[index])

    def image(self, index: int) -> Image.Image:
        """Raise UnreadableImage: there are no pixels."""
        raise UnreadableImage(self.name(index), "only its tokens are known")

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raise UserError unless the cache has these classes in this order."""
        check_classes(self.folder, {"classes": class_to_idx(self.classes)}, classes)


def open_rows(folder: Path) -> CachedRows:
    """The rows of a cache that have tokens.

    Raises UserError for a missing, unfinished or damaged cache; chunks are not compared.
    """
    cache, index = TokenCache.open(folder, verify=False), read_index(folder)
    rows = np.flatnonzero(cache.labels >= 0)
    digest = sha256(to_json([index["parts"], index["labels_sha256"]]))
    return CachedRows(folder, rows, cache.labels[rows], cache.classes, digest)


def hold_out(images: CachedRows, most: int) -> tuple[CachedRows, CachedRows]:
    """Split rows in two: the rest, and up to `most` or an eighth, evenly spread over all.

    Raises UserError for a single row.
    """
    if len(images) < 2:
        raise UserError(
            f"The token cache {images.folder} has {len(images)} rows, too few to hold one out "
            f"for validation; write a cache of validation images to {images.folder.parent / 'val'}."
        )
    held = np.zeros(len(images), bool)
    held[spread(len(images), min(most, max(1, len(images) // 8)))] = True
    rest = replace(images, rows=images.rows[~held], labels=images.labels[~held])
    return rest, replace(images, rows=images.rows[held], labels=images.labels[held])
