"""The numbers that others publish, by the released Inception network alone: FID, sFID, IS.

Where that is not at hand they are blank, and the record says why.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from Metrics.inception import NETWORK, SPATIAL_WIDTH, InceptionNetwork
from Metrics.inception_metrics import FeatureStatistics, Gaussian
from Metrics.inception_score import ADM_BLOCK, SEED, adm_inception_score, inception_score
from Metrics.intervals import beyond_bias, interval_of_blocks
from Metrics.reference import Reference
from Metrics.samples import SampleFile
from Metrics.seen import Extractor, Seen
from Metrics.statistics_file import Known, Moments, StatisticsFile

NAMES = ("fid", "sfid", "inception_score", "inception_score_shuffled")
NOTES = ("fid_note", "inception_score_note")
FEW = 10_000  # images; an FID of fewer is larger, the more so the fewer they are
SPLITS = 10  # blocks of shuffled images
IN_FILE = "mu and sigma in the file"


class Distance(NamedTuple):
    """The Fréchet distance to a reference, by the features of one network."""

    name: str
    prefix: str  # of the names of other scores by the same features
    of: Callable[[FeatureStatistics], float]
    source: str  # what stands for the reference
    is_of_few: bool  # reference images

    @property
    def is_fid(self) -> bool:
        """Whether it is by the released Inception network."""
        return self.name == "FID"

    def note(self, count: int) -> str:
        """Of how many images it is, where it is that of `count` samples."""
        few = self.is_of_few or count < FEW
        note = f"torch-fidelity's Inception; {count:,} images, {self.source} of the reference"
        return note + "; too few to compare with published ones" * few


def distance_to(
    reference: Reference, real: FeatureStatistics | Moments, extractor: Extractor
) -> Distance:
    """An FID only where it is one, else named after its network.

    An FID is to the mu and sigma of a reference whose file has them, as ADM's evaluator has it.
    """
    source, few = f"{real.count:,} images", real.count < FEW
    if not real.count:  # which ADM's files do not tell
        source, few = IN_FILE, False
    if not (isinstance(extractor, InceptionNetwork) and extractor.is_official):
        prefix = f"{extractor.name} "
        return Distance(f"{prefix}distance", prefix, _to(real.gaussian()), source, few)
    if isinstance(reference, SampleFile) and (stored := reference.moments(extractor.width)):
        return Distance("FID", "", _to(Gaussian.of(*stored)), IN_FILE, False)
    return Distance("FID", "", _to(real.gaussian()), source, few)


def unpublished(reference: Reference | None, inception: InceptionNetwork | None) -> dict[str, Any]:
    """All of them blank, and why."""
    if reference is None:
        why = "no reference"
    elif inception is None:
        why = "no Inception weights at hand: inception=FILE or inception=download"
    elif isinstance(reference, StatisticsFile) and NETWORK not in reference.about.networks:
        why = "the reference has no statistics of the Inception network that defines it"
    else:
        why = f"{inception.name} is not the Inception network that defines it"
    return {**dict.fromkeys(NAMES), "fid_note": why, "inception_score_note": why}


def spatial_and_inception_score(
    samples: Seen, real: Seen | Known, reference: Reference, labels: NDArray[np.int64]
) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """The sFID (Nash et al. 2021), and the inception score as ADM has it and of shuffled images.

    Then their intervals: of the sFID of samples with labels (N,) where its features are kept.
    Of a reference whose file has mu and sigma but not mu_s and sigma_s there is no sFID: that of
    the images in the file would be another number.
    """
    scores, intervals = _inception_scores(samples.logits)
    if known := _spatial(real, reference):
        distance = _to(known)
        sfid, kept = distance(samples.spatial), samples.spatial_features
        if kept is not None and (ends := beyond_bias(kept, labels, distance, sfid)):
            intervals["sFID"] = ends
    else:
        sfid = None
    return {"sfid": sfid, **scores}, intervals


def _spatial(real: Seen | Known, reference: Reference) -> Gaussian | None:
    if isinstance(reference, SampleFile) and reference.has_moments:
        stored = reference.moments(SPATIAL_WIDTH, "mu_s", "sigma_s")
        return Gaussian.of(*stored) if stored else None
    return real.spatial.gaussian() if real.spatial else None


def _inception_scores(logits: Tensor) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """Of logits (N, C); where there are two blocks or more their interval is from these."""
    blocks, splits = math.ceil(len(logits) / ADM_BLOCK), min(SPLITS, len(logits))
    mean, deviation = adm_inception_score(logits)
    shuffled_mean, shuffled_deviation = inception_score(logits, splits, SEED)
    scores = {
        "inception_score": mean,
        "inception_score_shuffled": shuffled_mean,
        "inception_score_note": (
            f"contiguous blocks of {ADM_BLOCK:,} images, as ADM has it; shuffled: {splits} blocks, "
            f"numpy's RandomState({SEED}), as torch-fidelity has it; intervals are of sets of as "
            "many images, from the blocks"
        ),
    }
    ends = interval_of_blocks(shuffled_mean, shuffled_deviation, splits)
    intervals = {"shuffled inception score": ends._asdict()}
    if blocks > 1:
        intervals["inception score"] = interval_of_blocks(mean, deviation, blocks)._asdict()
    return scores, intervals


def _to(known: Gaussian) -> Callable[[FeatureStatistics], float]:
    return lambda found: found.gaussian().distance(known)
