"""What a distance is worth: the same distance of sets of images whose order is known.

Training images should lie nearest to the reference, their reconstructions further, samples further
still, and pictures of shuffled tokens furthest. Every rung has the same number of images,
because a Fréchet distance grows when there are fewer, and is drawn three times.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from MaskGIL.noise import random_bits
from MaskGIL.pipeline import Pipeline
from Metrics.inception_metrics import FeatureStatistics, distance
from Metrics.redrawn import Redrawn, reconstructed, shuffled
from Metrics.reference import LabelledImages
from Metrics.seen import Extractor

DRAWS = 3


def rungs(
    pipe: Pipeline, samples: LabelledImages, train: LabelledImages, chunk: int
) -> dict[str, LabelledImages]:
    """Sets of images, from the nearest to a reference to the furthest.

    None holds an image of the reference itself, however redrawn: that would be nearer than new
    images of the same kind can be.
    """
    return {
        "train": train,
        "reconstructions": Redrawn(train, partial(reconstructed, pipe, chunk=chunk)),
        "samples": samples,
        "shuffled tokens": Redrawn(train, partial(shuffled, pipe, chunk=chunk)),
    }


@torch.inference_mode()
def ladder(
    sets: Mapping[str, LabelledImages], reference: Iterable[Tensor], network: Extractor
) -> dict[str, Any]:
    """Distances of each set to the whole reference: {"count", "distances": {name: [3 numbers]}}.

    A draw takes half as many images as the smallest set has, which ones follows from the number
    of the draw; so memory does not depend on the size of a set.
    """
    count = min(map(len, sets.values())) // 2
    real = FeatureStatistics()
    for batch in reference:
        real.update(network(batch))
    distances = {}
    for name, images in sets.items():
        chosen = torch.stack([_draw(len(images), count, number) for number in range(DRAWS)])
        drawn, first = [FeatureStatistics() for _ in range(DRAWS)], 0
        for batch in images:
            features = network(batch)
            for statistics, rows in zip(drawn, chosen[:, first : first + len(batch)]):
                statistics.update(features[rows])
            first += len(batch)
        distances[name] = [distance(each, real) for each in drawn]
    return {"count": count, "distances": distances}


def _draw(num_images: int, count: int, number: int) -> Tensor:
    """Which images a draw takes: bool (num_images,), `count` of them True."""
    bits = random_bits(torch.tensor(number), "order", 0, torch.arange(num_images))
    chosen = torch.zeros(num_images, dtype=torch.bool)
    chosen[bits.argsort(stable=True)[:count]] = True
    return chosen
