"""What can be told where the features of all images are kept, not only their mean and covariance.

The kernel distance, precision, recall, density, coverage, and 95 % intervals of these and of the
Fréchet distance. N real and M generated images, D width.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from MaskGIL.data.sampler import spread
from Metrics.intervals import (
    FEWEST_COUNTED,
    PER_FEATURE,
    beyond_bias,
    interval,
    interval_of_share,
)
from Metrics.jackknife import GROUPS, balanced_groups
from Metrics.kid import SEED, SUBSET_SIZE, SUBSETS, kernel_distance, squared_mmd
from Metrics.neighbourhoods import DENSITY_K, K, Neighbourhoods, neighbourhoods
from Metrics.published import Distance

FEWEST = 2 * GROUPS  # images of either set: each group has two
MOST_PAIRED = 10_000  # images of either set whose pairs are all looked at
HOW_KID = (
    f"kernel (x y / width + 1)^3, unbiased; mean of {SUBSETS} subsets of {{size}} images of either "
    f"set, drawn with numpy's RandomState({SEED}), as torch-fidelity does; the interval is about "
    f"the value of all pairs of at most {MOST_PAIRED:,} images of either set"
)
HOW_NEAR = f"precision and recall at k={K}, density and coverage at k={DENSITY_K}"
HOW_SURE = (
    f"95 %, from {GROUPS} groups of the samples, against these very reference images; those of "
    "recall and coverage are rather too wide; a share near 0 or 1, with fewer than "
    f"{FEWEST_COUNTED} images inside or outside of it, has none; extrapolated is the distance of "
    f"endlessly many samples, told from {PER_FEATURE} samples a feature on"
)


def feature_scores(
    real: Tensor, generated: Tensor, labels: NDArray[np.int64], distance: Distance, value: float
) -> dict[str, dict[str, Any]]:
    """Of features (N, D) of the reference, and (M, D) of images with labels (M,).

    {"metrics": numbers, "intervals": {"low", "high"}, "how" they are counted}, each by name.
    `value` is their `distance`, whose interval is about the extrapolated one where that can be
    told; of a reference without features, (0, D), there is that interval alone. Each set that has
    features has FEWEST images or more.
    """
    scores: dict[str, dict[str, Any]] = {"metrics": {}, "intervals": {}, "how": {}}
    if len(real):
        scores = _of_pairs(real, generated, labels)
    scores["how"]["intervals"] = HOW_SURE
    if ends := beyond_bias(generated, labels, distance.of, value):
        scores["intervals"][distance.name.removeprefix(distance.prefix)] = ends
    return {
        key: {distance.prefix + name: value for name, value in each.items()}
        for key, each in scores.items()
    }


def _of_pairs(
    real: Tensor, generated: Tensor, labels: NDArray[np.int64]
) -> dict[str, dict[str, Any]]:
    """What needs the features of both sets, without the prefix of their network."""
    groups = torch.from_numpy(balanced_groups(labels))
    size = min(SUBSET_SIZE, len(generated), len(real))
    rows, paired = spread(len(generated), MOST_PAIRED), spread(len(real), MOST_PAIRED)
    shares, *shares_without = neighbourhoods(real, generated, groups)
    metrics = {"KID": kernel_distance(real, generated, size=size)[0], **shares._asdict()}
    of_pairs = squared_mmd(real[paired], generated[rows], groups[rows])
    intervals = {"KID": interval(*of_pairs)._asdict()}
    counted = {"precision": len(generated), "recall": len(real), "coverage": len(real)}
    for name, values in zip(Neighbourhoods._fields, zip(*shares_without)):
        if name == "density":  # no share: it may be larger than 1
            intervals[name] = interval(metrics[name], values)._asdict()
        elif ends := interval_of_share(metrics[name], values, counted[name]):
            intervals[name] = ends._asdict()
    how = {"KID": HOW_KID.format(size=size), "precision": HOW_NEAR}
    return {"metrics": metrics, "intervals": intervals, "how": how}
