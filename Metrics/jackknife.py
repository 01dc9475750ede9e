"""Standard errors of what is measured on one set of images: the delete-a-group jackknife.

The set falls into groups that share no image; a number is measured once more without each of them.
Nothing is drawn with replacement: that makes a Fréchet distance larger, and so its error.
"""

import math
from collections.abc import Sequence
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from Metrics.inception_metrics import FeatureStatistics
from Metrics.seen import merged

GROUPS = 10


def balanced_groups(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The group, 0 to GROUPS - 1, of each image of a set with labels (N,).

    A group has its share of every class, as the set has. N is at least GROUPS.
    """
    assert len(labels) >= GROUPS
    groups = np.empty(len(labels), dtype=np.int64)
    groups[labels.argsort(kind="stable")] = np.arange(len(labels)) % GROUPS
    return groups


def without_each(groups: Sequence[FeatureStatistics]) -> list[FeatureStatistics]:
    """The statistics of the set without each of its groups."""
    return [merged([*groups[:i], *groups[i + 1 :]]) for i in range(len(groups))]


def standard_error(values: Sequence[float]) -> float:
    """Of a number, from its `values` without each of g groups: sqrt((g - 1) / g sum (v - mean)^2).

    Kott (2001), "The Delete-a-Group Jackknife", for groups of one size, with the mean of the values
    where that has the number of the whole set.
    """
    mean, count = fmean(values), len(values)
    return math.sqrt((count - 1) / count * sum((value - mean) ** 2 for value in values))
