"""Weights -> a set of images, and a set of images -> numbers.

They compose: `sample_chunks` yields images, `evaluate` takes any iterable of images.
N images, B of a batch, H height, W width, D width of a feature.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from MaskGIL.config import require_at_least
from MaskGIL.data.crops import to_float, to_uint8
from MaskGIL.data.shapes import CLASSES, Object
from MaskGIL.distributed import chunks
from MaskGIL.noise import random_bits
from MaskGIL.pipeline import Pipeline, image_seeds
from MaskGIL.sampling import SamplingKeys
from Metrics.features import FeatureNetwork, load_feature_network
from Metrics.inception_metrics import FeatureStatistics, frechet_distance
from Metrics.nearest import Reconstruct, near_training, thumbnails
from Metrics.oracle import class_of, objects_spread_ratio, read_objects
from Metrics.reference import ImageSet
from Network.config import UserError, setting

NO_FID = (
    "The FID is defined by the Inception network of 2015, which is not part of this version; "
    "no other network stands in for it."
)


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
    nearest: str = setting(
        "", "PNG file of 16 samples, each above the nearest training image; needs train"
    )

    def __post_init__(self):
        super().__post_init__()
        require_at_least("num_images", self.num_images, 2)
        require_at_least("chunk", self.chunk, 1)
        require_at_least("num_reference", self.num_reference, 0)
        if self.train and not self.reference:
            raise UserError("train needs a reference to tell what is near: give reference=... too.")
        if self.nearest and not self.train:
            raise UserError("nearest needs the training images: give train=... too.")
        if self.ladder and not self.train:
            raise UserError("ladder needs the training images: give train=... too.")


def choose_labels(
    pipe: Pipeline,
    classes: Sequence[str],
    num_images: int,
    seed: int,
    reference: ImageSet | None = None,
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


@torch.no_grad()
def reconstructed(pipe: Pipeline, images: Tensor, chunk: int) -> Tensor:
    """Images (B, 3, H, W) uint8 as the tokenizer of `pipe` draws them: encoded and decoded.

    In pieces of `chunk` images, as samples are: it takes no more memory than they do.
    """
    tokens = (pipe.tokenizer.encode(to_float(part.to(pipe.device))) for part in images.split(chunk))
    return torch.cat([to_uint8(pipe.pixels(part)).cpu() for part in tokens])


@torch.no_grad()
def shuffled(pipe: Pipeline, images: Tensor, chunk: int) -> Tensor:
    """Images (B, 3, H, W) uint8 with their tokens in another order: the same for every image."""
    drawn = []
    for part in images.split(chunk):
        tokens = pipe.tokenizer.encode(to_float(part.to(pipe.device)))  # (B, h, w)
        places = torch.arange(tokens[0].numel(), device=pipe.device)
        order = random_bits(torch.zeros_like(places), "order", 0, places).argsort(stable=True)
        tokens = tokens.flatten(1)[:, order].view_as(tokens)
        drawn.append(to_uint8(pipe.pixels(tokens)).cpu())
    return torch.cat(drawn)


def evaluate(
    images: Iterable[Tensor],
    labels: NDArray[np.int64],
    reference: ImageSet | None = None,
    *,
    classes: Sequence[str] = (),
    train: Iterable[Tensor] | None = None,
    reconstruct: Reconstruct | None = None,
) -> dict[str, Any]:
    """Score images (B, 3, H, W) uint8 with labels (N,); a dict that JSON holds.

    "metrics" has the distance of `Metrics.features` to the reference; for the `classes` of the
    shapes what the oracle reads; and with `train` how many images are near to a training image,
    those and the reference seen through `reconstruct` where it is given (`Metrics.nearest`).
    Everything else is computed on the CPU, so that the numbers do not depend on the device.
    """
    network, shapes = load_feature_network(), tuple(classes) == CLASSES
    near = train is not None
    samples = _Seen(images, network, objects=shapes, thumbnails=near)
    assert samples.count == len(labels), f"{samples.count} images, {len(labels)} labels"
    metrics: dict[str, Any] = {}
    result = {
        "num_images": samples.count,
        "sha256": samples.sha256,
        "features": {"name": network.name, "sha256": network.sha256},
        "reference": None,
        "metrics": metrics,
        "fid": None,
        "fid_note": NO_FID,
    }
    if shapes:
        read = [class_of(objects) for objects in samples.objects]
        metrics["class accuracy"] = float(np.mean(read == labels))
    if reference is not None:
        real = _Seen(reference, network, reconstruct, objects=shapes, thumbnails=near)
        result["reference"] = {"name": reference.name, "sha256": real.sha256, "count": real.count}
        metrics[f"{network.name} distance"] = frechet_distance(
            samples.statistics.mean,
            samples.statistics.covariance,
            real.statistics.mean,
            real.statistics.covariance,
        )
        if shapes and _has_shapes_labels(reference):
            ratios = objects_spread_ratio(samples.objects, labels, real.objects, reference.labels)
            for name, ratio in ratios.items():
                metrics[f"spread of {name}"] = None if math.isnan(ratio) else ratio
        if train is not None:
            metrics["near training images"] = near_training(
                samples.thumbnails, real.thumbnails, train, reconstruct
            )
    return result


class _Seen:
    """All that is remembered of images which pass by once."""

    def __init__(
        self,
        images: Iterable[Tensor],
        network: FeatureNetwork,
        reconstruct: Reconstruct | None = None,
        *,
        objects: bool,
        thumbnails: bool,
    ) -> None:
        self.statistics = FeatureStatistics()
        self.objects: list[list[Object]] = []
        self._thumbnails: list[Tensor] = []
        self._network, self._reconstruct = network, reconstruct
        self._looks = objects, thumbnails
        self._digest = hashlib.sha256()
        for batch in images:
            self._add(batch.cpu())

    @property
    def count(self) -> int:
        """Number of images."""
        return self.statistics.count

    @property
    def sha256(self) -> str:
        """Of the bytes of all images as (N, H, W, 3)."""
        return self._digest.hexdigest()

    @property
    def thumbnails(self) -> Tensor:
        """(N, D)."""
        return torch.cat(self._thumbnails)

    @torch.inference_mode()
    def _add(self, images: Tensor) -> None:
        pixels = images.permute(0, 2, 3, 1).contiguous()  # (B, H, W, 3)
        self._digest.update(pixels.numpy().tobytes())
        self.statistics.update(self._network(images))
        objects, small = self._looks
        if objects:
            self.objects += read_objects(pixels)
        if small:
            self._thumbnails.append(thumbnails(images, self._reconstruct))


def _has_shapes_labels(reference: ImageSet) -> bool:
    return tuple(reference.classes) in ((), CLASSES) and bool((reference.labels >= 0).all())


def _data_shares(pipe: Pipeline, num_images: int, reference: ImageSet | None) -> NDArray[np.int64]:
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
