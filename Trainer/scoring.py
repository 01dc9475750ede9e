"""How far a run's pictures are from its validation images, told while it trains.

Every rank makes its share and only sums of features travel, so any number of images will do. The
distance is that of `Metrics.features`: it compares steps and runs, and is no FID.
"""

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from MaskGIL.data import Images
from MaskGIL.data.folders import BadFiles
from MaskGIL.distributed import all_reduce, chunks
from Metrics.features import load_feature_network
from Metrics.inception_metrics import FeatureStatistics, distance
from Trainer.batches import readable_crop
from Trainer.config import RunConfig


class Scorer:
    """The distance of pictures to as many validation images: loop.score_images, evenly spread.

    `labels` (N,) are those of the images. Pictures come in pieces of up to `chunk`; B of them here.
    """

    def __init__(self, config: RunConfig, images: Images, chunk: int, device: torch.device) -> None:
        picks = np.linspace(0, len(images) - 1, min(config.loop.score_images, len(images)))
        self.rows = picks.astype(np.int64)
        self.labels, self.classes = images.labels[self.rows], images.classes
        self.chunk = chunk
        self._images, self._size, self._device = images, config.data.image_size, device
        self._bad = BadFiles(
            Path(config.out_dir) / "bad_files.txt", len(images), config.data.max_bad
        )
        self._network = load_feature_network()

    def __len__(self) -> int:
        return len(self.rows)

    def crops(self) -> Iterator[Tensor]:
        """This rank's share of the validation images (B, 3, S, S) uint8, on the CPU."""
        for part in chunks(len(self), self.chunk):
            rows = self.rows[part.start : part.stop].tolist()
            found = [
                readable_crop(self._images, row, "center", 0, self._size, self._bad) for row in rows
            ]
            yield torch.stack([crop for crop, _ in found])

    def score(self, pictures: Iterable[Tensor]) -> dict[str, float]:
        """Distance of all ranks' pictures, of which these (B, 3, S, S) uint8 are this rank's."""
        return {"distance": distance(self._statistics(pictures), self._real)}

    @cached_property
    def _real(self) -> FeatureStatistics:
        return self._statistics(self.crops())

    @torch.inference_mode()
    def _statistics(self, pictures: Iterable[Tensor]) -> FeatureStatistics:
        statistics = FeatureStatistics()
        statistics.update(torch.zeros(0, self._network.width))  # a rank may have no share
        for images in pictures:
            statistics.update(self._network(images.cpu()))
        state = statistics.state()
        summed = {name: all_reduce(self._placed(total)).cpu() for name, total in state.items()}
        return FeatureStatistics.from_state(summed)

    def _placed(self, total: Tensor) -> Tensor:
        """Where ranks can add it up; MPS, which has no float64, has a single rank."""
        return total.to(self._device) if self._device.type == "cuda" else total
