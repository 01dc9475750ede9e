"""Weights -> a set of images, and a set of images -> numbers.

They compose: `sample_chunks` yields images, `evaluate` takes any iterable of images.
N images, B of a batch, H height, W width, D width of a feature.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from MaskGIL.config import require_at_least
from MaskGIL.data.crops import to_uint8
from MaskGIL.data.shapes import CLASSES
from MaskGIL.distributed import chunks
from MaskGIL.noise import random_bits
from MaskGIL.pipeline import Pipeline, image_seeds
from MaskGIL.sampling_keys import SamplingKeys
from Metrics.features import load_feature_network
from Metrics.inception import InceptionNetwork
from Metrics.inception_metrics import FeatureStatistics, distance, frechet_distance
from Metrics.ladder import draw_size, ladder
from Metrics.nearest import Reconstruct, near_training
from Metrics.oracle import class_of, objects_spread_ratio
from Metrics.reference import ImageSet, LabelledImages
from Metrics.samples import SampleFile
from Metrics.seen import Extractor, Seen
from Metrics.similarity import WINDOW
from Network.config import UserError, setting

FEW = 10_000  # images; an FID of fewer is larger, the more so the fewer they are


@dataclass(frozen=True)
class SampleConfig(SamplingKeys):
    """A set of samples and what it is scored against."""

    num_images: int = setting(50_000, "images of the set")
    out: str = setting(
        "samples.npz", "file of the set, never overwritten; its record: .json beside"
    )
    png: str = setting("", "new folder for the images as PNG files too; empty: none")
    chunk: int = setting(64, "images computed at once; part of the set: bytes depend on it")
    classes: tuple[str, ...] = setting(
        ("balanced",),
        "balanced: all classes equally often; data: as often as in the reference; or names and "
        "numbers, a,b, equally often",
    )
    reference: str = setting(
        "",
        "shapes (drawn, val), shapes:COUNT, folder with val/CLASS or images, or .npz; empty: none",
    )
    num_reference: int = setting(0, "images of the reference, spread evenly over it; 0: all")
    train: str = setting(
        "", "training images to look for copies of: shapes:8192 or a folder; empty: no look"
    )
    ladder: bool = setting(
        False, "also the distances of train, reconstructions and shuffled tokens; needs train"
    )
    classifier: bool = setting(
        False, "also how many samples a classifier trained on train gives their class; needs train"
    )
    inception: str = setting(
        "auto",
        "weights of the Inception network for the FID: a file; auto: what PyTorch's folder of "
        "downloads holds; download: fetched into it first; none: no FID",
    )
    nearest: str = setting(
        "", "PNG file, replaced: 16 samples, each above the nearest training image; needs train"
    )
    reconstruct: tuple[str, ...] = setting(
        (),
        "instead of samples: how well tokenizers redraw the reference, each a weights folder, a "
        "public name or NAME:FILE, a,b; out is a new .json, precision fp32 unless it is given",
    )
    image_size: int = setting(256, "reconstruct: side of the reference's centre crops in pixels")
    vgg: str = setting(
        "auto",
        "reconstruct: weights of the VGG-16 for LPIPS, as inception has them: a file, auto, "
        "download or none",
    )
    grid: str = setting(
        "", "reconstruct: PNG file, replaced: 16 images above what each tokenizer makes of them"
    )

    def __post_init__(self):
        super().__post_init__()
        require_at_least("num_images", self.num_images, 2)
        require_at_least("chunk", self.chunk, 1)
        require_at_least("num_reference", self.num_reference, 0)
        require_at_least("image_size", self.image_size, WINDOW)
        if self.reconstruct and (self.weights or not self.reference):
            raise UserError(
                "reconstruct redraws the images of reference=... and samples none: give a "
                "reference, and no weights."
            )
        if self.grid and not self.reconstruct:
            raise UserError("grid shows reconstructions: give reconstruct=... too.")
        if self.train and not self.reference:
            raise UserError("train needs a reference to tell what is near: give reference=... too.")
        for key in ("nearest", "ladder", "classifier"):
            if getattr(self, key) and not self.train:
                raise UserError(f"{key} needs the training images: give train=... too.")
        if self.inception not in ("auto", "none") and not self.reference:
            raise UserError("inception needs a reference: an FID is the distance to one.")


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
        indices = torch.arange(rows.start, rows.stop, device=pipe.device)
        known = torch.from_numpy(labels[rows.start : rows.stop]).to(pipe.device)
        tokens = pipe.sample_tokens(known, image_seeds(seed, indices))
        yield rows.start, to_uint8(pipe.pixels(tokens))


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
    samples = Seen(images, len(labels), extractors, draw=draw, objects=shapes, thumbnails=near)
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
            result |= _fid(found, expected, reference, extractor.width)
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
        seen = {name: Seen(each, len(each), extractors, draw=draw) for name, each in rungs.items()}
        metrics |= _ladders(extractors, {**seen, "samples": samples}, real)
    return result


def _ladders(
    extractors: Sequence[Extractor], seen: Mapping[str, Seen], real: Seen
) -> dict[str, dict[str, Any]]:
    """The ladder of each network, by its name."""
    ladders = {}
    for number, (extractor, whole) in enumerate(zip(extractors, real.statistics)):
        draws = {name: each.draws[number] for name, each in seen.items()}
        ladders[f"{extractor.name} ladder"] = ladder(draws, whole)
    return ladders


def _why_no_fid(reference: ImageSet | None, inception: InceptionNetwork | None) -> str:
    if reference is None:
        return "no reference"
    if inception is None:
        return "no Inception weights at hand: inception=FILE or inception=download"
    return f"{inception.name} is not the Inception network that defines it"


def _fid(
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
