"""What a distance is worth: the same distance of sets of images whose order is known.

Training images should lie nearest to the reference, their reconstructions further, samples further
still, and pictures of shuffled tokens furthest. Every set has the same number of images, because a
Fréchet distance grows when there are fewer, in three draws that share none.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

from MaskGIL.pipeline import Pipeline
from Metrics.inception_metrics import FeatureStatistics, distance
from Metrics.redrawn import Redrawn, reconstructed, shuffled
from Metrics.reference import LabelledImages
from Metrics.seen import DRAWS
from Network.config import UserError

ORDER = ("train", "reconstructions", "samples", "shuffled tokens")


def rungs(pipe: Pipeline, train: LabelledImages, chunk: int) -> dict[str, LabelledImages]:
    """The sets beside the samples, all made of training images.

    None holds an image of the reference itself, however redrawn: that would be nearer than new
    images of the same kind can be.
    """
    return {
        "train": train,
        "reconstructions": Redrawn(train, partial(reconstructed, pipe, chunk=chunk)),
        "shuffled tokens": Redrawn(train, partial(shuffled, pipe, chunk=chunk)),
    }


def draw_size(counts: Sequence[int]) -> int:
    """Images of a draw from sets of so many images. Raises UserError if they are too few."""
    size = min(counts) // DRAWS
    if size < 2:
        raise UserError(
            f"ladder takes {DRAWS} draws of each set, which needs {2 * DRAWS} samples, reference "
            f"and training images; the smallest set has {min(counts)}."
        )
    return size


def ladder(
    draws: Mapping[str, Sequence[FeatureStatistics]], real: FeatureStatistics
) -> dict[str, Any]:
    """Distances to the whole reference of the draws of every set that ORDER names.

    {"count" of a draw, "distances": {set: [one a draw]}, "in order": whether the middle ones grow}.
    """
    distances = {name: [distance(draw, real) for draw in draws[name]] for name in ORDER}
    middle = [median(found) for found in distances.values()]
    in_order = all(nearer < further for nearer, further in pairwise(middle))
    return {"count": draws[ORDER[0]][0].count, "distances": distances, "in order": in_order}
