"""How far a run's pictures are from its validation images, told while it trains.

Every rank makes its share and only sums of features travel, so any number of images will do. The
distance is that of `Metrics.features`: it compares steps and runs, and is no FID.
"""

from collections.abc import Iterable, Iterator
from functools import cached_property

import torch
from torch import Tensor

from MaskGIL.data import Images
from MaskGIL.data.sampler import spread
from MaskGIL.distributed import chunks, summed
from Metrics.features import load_feature_network
from Metrics.inception_metrics import FeatureStatistics, distance
from Network.config import UserError
from Trainer.batches import center_crops
from Trainer.config import RunConfig


class Scorer:
    """The distance of pictures to as many validation images: loop.score_images, evenly spread.

    `labels` (N,) are those of the images. Images and pictures come in pieces, B of them here.
    Raises UserError for fewer images than make a distance.
    """

    def __init__(self, config: RunConfig, images: Images, device: torch.device) -> None:
        if len(images) < 2:
            raise UserError(
                f"loop.score_every={config.loop.score_every} needs at least 2 validation images, "
                f"the data has {len(images)}; add some or use loop.score_every=0."
            )
        self.rows = spread(len(images), config.loop.score_images)
        self.labels, self.classes = images.labels[self.rows], images.classes
        self._config, self._images, self._device = config, images, device
        self._network = load_feature_network()

    def __len__(self) -> int:
        return len(self.rows)

    def crops(self, chunk: int) -> Iterator[Tensor]:
        """This rank's share of the validation images (B, 3, S, S) uint8, B <= chunk, on the CPU."""
        for part in chunks(len(self), chunk):
            yield center_crops(self._config, self._images, self.rows[part.start : part.stop])[0]

    def score(self, pictures: Iterable[Tensor]) -> dict[str, float]:
        """Distance of all ranks' pictures, of which these (B, 3, S, S) uint8 are this rank's.

        And of how many images it is: a distance of fewer is larger.
        """
        found = distance(self._statistics(pictures), self._real)
        return {"distance": found, "images": len(self)}

    @cached_property
    def _real(self) -> FeatureStatistics:
        return self._statistics(self.crops(64))  # on the CPU, whatever fits on the device

    @torch.inference_mode()
    def _statistics(self, pictures: Iterable[Tensor]) -> FeatureStatistics:
        statistics = FeatureStatistics()
        statistics.update(torch.zeros(0, self._network.width))  # a rank may have no share
        for images in pictures:
            statistics.update(self._network(images.cpu()))
        state = statistics.state()
        return FeatureStatistics.from_state(
            {name: summed(mine, self._device) for name, mine in state.items()}
        )
