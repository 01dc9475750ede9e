"""Batches as pure functions of the step: item `step` of a dataset is one rank's share of it.

A DataLoader without batching fetches them, in this process or in workers: the same either way.
Shapes: B images of this rank, S pixels, h x w tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from MaskGIL.cache import TokenCache
from MaskGIL.data import Images
from MaskGIL.data.crops import crop_image
from MaskGIL.data.folders import BadFiles, UnreadableImage
from MaskGIL.data.sampler import Sampler
from MaskGIL.masking import hidden_counts

Batch = dict[str, Tensor]


@dataclass
class ImageBatches(Dataset):
    """`images` (B, 3, S, S) uint8, `labels` (B,), `samples` (B,) numbers in the run's stream."""

    images: Images
    sampler: Sampler
    share: slice
    crops: str
    size: int
    bad: BadFiles

    def __getitem__(self, step: int) -> Batch:
        rows, crops, samples = (array[self.share] for array in self.sampler.rows(step))
        found = [self._readable(int(row), int(crop)) for row, crop in zip(rows, crops)]
        return {
            "images": torch.stack([image for image, _ in found]),
            "labels": torch.tensor([label for _, label in found]),
            "samples": torch.from_numpy(samples.copy()),
        }

    def _readable(self, row: int, crop: int) -> tuple[Tensor, int]:
        """The crop and the label of a row, or of the next one that can be read."""
        while True:  # BadFiles ends it when too many are bad
            try:
                image = crop_image(self.images.image(row), self.crops, crop, self.size)
                return image, int(self.images.labels[row])
            except UnreadableImage as error:
                self.bad.add(row, error)
                row = (row + 1) % len(self.images)


@dataclass
class TokenBatches(Dataset):
    """`tokens` (B, h, w) int64 of the cache, `labels` (B,) and `samples` (B,)."""

    cache: TokenCache
    sampler: Sampler
    share: slice

    def __getitem__(self, step: int) -> Batch:
        rows, crops, samples = (array[self.share] for array in self.sampler.rows(step))
        return {
            "tokens": self.cache.tokens(rows, crops),
            "labels": torch.from_numpy(self.cache.labels[rows]),
            "samples": torch.from_numpy(samples.copy()),
        }


@dataclass
class MaskedBatches(Dataset):
    """Adds `hidden` (B,), how many tokens to hide, and `hidden_total` (B,), that of all images."""

    source: Dataset[Batch]
    schedule: str
    batch: int
    num_tokens: int
    seed: int
    share: slice

    def __getitem__(self, step: int) -> Batch:
        counts = hidden_counts(self.schedule, self.batch, self.num_tokens, self.seed, step)
        hidden = torch.from_numpy(counts[self.share].copy())
        total = torch.full_like(hidden, int(counts.sum()))
        return {**self.source[step], "hidden": hidden, "hidden_total": total}
