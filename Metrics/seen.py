"""What scoring remembers of images that pass by once: so little that sets may be of any size.

B images of a batch, H height, W width, D width of a feature or numbers of a thumbnail.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from MaskGIL.data.sampler import spread
from MaskGIL.data.shapes import Object
from MaskGIL.distributed import gather
from MaskGIL.noise import random_bits
from Metrics.inception import InceptionNetwork
from Metrics.inception_metrics import FeatureStatistics
from Metrics.nearest import Reconstruct, thumbnails
from Metrics.oracle import read_objects

T = TypeVar("T")
Question = Callable[[range, Tensor], list[Any]]  # rows, images (B, 3, H, W) uint8 -> B answers

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
    through `reconstruct`; `objects` is what the oracle reads; `answers` to each of the `questions`
    are a list of one an image.

    With `pieces`, the rows of each batch, the images are this rank's share. Then the main rank has
    in the end what all have seen, no other has anything, and there is no hash.
    """

    def __init__(
        self,
        images: Iterable[Tensor],
        count: int,
        extractors: Sequence[Extractor],
        reconstruct: Reconstruct | None = None,
        *,
        pieces: Sequence[range] | None = None,
        part_of: Tensor | None = None,
        objects: bool = False,
        questions: Mapping[str, Question] | None = None,
        thumbnails: bool = False,
        features: bool = False,
        spatial: bool = False,
    ) -> None:
        self.count = count
        self.kept = spread(count, MOST_THUMBNAILS if thumbnails else 0)
        self._part_of = torch.zeros(count, dtype=torch.uint8) if part_of is None else part_of
        num_parts = 1 + int(self._part_of.max())
        self.parts = [[FeatureStatistics() for _ in range(num_parts)] for _ in extractors]
        self.spatial = FeatureStatistics()
        self._extractors, self._reconstruct = extractors, reconstruct
        self._reads, self._keeps, self._looks_closer = objects, features, spatial
        self._questions = questions or {}
        # Of each batch, by the row of its first image
        self._features: list[dict[int, Tensor]] = [{} for _ in extractors]
        self._logits: dict[int, Tensor] = {}
        self._spatial: dict[int, Tensor] = {}
        self._thumbnails: dict[int, Tensor] = {}
        self._objects: dict[int, list[list[Object]]] = {}
        self._answers: dict[str, dict[int, list[Any]]] = {name: {} for name in self._questions}
        self._digest = hashlib.sha256() if pieces is None else None
        num_seen = 0
        numbered = _numbered(images) if pieces is None else zip(pieces, images, strict=True)
        for rows, batch in numbered:
            self._add(rows, batch.cpu())
            num_seen += len(batch)
        announced = count if pieces is None else sum(map(len, pieces))
        assert num_seen == announced, f"{num_seen} images, announced were {announced}"
        if pieces is not None:
            self._join_ranks()
        self.features = [_in_order(kept) for kept in self._features]
        self._features.clear()

    @property
    def statistics(self) -> list[FeatureStatistics]:
        """Of each extractor, those of all images."""
        return [merged(parts) for parts in self.parts]

    @property
    def sha256(self) -> str:
        """Of the bytes of all images as (N, H, W, 3)."""
        assert self._digest is not None, "a share of a set is not hashed"
        return self._digest.hexdigest()

    @property
    def spatial_features(self) -> Tensor | None:
        """(N, D) of what the sFID looks at, where `features` are kept too."""
        return _in_order(self._spatial) if self._spatial else None

    @property
    def logits(self) -> Tensor:
        """(N, classes of the Inception network)."""
        return _in_order(self._logits)

    @property
    def thumbnails(self) -> Tensor:
        """(n, D)."""
        return _in_order(self._thumbnails)

    @property
    def objects(self) -> list[list[Object]]:
        """Of each image."""
        return _flat(self._objects)

    @property
    def answers(self) -> dict[str, list[Any]]:
        """Of each image, by the name of the question."""
        return {name: _flat(found) for name, found in self._answers.items()}

    @torch.inference_mode()
    def _add(self, rows: range, images: Tensor) -> None:
        pixels = images.permute(0, 2, 3, 1).contiguous()  # (B, H, W, 3)
        if self._digest is not None:
            self._digest.update(pixels.numpy().tobytes())
        first, part_of = rows.start, self._part_of[rows.start : rows.stop]
        for parts, kept, extractor in zip(self.parts, self._features, self._extractors):
            features = self._look(extractor, first, images)
            for number in part_of.unique().tolist():
                parts[number].update(features[part_of == number])
            if self._keeps:
                kept[first] = features
        if self._reads:
            self._objects[first] = read_objects(pixels)
        for name, question in self._questions.items():
            self._answers[name][first] = question(rows, images)
        start, stop = np.searchsorted(self.kept, [rows.start, rows.stop])
        if kept := (self.kept[start:stop] - first).tolist():
            self._thumbnails[first] = thumbnails(images[kept], self._reconstruct)

    def _look(self, extractor: Extractor, first: int, images: Tensor) -> Tensor:
        if not (self._looks_closer and isinstance(extractor, InceptionNetwork)):
            return extractor(images)
        outputs = extractor.outputs(images)
        self.spatial.update(outputs.spatial)
        self._logits[first] = outputs.logits
        if self._keeps:
            self._spatial[first] = outputs.spatial
        return outputs.features

    def _join_ranks(self) -> None:
        """Sums are merged, and what is kept of images is brought to the main rank."""
        self.parts = [[merged(gather(part)) for part in parts] for parts in self.parts]
        self.spatial = merged(gather(self.spatial))
        self._features = [_together(kept) for kept in self._features]
        self._logits, self._thumbnails = _together(self._logits), _together(self._thumbnails)
        self._objects, self._spatial = _together(self._objects), _together(self._spatial)
        self._answers = {name: _together(found) for name, found in self._answers.items()}


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


def _numbered(images: Iterable[Tensor]) -> Iterator[tuple[range, Tensor]]:
    """Batches with their rows, one after the other."""
    first = 0
    for batch in images:
        yield range(first, first + len(batch)), batch
        first += len(batch)


def _together(kept: Mapping[int, T]) -> dict[int, T]:
    """What all ranks have kept, on the main rank."""
    return {first: values for share in gather(kept) for first, values in share.items()}


def _flat(kept: Mapping[int, list[T]]) -> list[T]:
    return [found for first in sorted(kept) for found in kept[first]]


def _in_order(kept: Mapping[int, Tensor]) -> Tensor:
    return torch.cat([kept[first] for first in sorted(kept)]) if kept else torch.empty(0)
