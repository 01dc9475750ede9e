"""Weights -> a set of images, and a set of images -> numbers.

They compose: `sample_chunks` yields images, `evaluate` takes any iterable of images.
N images, B of a batch, H height, W width, D width of a feature.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from MaskGIL.data.crops import to_uint8
from MaskGIL.data.shapes import CLASSES
from MaskGIL.distributed import chunks
from MaskGIL.noise import random_bits
from MaskGIL.pipeline import Pipeline, image_seeds
from Metrics.feature_scores import FEWEST, feature_scores
from Metrics.features import load_feature_network
from Metrics.inception import InceptionNetwork
from Metrics.inception_score import follows_classes
from Metrics.ladder import draw_size, ladder
from Metrics.nearest import Reconstruct, near_training
from Metrics.oracle import class_of, objects_spread_ratio
from Metrics.published import (
    FEW,
    distance_to,
    spatial_and_inception_score,
    unpublished,
)
from Metrics.reference import ImageSet, LabelledImages
from Metrics.seen import DRAWS, Extractor, Seen, in_draws
from Network.config import UserError

FEW_SAMPLES = (
    f"fewer than {FEW:,} samples: distances are larger than of more; compare sets of one size, or "
    "extrapolated distances"
)
TOO_FEW = (
    f"fewer than {FEWEST} samples or reference images: no KID, precision, recall, density, "
    "coverage and intervals"
)
SORTED = (
    "the samples are sorted by class: the inception score of contiguous blocks is far too small; "
    "read that of shuffled images"
)


class Classed(Protocol):
    """Images of classes, as far as these are concerned: `labels` (N,) int64 index `classes`."""

    labels: NDArray[np.int64]
    classes: Sequence[str]

    def __len__(self) -> int:
        """Number of images N."""
        ...


def choose_labels(
    pipe: Pipeline,
    classes: Sequence[str],
    num_images: int,
    seed: int,
    reference: Classed | None = None,
) -> NDArray[np.int64]:
    """Labels (N,) of a set: exact counts, in an order that follows from the seed.

    `classes` as in `SampleConfig`; what does not divide evenly goes to the first classes. Raises
    UserError for an unknown class, and for "data" without a reference of the same classes.
    """
    num_classes = pipe.network.config.num_classes
    if tuple(classes) == ("data",):
        labels = np.repeat(np.arange(num_classes), _data_shares(pipe, num_images, reference))
    else:
        choice = np.arange(max(1, num_classes))  # without classes 0 is the null label
        if tuple(classes) != ("balanced",):
            if not classes:
                raise UserError("classes is empty; use classes=balanced or name some.")
            choice = pipe.labels(list(classes)).cpu().numpy()
        labels = choice[np.arange(num_images) % len(choice)]
    order = random_bits(torch.tensor(seed), "order", 0, torch.arange(num_images))
    return labels[order.argsort(stable=True).numpy()]


def sample_chunks(
    pipe: Pipeline, labels: NDArray[np.int64], seed: int, chunk: int
) -> Iterator[tuple[int, Tensor]]:
    """This rank's share of the set with labels (N,): (number of the first, images), uint8.

    Images (B, 3, H, W) come in the same chunks for any number of ranks, because the rounding of a
    matrix product, and so a token, may depend on the batch.
    """
    for rows in chunks(len(labels), chunk):
        yield rows.start, sample_rows(pipe, labels, seed, rows)


def sample_rows(pipe: Pipeline, labels: NDArray[np.int64], seed: int, rows: range) -> Tensor:
    """Images (B, 3, H, W) uint8, on the device, of some rows of the set with labels (N,)."""
    indices = torch.arange(rows.start, rows.stop, device=pipe.device)
    known = torch.from_numpy(labels[rows.start : rows.stop]).to(pipe.device)
    return to_uint8(pipe.pixels(pipe.sample_tokens(known, image_seeds(seed, indices))))


def evaluate(
    images: Iterable[Tensor],
    labels: NDArray[np.int64],
    reference: ImageSet | None = None,
    *,
    classes: Sequence[str] = (),
    train: Iterable[Tensor] | None = None,
    reconstruct: Reconstruct | None = None,
    inception: InceptionNetwork | None = None,
    rungs: Mapping[str, LabelledImages] | None = None,
    precision_recall: bool = True,
) -> dict[str, Any]:
    """Score images (B, 3, H, W) uint8 with labels (N,); a dict that JSON holds.

    "metrics" has the distance of `Metrics.features` to the reference; for the `classes` of the
    shapes what the oracle reads; with `train` how many images are near to a training image,
    those and the reference seen through `reconstruct` where it is given (`Metrics.nearest`); with
    `rungs` their distances in draws (`Metrics.ladder`); with `precision_recall` the scores and
    "intervals" of `Metrics.feature_scores`, by `inception` or else by our own network. "fid",
    "sfid" and "inception_score" have numbers if `inception` is the released network. All but its
    features is computed on the CPU, so that the numbers do not depend on the device.
    """
    extractors: list[Extractor] = [load_feature_network(), *([inception] if inception else [])]
    shapes, near = tuple(classes) == CLASSES, train is not None
    draw = draw_size([len(labels), *map(len, rungs.values())]) if rungs else 0
    look = partial(
        Seen,
        extractors=extractors,
        objects=shapes,
        thumbnails=near,
        features=precision_recall and reference is not None,
        spatial=inception is not None and inception.is_official,
    )
    samples = look(images, len(labels), part_of=in_draws(len(labels), draw))
    result = _unscored(samples, extractors) | unpublished(reference, inception)
    metrics = result["metrics"]
    if shapes:
        read = [class_of(objects) for objects in samples.objects]
        metrics["class accuracy"] = float(np.mean(read == labels))
    if reference is None:
        return result
    real = look(reference, len(reference), reconstruct=reconstruct)
    facts = {"name": reference.name, "sha256": real.sha256, "count": len(reference)}
    result["reference"] = {**facts, "unreadable": dict(reference.unreadable)}
    _compare(result, extractors, samples, real, labels, reference)
    if shapes and _has_shapes_labels(reference):
        ratios = objects_spread_ratio(samples.objects, labels, real.objects, reference.labels)
        spreads = {f"spread of {name}": ratio for name, ratio in ratios.items()}
        metrics |= {name: None if math.isnan(ratio) else ratio for name, ratio in spreads.items()}
    if train is not None:
        found = near_training(samples.thumbnails, real.thumbnails, train, reconstruct)
        shown = samples.kept[: len(found["nearest"])].tolist()
        metrics["near training images"] = {**found, "shown": shown}
    if rungs:
        metrics |= _ladders(extractors, rungs, samples, real, draw)
    return result


def _unscored(samples: Seen, extractors: Sequence[Extractor]) -> dict[str, Any]:
    """The scores of a set of which nothing is known but what it is."""
    return {
        "num_images": samples.count,
        "sha256": samples.sha256,
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
    real: Seen,
    labels: NDArray[np.int64],
    reference: ImageSet,
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
    if result["inception_score"] is not None and follows_classes(labels):
        notes.append(SORTED)
    features = real.features[-1], samples.features[-1]  # of the Inception network, if any
    if 0 < min(map(len, features)) < FEWEST:
        notes.append(TOO_FEW)
    elif len(features[0]) > 0:
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


def _data_shares(pipe: Pipeline, num_images: int, reference: Classed | None) -> NDArray[np.int64]:
    """Images of each class: the proportions of the reference, rounded by largest remainder."""
    num_classes = pipe.network.config.num_classes
    fits = (
        reference is not None
        and list(reference.classes) in ([], pipe.classes)
        and all(0 <= label < num_classes for label in set(reference.labels.tolist()))
    )
    if reference is None or not fits:
        raise UserError(
            "classes=data takes the shares of the classes from the reference: give a reference "
            "with labels of the same classes as the weights, or use classes=balanced."
        )
    exact = np.bincount(reference.labels, minlength=num_classes) * num_images
    shares, rest = np.divmod(exact, len(reference))
    shares[np.argsort(-rest, kind="stable")[: num_images - shares.sum()]] += 1
    return shares
