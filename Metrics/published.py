"""The numbers that others publish, by the released Inception network alone: FID, sFID, IS.

Where that is not at hand they are blank, and the record says why.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from Metrics.inception import SPATIAL_WIDTH, InceptionNetwork
from Metrics.inception_metrics import FeatureStatistics, distance, frechet_distance
from Metrics.inception_score import ADM_BLOCK, SEED, adm_inception_score, inception_score
from Metrics.reference import ImageSet
from Metrics.samples import SampleFile
from Metrics.seen import Extractor, Seen

NAMES = ("fid", "sfid", "inception_score", "inception_score_shuffled")
NOTES = ("fid_note", "inception_score_note")
FEW = 10_000  # images; an FID of fewer is larger, the more so the fewer they are
SPLITS = 10  # blocks of shuffled images


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


def distance_to(reference: ImageSet, real: FeatureStatistics, extractor: Extractor) -> Distance:
    """An FID only where it is one, else named after its network.

    An FID is to the mu and sigma of a reference whose file has them, as ADM's evaluator has it.
    """
    source, few = f"{real.count:,} images", real.count < FEW
    if not (isinstance(extractor, InceptionNetwork) and extractor.is_official):
        prefix = f"{extractor.name} "
        of = partial(distance, second=real)
        return Distance(f"{prefix}distance", prefix, of, source, few)
    mean, covariance = real.mean, real.covariance
    if isinstance(reference, SampleFile) and (stored := reference.moments(extractor.width)):
        (mean, covariance), source, few = stored, "mu and sigma in the file", False
    return Distance(
        "FID",
        "",
        lambda found: frechet_distance(found.mean, found.covariance, mean, covariance),
        source,
        few,
    )


def unpublished(reference: ImageSet | None, inception: InceptionNetwork | None) -> dict[str, Any]:
    """All of them blank, and why."""
    if reference is None:
        why = "no reference"
    elif inception is None:
        why = "no Inception weights at hand: inception=FILE or inception=download"
    else:
        why = f"{inception.name} is not the Inception network that defines it"
    return {**dict.fromkeys(NAMES), "fid_note": why, "inception_score_note": why}


def spatial_and_inception_score(samples: Seen, real: Seen, reference: ImageSet) -> dict[str, Any]:
    """The sFID (Nash et al. 2021), and the inception score as ADM has it and of shuffled images.

    Of a reference whose file has mu and sigma but not mu_s and sigma_s there is no sFID: that of
    the images in the file would be another number.
    """
    found, known = samples.spatial, (real.spatial.mean, real.spatial.covariance)
    if isinstance(reference, SampleFile) and reference.has_moments:
        known = reference.moments(SPATIAL_WIDTH, "mu_s", "sigma_s")
    splits = min(SPLITS, samples.count)
    return {
        "sfid": frechet_distance(found.mean, found.covariance, *known) if known else None,
        "inception_score": adm_inception_score(samples.logits)[0],
        "inception_score_shuffled": inception_score(samples.logits, splits, SEED)[0],
        "inception_score_note": (
            f"contiguous blocks of {ADM_BLOCK:,} images, as ADM has it; shuffled: {splits} blocks, "
            f"numpy's RandomState({SEED}), as torch-fidelity has it"
        ),
    }
