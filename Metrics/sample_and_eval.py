"""Weights -> a set of images, and a set of images -> numbers.

They compose: `sample_chunks` yields images, `evaluate` takes any iterable of images.
N images, B of a batch, H height, W width, D width of a feature.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from MaskGIL.data.crops import to_uint8
from MaskGIL.data.shapes import CLASSES
from MaskGIL.distributed import chunks
from MaskGIL.pipeline import Pipeline, image_seeds
from MaskGIL.prompting import Texts
from Metrics.clip_score import ClipScorer
from Metrics.conditions import Conditions, take
from Metrics.dinov2 import Dinov2Network
from Metrics.feature_scores import FEWEST, feature_scores
from Metrics.features import load_feature_network
from Metrics.geometry import resized
from Metrics.inception import InceptionNetwork
from Metrics.inception_score import follows_classes
from Metrics.ladder import draw_size, ladder
from Metrics.nearest import Reconstruct, near_training
from Metrics.oracle import class_of, objects_spread_ratio
from Metrics.prompted import Prompted
from Metrics.published import (
    FEW,
    distance_to,
    spatial_and_inception_score,
    unpublished,
)
from Metrics.reference import ImageSet, LabelledImages, Pictures, Reference, reference_facts
from Metrics.seen import DRAWS, Extractor, Seen, in_draws
from Metrics.statistics_file import Known, StatisticsFile
from Network.config import UserError

FEW_SAMPLES = (
    f"fewer than {FEW:,} samples: distances are larger, and an inception score is smaller, than of "
    "more; compare sets of one size, or extrapolated distances"
)
TOO_FEW = (
    f"fewer than {FEWEST} samples or reference images: no KID, precision, recall, density, "
    "coverage and intervals"
)
SORTED = (
    "the samples are sorted by class: the inception score of contiguous blocks is far too small; "
    "read that of shuffled images"
)
LOSSY = (
    "the reference holds JPEG files: unless they are larger than the samples, what JPEG does to an "
    "image counts as a difference; PNG files and .npz have none of it"
)


def sample_chunks(
    pipe: Pipeline, conditions: Conditions, seed: int, chunk: int
) -> Iterator[tuple[int, Tensor]]:
    """This rank's share of the set of N conditions: (number of the first, images), uint8.

    Images (B, 3, H, W) uint8 come in the same chunks for any number of ranks, because the rounding
    of a matrix product, and so a token, may depend on the batch.
    """
    for rows in chunks(len(conditions), chunk):
        yield rows.start, sample_rows(pipe, conditions, seed, rows)


def sample_rows(
    pipe: Pipeline,
    conditions: Conditions,
    seed: int,
    rows: range,
    grid: tuple[int, int] | None = None,
    resize: int = 0,
    null: Texts | None = None,
) -> Tensor:
    """Images (B, 3, H, W) uint8, on the device, of some rows of the set of N conditions.

    Drawn on a `grid` (h, w) of tokens, that of the weights by default, and with `resize` brought to
    this side (`Metrics.geometry`). Guidance leads away from `null`, as many, or from the null
    condition. Raises UserError for pixels that are not finite.
    """
    indices = torch.arange(rows.start, rows.stop, device=pipe.device)
    condition = take(conditions, rows, pipe.device)
    away = null[rows.start : rows.stop] if null else None
    tokens = pipe.sample_tokens(condition, image_seeds(seed, indices), grid=grid, null=away)
    images = pipe.pixels(tokens, clamp=False)
    finite = images.isfinite().flatten(1).all(1)  # (B,)
    if not finite.all():
        image = rows[int(finite.int().argmin())]
        raise UserError(
            f"Image {image} of seed={seed} has pixels that are not finite: look at the tokenizer's "
            "weights, or try precision=fp32."
        )
    if resize:
        images = resized(images, resize)
    return to_uint8(images)


class Evaluation:
    """What is asked of images with labels (N,): all ranks look at them, the main one scores.

    The result has in "metrics" the distance of `Metrics.features` to the reference; for the
    `classes` of the shapes what the oracle reads; with `train` how many images are near to a
    training image, those and the reference seen through `reconstruct` where it is given
    (`Metrics.nearest`); with `rungs` their distances in draws (`Metrics.ladder`); with
    `precision_recall` the scores and "intervals" of `Metrics.feature_scores`, by `inception`, else
    by `dinov2`, else by our own network; with `prompted` what samples of captions are asked. "fid",
    "sfid" and "inception_score" have numbers if `inception` is the released network. Of a reference
    without images there is what its file knows, and "notes" tell what is left out. All but features
    is computed on the CPU, so that the numbers do not depend on the device. `real` are the images
    of the reference in batches, where somebody counts them.
    """

    def __init__(
        self,
        labels: NDArray[np.int64],
        reference: Reference | None = None,
        *,
        classes: Sequence[str] = (),
        train: Iterable[Tensor] | None = None,
        reconstruct: Reconstruct | None = None,
        inception: InceptionNetwork | None = None,
        dinov2: Dinov2Network | None = None,
        rungs: Mapping[str, LabelledImages] | None = None,
        prompted: Prompted | None = None,
        precision_recall: bool = True,
        real: Iterable[Tensor] | None = None,
    ) -> None:
        self._labels, self._reference, self._train = labels, reference, train
        self._real, self._prompted = real, prompted
        self._reconstruct, self._inception, self._rungs = reconstruct, inception, rungs or {}
        self._shapes = tuple(classes) == CLASSES
        counts = [len(labels), *map(len, self._rungs.values())]
        self._draw = draw_size(counts) if rungs else 0
        extractors: list[Extractor] = [load_feature_network()]
        extractors += [network for network in (dinov2, inception) if network]
        keeps, self._left_out = precision_recall and reference is not None, []
        if isinstance(reference, StatisticsFile):
            extractors, self._left_out = reference.known(extractors)
        self.extractors = extractors
        self._seen = partial(
            Seen,
            extractors=extractors,
            objects=self._shapes,
            thumbnails=train is not None,
            features=keeps,
            spatial=inception in extractors and inception.is_official,
        )

    def look(self, images: Iterable[Tensor], pieces: Sequence[range] | None = None) -> Seen:
        """See images (B, 3, H, W) uint8: all, or of this rank the `pieces`, the rows of a batch."""
        count, asked = len(self._labels), self._prompted
        return self._seen(
            images,
            count,
            pieces=pieces,
            part_of=in_draws(count, self._draw),
            questions=asked.questions if asked else None,
        )

    @property
    def evaluators(self) -> list[Extractor | ClipScorer]:
        """All networks that look at the samples."""
        clip = self._prompted and self._prompted.clip
        return [*self.extractors, *([clip] if clip else [])]

    def score(self, samples: Seen, sha256: str) -> dict[str, Any]:
        """The scores of images of this hash; a dict that JSON holds."""
        reference = self._reference
        result = _unscored(samples, sha256, self.extractors)
        result |= unpublished(reference, self._inception)
        if self._shapes:
            read = [class_of(objects) for objects in samples.objects]
            result["metrics"]["class accuracy"] = float(np.mean(read == self._labels))
        if reference is not None:
            self._set_beside(result, samples, reference)
        if self._prompted:
            for part, added in self._prompted.score(samples.answers).items():
                result.setdefault(part, {}).update(added)
        return result

    def _set_beside(self, result: dict[str, Any], samples: Seen, reference: Reference) -> None:
        """Add what the samples are beside the reference."""
        labels, extractors = self._labels, self.extractors
        if isinstance(reference, StatisticsFile):
            real = reference.of(extractors)
            result["reference"] = reference.facts()
            _compare(result, extractors, samples, real, labels, reference)
            result["notes"] += self._left_out
            return
        images = reference if self._real is None else self._real
        real = self._seen(images, len(reference), reconstruct=self._reconstruct)
        result["reference"] = reference_facts(reference, real.sha256)
        _compare(result, extractors, samples, real, labels, reference)
        self._compare_images(result["metrics"], samples, real, reference)
        if self._rungs:
            result["metrics"] |= _ladders(extractors, self._rungs, samples, real, self._draw)

    def _compare_images(
        self, metrics: dict[str, Any], samples: Seen, real: Seen, reference: ImageSet
    ) -> None:
        """Add what is seen in the images themselves."""
        if self._shapes and _has_shapes_labels(reference):
            ratios = objects_spread_ratio(
                samples.objects, self._labels, real.objects, reference.labels
            )
            for name, ratio in ratios.items():
                metrics[f"spread of {name}"] = None if math.isnan(ratio) else ratio
        if self._train is not None:
            thumbnails = samples.thumbnails, real.thumbnails
            found = near_training(*thumbnails, self._train, self._reconstruct)
            shown = samples.kept[: len(found["nearest"])].tolist()
            metrics["near training images"] = {**found, "shown": shown}


def evaluate(
    images: Iterable[Tensor],
    labels: NDArray[np.int64],
    reference: Reference | None = None,
    **asked: Any,
) -> dict[str, Any]:
    """Score images (B, 3, H, W) uint8 with labels (N,), by one process, as `Evaluation` has it."""
    evaluation = Evaluation(labels, reference, **asked)
    samples = evaluation.look(images)
    return evaluation.score(samples, samples.sha256)


def _unscored(samples: Seen, sha256: str, extractors: Sequence[Extractor]) -> dict[str, Any]:
    """The scores of a set of which nothing is known but what it is."""
    return {
        "num_images": samples.count,
        "sha256": sha256,
        "features": {extractor.name: extractor.sha256 for extractor in extractors},
        "reference": None,
        "metrics": {},
        "intervals": {},
        "how": {},
        "notes": [],
    }


def _compare(
    result: dict[str, Any],
    extractors: Sequence[Extractor],
    samples: Seen,
    real: Seen | Known,
    labels: NDArray[np.int64],
    reference: Reference,
) -> None:
    """Add to the result what the features of both sets tell of each other."""
    metrics, notes = result["metrics"], result["notes"]
    distances = [
        distance_to(reference, seen, network) for network, seen in zip(extractors, real.statistics)
    ]
    values = [distance.of(seen) for distance, seen in zip(distances, samples.statistics)]
    for distance, value in zip(distances, values):
        if distance.is_fid:
            result |= {"fid": value, "fid_note": distance.note(samples.count)}
            scores, result["intervals"] = spatial_and_inception_score(
                samples, real, reference, labels
            )
            result |= scores
        else:
            metrics[distance.name] = value
    if samples.count < FEW:
        notes.append(FEW_SAMPLES)
    if result["inception_score"] is not None:
        are_unknown = bool((labels < 0).all())  # those of images that others have made
        classes = samples.logits.argmax(1).numpy() if are_unknown else labels
        notes += [SORTED] * follows_classes(classes)
    if isinstance(reference, Pictures) and reference.are_lossy:
        notes.append(LOSSY)
    features = real.features[-1], samples.features[-1]  # of the Inception network, if any
    if not len(features[1]):
        return
    if min(len(rows) for rows in features if len(rows)) < FEWEST:
        notes.append(TOO_FEW)
    else:
        scores = feature_scores(*features, labels, distances[-1], values[-1])
        metrics |= scores["metrics"]
        result["intervals"] |= scores["intervals"]
        result["how"] |= scores["how"]


def _ladders(
    extractors: Sequence[Extractor],
    rungs: Mapping[str, LabelledImages],
    samples: Seen,
    real: Seen,
    draw: int,
) -> dict[str, dict[str, Any]]:
    """The ladder of each network, by its name, of draws of so many images."""
    seen = {"samples": samples}
    for name, images in rungs.items():
        parts = in_draws(len(images), draw)
        seen[name] = Seen(images, len(images), extractors, part_of=parts)
    ladders = {}
    for number, (extractor, whole) in enumerate(zip(extractors, real.statistics)):
        draws = {name: each.parts[number][:DRAWS] for name, each in seen.items()}
        ladders[f"{extractor.name} ladder"] = ladder(draws, whole)
    return ladders


def _has_shapes_labels(reference: ImageSet) -> bool:
    return tuple(reference.classes) in ((), CLASSES) and bool((reference.labels >= 0).all())
