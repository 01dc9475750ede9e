"""What scoring remembers of images that pass by once: so little that sets may be of any size.

B images of a batch, H height, W width, D width of a feature or numbers of a thumbnail.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from MaskGIL.data.shapes import Object
from Metrics.inception_metrics import FeatureStatistics
from Metrics.nearest import Reconstruct, thumbnails
from Metrics.oracle import read_objects

MOST_THUMBNAILS = 10_000  # 60 MB; a share of 1 % is known to 0.1 %


class Extractor(Protocol):
    """A feature network: images (B, 3, H, W) uint8 -> features (B, width) on the CPU."""

    name: str
    sha256: str
    width: int

    def __call__(self, images: Tensor) -> Tensor:
        """Features of images."""
        ...


class Seen:
    """Statistics, hash and thumbnails of `count` images (B, 3, H, W) uint8 that come in batches.

    Thumbnails are of the images `kept` (n,), at most MOST_THUMBNAILS and evenly spread, seen
    through `reconstruct`; `objects` is what the oracle reads.
    """

    def __init__(
        self,
        images: Iterable[Tensor],
        count: int,
        extractors: Sequence[Extractor],
        reconstruct: Reconstruct | None = None,
        *,
        objects: bool = False,
        thumbnails: bool = False,
    ) -> None:
        self.count = 0
        self.statistics = [FeatureStatistics() for _ in extractors]
        self.objects: list[list[Object]] = []
        self._extractors, self._reconstruct, self._reads = extractors, reconstruct, objects
        kept = min(count, MOST_THUMBNAILS) if thumbnails else 0
        self.kept = np.linspace(0, max(count - 1, 0), kept).astype(np.int64)
        self._thumbnails: list[Tensor] = []
        self._digest = hashlib.sha256()
        for batch in images:
            self._add(batch.cpu())
        assert self.count == count, f"{self.count} images, announced were {count}"

    @property
    def sha256(self) -> str:
        """Of the bytes of all images as (N, H, W, 3)."""
        return self._digest.hexdigest()

    @property
    def thumbnails(self) -> Tensor:
        """(n, D)."""
        return torch.cat(self._thumbnails)

    @torch.inference_mode()
    def _add(self, images: Tensor) -> None:
        pixels = images.permute(0, 2, 3, 1).contiguous()  # (B, H, W, 3)
        self._digest.update(pixels.numpy().tobytes())
        for statistics, extractor in zip(self.statistics, self._extractors):
            statistics.update(extractor(images))
        if self._reads:
            self.objects += read_objects(pixels)
        first, last = np.searchsorted(self.kept, [self.count, self.count + len(images)])
        if rows := (self.kept[first:last] - self.count).tolist():
            self._thumbnails.append(thumbnails(images[rows], self._reconstruct))
        self.count += len(images)
