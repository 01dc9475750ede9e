"""95 % intervals of what is measured on one set of images, and what endless images would give.

Both follow from the values without each of a few groups of the images (`Metrics.jackknife`); of a
mean over blocks, which share no image, the interval follows from how far they differ.
M images, D feature width.
"""

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit
from torch import Tensor

from Metrics.inception_metrics import FeatureStatistics
from Metrics.jackknife import GROUPS, balanced_groups, standard_error, without_each

SHARE = 0.95
PER_FEATURE = 6  # at 3 images a feature an extrapolated distance is still too small
FEWEST_COUNTED = 10  # images inside and outside of a share: of fewer the groups tell too little


class Interval(NamedTuple):
    """Holds the true number in SHARE of all sets."""

    low: float
    high: float


def interval(centre: float, without: Sequence[float]) -> Interval:
    """About a number, from those without each of g groups: Student's t of g - 1, 2.26 at g = 10."""
    return _about(centre, standard_error(without), len(without))


def interval_of_share(share: float, without: Sequence[float], num_images: int) -> Interval | None:
    """As `interval`, of a share of so many images; None near 0 and 1, by FEWEST_COUNTED.

    There hardly a group changes it, and the interval would be far too narrow.
    """
    if round(min(share, 1 - share) * num_images) < FEWEST_COUNTED:
        return None
    return interval(share, without)


def interval_of_blocks(mean: float, deviation: float, num_blocks: int) -> Interval:
    """About a mean over 2 blocks or more, from their deviation, divided by the number of them.

    It is the jackknife's, with the blocks as its groups.
    """
    return _about(mean, deviation / math.sqrt(num_blocks - 1), num_blocks)


def interval_of_rate(rate: float, count: int) -> Interval:
    """About the rate of something among `count` independent pictures (Wilson 1927).

    Unlike the jackknife's it holds near 0 and 1 too, where it lies to one side of the rate.
    """
    z = ndtri((1 + SHARE) / 2).item()
    centre = (rate + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z / (1 + z**2 / count) * math.sqrt((rate * (1 - rate) + z**2 / (4 * count)) / count)
    return Interval(min(centre - reach, rate), max(centre + reach, rate))  # at 0 and 1 equal


def extrapolated(value: float, without: Sequence[float]) -> float:
    """A Fréchet distance at endlessly many images, from that of all and those without each group.

    A finite set adds c / N to it, and c depends on what is measured (Chong & Forsyth 2020): so
    distances of different numbers of images are not comparable, and these are. Of the line through
    N and N (g - 1) / g images this is the value at 1 / N = 0, which is also the jackknife's
    correction of a bias (Quenouille 1956). It takes about PER_FEATURE images a feature: below, the
    distance is no such line yet.
    """
    num_groups = len(without)
    return num_groups * value - (num_groups - 1) * fmean(without)


def beyond_bias(
    features: Tensor,
    labels: NDArray[np.int64],
    distance: Callable[[FeatureStatistics], float],
    value: float,
) -> dict[str, float]:
    """{"extrapolated", "low", "high"} of a distance of features (M, D), labels (M,), its `value`.

    Empty below PER_FEATURE images a feature.
    """
    if len(features) < PER_FEATURE * features.shape[1]:
        return {}
    groups = torch.from_numpy(balanced_groups(labels))
    parts = [FeatureStatistics() for _ in range(GROUPS)]
    for group, part in enumerate(parts):
        part.update(features[groups == group])
    without = [distance(rest) for rest in without_each(parts)]
    limit = extrapolated(value, without)
    return {"extrapolated": limit, **interval(limit, without)._asdict()}


def _about(centre: float, error: float, num_groups: int) -> Interval:
    reach = stdtrit(num_groups - 1, (1 + SHARE) / 2).item() * error
    return Interval(centre - reach, centre + reach)
