"""Weights -> a set of images, and a set of images -> numbers.

They compose: `sample_chunks` yields images, `evaluate` takes any iterable of images.
N images, B of a batch, H height, W width, D width of a feature.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from Metrics.features import load_feature_network
from Metrics.inception import InceptionNetwork
from Metrics.inception_metrics import FeatureStatistics, distance, frechet_distance
from Metrics.ladder import draw_size, ladder
from Metrics.nearest import Reconstruct, near_training
from Metrics.oracle import class_of, objects_spread_ratio
from Metrics.reference import ImageSet, LabelledImages
from Metrics.samples import SampleFile
from Metrics.seen import DRAWS, Extractor, Seen, in_draws
from Network.config import UserError

FEW = 10_000  # images; an FID of fewer is larger, the more so the fewer they are


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
) -> dict[str, Any]:
    """Score images (B, 3, H, W) uint8 with labels (N,); a dict that JSON holds.

    "metrics" has the distance of `Metrics.features` to the reference; for the `classes` of the
    shapes what the oracle reads; with `train` how many images are near to a training image,
    those and the reference seen through `reconstruct` where it is given (`Metrics.nearest`); with
    `rungs` their distances in draws (`Metrics.ladder`). "fid" has the FID if `inception` is the
    released network. All but that is computed on the CPU, so that the numbers do not depend on the
    device.
    """
    extractors: list[Extractor] = [load_feature_network(), *([inception] if inception else [])]
    shapes, near = tuple(classes) == CLASSES, train is not None
    draw = draw_size([len(labels), *map(len, rungs.values())]) if rungs else 0
    parts = in_draws(len(labels), draw)
    samples = Seen(images, len(labels), extractors, part_of=parts, objects=shapes, thumbnails=near)
    metrics: dict[str, Any] = {}
    result = {
        "num_images": samples.count,
        "sha256": samples.sha256,
        "features": {extractor.name: extractor.sha256 for extractor in extractors},
        "reference": None,
        "metrics": metrics,
        "fid": None,
        "fid_note": _why_no_fid(reference, inception),
    }
    if shapes:
        read = [class_of(objects) for objects in samples.objects]
        metrics["class accuracy"] = float(np.mean(read == labels))
    if reference is None:
        return result
    count = len(reference)
    real = Seen(reference, count, extractors, reconstruct, objects=shapes, thumbnails=near)
    facts = {"name": reference.name, "sha256": real.sha256, "count": count}
    result["reference"] = {**facts, "unreadable": dict(reference.unreadable)}
    for extractor, found, expected in zip(extractors, samples.statistics, real.statistics):
        if isinstance(extractor, InceptionNetwork) and extractor.is_official:
            result |= fid(found, expected, reference, extractor.width)
        else:
            metrics[f"{extractor.name} distance"] = distance(found, expected)
    if shapes and _has_shapes_labels(reference):
        ratios = objects_spread_ratio(samples.objects, labels, real.objects, reference.labels)
        for name, ratio in ratios.items():
            metrics[f"spread of {name}"] = None if math.isnan(ratio) else ratio
    if train is not None:
        found = near_training(samples.thumbnails, real.thumbnails, train, reconstruct)
        shown = samples.kept[: len(found["nearest"])].tolist()
        metrics["near training images"] = {**found, "shown": shown}
    if rungs:
        metrics |= _ladders(extractors, rungs, samples, real, draw)
    return result


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


def _why_no_fid(reference: ImageSet | None, inception: InceptionNetwork | None) -> str:
    if reference is None:
        return "no reference"
    if inception is None:
        return "no Inception weights at hand: inception=FILE or inception=download"
    return f"{inception.name} is not the Inception network that defines it"


def fid(
    samples: FeatureStatistics, real: FeatureStatistics, reference: ImageSet, width: int
) -> dict[str, Any]:
    """The FID, and of how many images it is."""
    moments = reference.moments(width) if isinstance(reference, SampleFile) else None
    mean, covariance = moments or (real.mean, real.covariance)
    source = "mu and sigma in the file" if moments else f"{real.count:,} images"
    few = min(samples.count, FEW if moments else real.count) < FEW
    note = f"torch-fidelity's Inception; {samples.count:,} images, {source} of the reference"
    return {
        "fid": frechet_distance(samples.mean, samples.covariance, mean, covariance),
        "fid_note": note + "; too few to compare with published ones" * few,
    }


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
