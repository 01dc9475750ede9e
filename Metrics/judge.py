"""What many sets of samples score against one reference, which is looked at once; with errors.

Stands on the statistics of `Metrics.seen`, the oracle, and the jackknife. N images of a set.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from MaskGIL.data.shapes import CLASSES
from Metrics.attributes import facts_of
from Metrics.jackknife import GROUPS, balanced_groups, standard_error, without_each
from Metrics.oracle import class_of
from Metrics.prompt_score import shows_everything
from Metrics.published import distance_to
from Metrics.reference import ImageSet
from Metrics.seen import Extractor, Seen

ACCURACY = "class accuracy"
ASKED = "everything as asked"
RISING = {ACCURACY, ASKED}  # measures of which more is better


class Judge:
    """A reference seen by every feature network; for the `classes` of the shapes also the oracle.

    And for samples of `prompts`, if they describe drawn scenes. `images` are those of the
    reference, in batches.
    """

    def __init__(
        self,
        reference: ImageSet,
        images: Iterable[Tensor],
        extractors: Sequence[Extractor],
        classes: Sequence[str],
        prompts: Sequence[str] = (),
    ) -> None:
        self._prompts = prompts
        self._extractors, self._reads = extractors, tuple(classes) == CLASSES
        real = Seen(images, len(reference), extractors)
        self.sha256 = real.sha256  # of the reference
        self._distances = [
            distance_to(reference, statistics, extractor)
            for extractor, statistics in zip(extractors, real.statistics)
        ]

    def score(self, images: Iterable[Tensor], labels: NDArray[np.int64]) -> dict[str, Any]:
        """Images (B, 3, H, W) uint8 with labels (N,) -> their hash, and of each measure its number.

        {"value", "error", "without"}: the last are the values without each group of the images,
        with which the difference of two sets has an error too.
        """
        groups = balanced_groups(labels)
        part_of = torch.from_numpy(groups).to(torch.uint8)
        facts = {"facts": lambda rows, images: facts_of(images)} if self._prompts else {}
        asked = {"part_of": part_of, "objects": self._reads, "questions": facts}
        seen = Seen(images, len(labels), self._extractors, **asked)
        measures: dict[str, dict[str, Any]] = {}
        for distance, parts, whole in zip(self._distances, seen.parts, seen.statistics):
            without = [distance.of(rest) for rest in without_each(parts)]
            measures[distance.name] = _number(distance.of(whole), without)
        if self._reads:
            right = np.array([class_of(objects) for objects in seen.objects]) == labels
            measures[ACCURACY] = _rate(right, groups)
        if self._prompts:
            right = np.array(shows_everything(seen.answers["facts"], self._prompts))
            measures[ASKED] = _rate(right, groups)
        return {"sha256": seen.sha256, "measures": measures}


def _rate(right: NDArray[np.bool_], groups: NDArray[np.int64]) -> dict[str, Any]:
    without = [float(right[groups != group].mean()) for group in range(GROUPS)]
    return _number(float(right.mean()), without)


def _number(value: float, without: Sequence[float]) -> dict[str, Any]:
    return {"value": value, "error": standard_error(without), "without": list(without)}
