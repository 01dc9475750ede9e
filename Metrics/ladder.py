"""What a distance is worth: the same distance of sets of images whose order is known.

Training images should lie nearest to the reference, their reconstructions further, samples further
still, and pictures of shuffled tokens furthest. Every rung has the same number of images,
because a Fréchet distance grows when there are fewer, and is drawn three times.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from MaskGIL.noise import random_bits
from Metrics.features import FeatureNetwork
from Metrics.inception_metrics import FeatureStatistics, frechet_distance

DRAWS = 3


class Sized(Protocol):
    """Images (B, 3, H, W) uint8 in batches, and how many there are."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Tensor]: ...


class Redrawn:
    """A set of images, each seen through `redraw`: (B, 3, H, W) -> the same shape."""

    def __init__(self, images: Sized, redraw: Callable[[Tensor], Tensor]) -> None:
        self._images, self._redraw = images, redraw

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[Tensor]:
        return map(self._redraw, self._images)


@torch.inference_mode()
def ladder(
    rungs: Mapping[str, Sized], reference: Iterable[Tensor], network: FeatureNetwork
) -> dict[str, Any]:
    """Distances of each rung to the whole reference: {"count", "distances": {name: [3 numbers]}}.

    A draw takes half as many images as the smallest rung has, which ones follows from the number
    of the draw; so memory does not depend on the size of a set.
    """
    count = min(map(len, rungs.values())) // 2
    real = FeatureStatistics()
    for batch in reference:
        real.update(network(batch))
    distances = {}
    for name, images in rungs.items():
        chosen = torch.stack([_draw(len(images), count, number) for number in range(DRAWS)])
        drawn, first = [FeatureStatistics() for _ in range(DRAWS)], 0
        for batch in images:
            features = network(batch)
            for statistics, rows in zip(drawn, chosen[:, first : first + len(batch)]):
                statistics.update(features[rows])
            first += len(batch)
        distances[name] = [
            frechet_distance(each.mean, each.covariance, real.mean, real.covariance)
            for each in drawn
        ]
    return {"count": count, "distances": distances}


def _draw(num_images: int, count: int, number: int) -> Tensor:
    """Which images a draw takes: bool (num_images,), `count` of them True."""
    bits = random_bits(torch.tensor(number), "order", 0, torch.arange(num_images))
    chosen = torch.zeros(num_images, dtype=torch.bool)
    chosen[bits.argsort(stable=True)[:count]] = True
    return chosen
