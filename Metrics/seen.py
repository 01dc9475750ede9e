"""What scoring remembers of images that pass by once: so little that sets may be of any size.

B images of a batch, H height, W width, D width of a feature or numbers of a thumbnail.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from MaskGIL.data.sampler import spread
from MaskGIL.data.shapes import Object
from MaskGIL.noise import random_bits
from Metrics.inception import InceptionNetwork
from Metrics.inception_metrics import FeatureStatistics
from Metrics.nearest import Reconstruct, thumbnails
from Metrics.oracle import read_objects

MOST_THUMBNAILS = 10_000  # 60 MB; a share of 1 % is known to 0.1 %
DRAWS = 3  # parts of a set that share no image, for a distance with its spread


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

    `part_of` (count,) uint8 takes the set apart: `parts[e]` has the features by extractor e of each
    part, and `statistics[e]` those of all; with `features`, `features[e]` are all of them, (count,
    width). `spatial` and `logits` are what else an Inception network gives, where they are asked
    for. Thumbnails are of the images `kept` (n,), at most MOST_THUMBNAILS and evenly spread, seen
    through `reconstruct`; `objects` is what the oracle reads.
    """

    def __init__(
        self,
        images: Iterable[Tensor],
        count: int,
        extractors: Sequence[Extractor],
        reconstruct: Reconstruct | None = None,
        *,
        part_of: Tensor | None = None,
        objects: bool = False,
        thumbnails: bool = False,
        features: bool = False,
        spatial: bool = False,
    ) -> None:
        self.count = 0
        self.objects: list[list[Object]] = []
        self._part_of = torch.zeros(count, dtype=torch.uint8) if part_of is None else part_of
        num_parts = 1 + int(self._part_of.max())
        self.parts = [[FeatureStatistics() for _ in range(num_parts)] for _ in extractors]
        self._extractors, self._reconstruct, self._reads = extractors, reconstruct, objects
        rows = count if features else 0
        self.features = [torch.empty(rows, extractor.width) for extractor in extractors]
        self.spatial, self._looks_closer = FeatureStatistics(), spatial
        self._logits: list[Tensor] = []
        self._spatial: list[Tensor] | None = [] if features and spatial else None
        self.kept = spread(count, MOST_THUMBNAILS if thumbnails else 0)
        self._thumbnails: list[Tensor] = []
        self._digest = hashlib.sha256()
        for batch in images:
            self._add(batch.cpu())
        assert self.count == count, f"{self.count} images, announced were {count}"

    @property
    def statistics(self) -> list[FeatureStatistics]:
        """Of each extractor, those of all images."""
        return [merged(parts) for parts in self.parts]

    @property
    def sha256(self) -> str:
        """Of the bytes of all images as (N, H, W, 3)."""
        return self._digest.hexdigest()

    @property
    def spatial_features(self) -> Tensor | None:
        """(N, D) of what the sFID looks at, where `features` are kept too."""
        return torch.cat(self._spatial) if self._spatial else None

    @property
    def logits(self) -> Tensor:
        """(N, classes of the Inception network)."""
        return torch.cat(self._logits)

    @property
    def thumbnails(self) -> Tensor:
        """(n, D)."""
        return torch.cat(self._thumbnails)

    @torch.inference_mode()
    def _add(self, images: Tensor) -> None:
        pixels = images.permute(0, 2, 3, 1).contiguous()  # (B, H, W, 3)
        self._digest.update(pixels.numpy().tobytes())
        rows = slice(self.count, self.count + len(images))
        part_of = self._part_of[rows]
        for parts, all_features, extractor in zip(self.parts, self.features, self._extractors):
            features = self._look(extractor, images)
            for number in part_of.unique().tolist():
                parts[number].update(features[part_of == number])
            if len(all_features):
                all_features[rows] = features
        if self._reads:
            self.objects += read_objects(pixels)
        first, last = np.searchsorted(self.kept, [rows.start, rows.stop])
        if kept := (self.kept[first:last] - self.count).tolist():
            self._thumbnails.append(thumbnails(images[kept], self._reconstruct))
        self.count = rows.stop

    def _look(self, extractor: Extractor, images: Tensor) -> Tensor:
        if not (self._looks_closer and isinstance(extractor, InceptionNetwork)):
            return extractor(images)
        outputs = extractor.outputs(images)
        self.spatial.update(outputs.spatial)
        if self._spatial is not None:
            self._spatial.append(outputs.spatial)
        self._logits.append(outputs.logits)
        return outputs.features


def in_draws(count: int, draw: int) -> Tensor:
    """Which of DRAWS draws of `draw` images each of `count` belongs to, (count,) uint8.

    DRAWS for none of them; the draws share no image.
    """
    assert DRAWS * draw <= count, (draw, count)
    bits = random_bits(torch.tensor(0), "order", 0, torch.arange(count))
    part_of = torch.full((count,), DRAWS, dtype=torch.uint8)
    order = bits.argsort(stable=True)[: DRAWS * draw]
    part_of[order] = torch.arange(DRAWS, dtype=torch.uint8).repeat_interleave(draw)
    return part_of


def merged(parts: Sequence[FeatureStatistics]) -> FeatureStatistics:
    """The statistics of all parts together."""
    whole = FeatureStatistics()
    for part in parts:
        whole.merge(part)
    return whole
