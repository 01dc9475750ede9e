"""Statistics of a reference in one `.npz`: distances to it need its images no more.

Ours, which `python -m Metrics.reference_statistics` writes, tell all that they follow from. ADM's
have `mu sigma mu_s sigma_s` of the released Inception network and may have nothing else; in ours
its arrays are called so too, and those of another network have its name in front.
N images, D feature width.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar
from uuid import uuid4
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from Metrics.inception import NETWORK, OFFICIAL, SPATIAL_WIDTH, WIDTH
from Metrics.inception_metrics import Gaussian
from Metrics.seen import Extractor
from Network.config import UserError

FORMAT = 1
ABOUT, LABELS, FEATURES = "about", "labels", "features"
MOMENTS, SPATIAL = ("mu", "sigma"), ("mu_s", "sigma_s")
NO_IMAGES = "the reference has no images: no near training images, no spreads of the shapes"
NO_FEATURES = (
    "the reference has no features of its images: no KID, precision, recall, density and coverage, "
    "nor their intervals"
)
DAMAGE = (BadZipFile, EOFError, KeyError, OSError, TypeError, ValueError, zlib.error)


@dataclass(frozen=True)
class About:
    """What the statistics of a file follow from. Where it does not tell: 0, None or empty."""

    networks: dict[str, str]  # names, and how the sha256 of their weights begins
    name: str = ""  # of the images
    count: int = 0
    sha256: str = ""  # of their bytes as (N, H, W, 3)
    size: tuple[int, int] | None = None  # (H, W)
    transform: str | None = None
    split: str | None = None
    classes: Sequence[str] = ()
    unreadable: Mapping[str, str] | None = None
    versions: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Moments:
    """Mean (D,) and covariance (D, D), float64, of the features of `count` images; 0: not told."""

    count: int
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]

    def gaussian(self) -> Gaussian:
        """What a distance asks of them. Raises UserError for values that are not finite."""
        return Gaussian.of(self.mean, self.covariance)


class Named(Protocol):
    """What identifies a feature network."""

    @property
    def name(self) -> str:
        """As results call it, its kind first: KIND-VERSION."""
        ...

    @property
    def sha256(self) -> str:
        """Of its weights, or how that begins."""
        ...


T = TypeVar("T", bound=Named)


class Announced(NamedTuple):
    """A network whose weights are not loaded yet."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Known:
    """What a file has of a few networks, as `Metrics.seen` has it of images."""

    count: int
    sha256: str
    statistics: list[Moments]
    features: list[Tensor]  # (N, D) float32; (0, D) where the file has none
    spatial: Moments | None


class StatisticsFile:
    """A reference without images; `labels` (N,) int64, -1 unknown, index `classes`.

    Raises UserError for a file that is damaged or of another kind.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self.name = Path(path), str(path)
        self.about, self.labels = About({NETWORK: OFFICIAL}), np.empty(0, np.int64)  # ADM's
        names = self._names = array_names(self.path)
        if ABOUT in names:
            self.about, self.labels = self._read_about(), read_array(self.path, LABELS)
        elif not set(MOMENTS) <= names:
            raise UserError(f"{path} holds no statistics: it needs {' and '.join(MOMENTS)}.")
        else:
            self._moments("", MOMENTS, WIDTH)
        self.classes, self.split = self.about.classes, self.about.split

    def __len__(self) -> int:
        """Number of images N, 0 if the file does not tell."""
        return self.about.count

    def __bool__(self) -> bool:
        """It is a reference, whatever it tells of the number of its images."""
        return True

    @property
    def has_features(self) -> bool:
        """Whether it has the features of every image, for KID, precision and recall."""
        return FEATURES in {name.rpartition("/")[2] for name in self._names}

    def check_size(self, size: tuple[int, int]) -> None:
        """Raise UserError if it is known that the images had another size (H, W)."""
        if self.about.size not in (None, size):
            (height, width), (wanted_height, wanted_width) = self.about.size, size
            raise UserError(
                f"reference={self.path} has statistics of images of {height}x{width}, the samples "
                f"have {wanted_height}x{wanted_width}; make them of images of that size."
            )

    def knows(self, network: str, weights: str) -> bool:
        """Whether it has statistics of a network; `weights`: how their sha256 begins.

        Raises UserError for those of other weights of this kind: inception, dinov2, shapesnet.
        """
        for name, begins in self.about.networks.items():
            if name.partition("-")[0] == network.partition("-")[0]:
                length = min(len(begins), len(weights))
                if begins[:length] == weights[:length]:
                    return True
                raise UserError(
                    f"reference={self.path} has statistics of {name} (sha256 {begins[:8]}), the "
                    f"samples would be seen by {network} (sha256 {weights[:8]}): give the same "
                    "weights, or make the file again."
                )
        return False

    def known(self, networks: Sequence[T]) -> tuple[list[T], list[str]]:
        """Those of the networks that it `knows`, and what a record must tell of what is left out.

        Raises UserError as `knows`, and if it knows none of them.
        """
        known = [each for each in networks if self.knows(each.name, each.sha256)]
        if not known:
            raise UserError(
                f"reference={self.path} has statistics of {', '.join(self.about.networks)}, whose "
                "weights are not at hand: inception=FILE or dinov2=FILE name them, download "
                "fetches them."
            )
        notes = [NO_IMAGES, *([] if self.has_features else [NO_FEATURES])]
        unknown = [each.name for each in networks if each not in known]
        return known, notes + [f"the reference has no statistics of {name}" for name in unknown]

    def of(self, extractors: Sequence[Extractor]) -> Known:
        """What it has of networks that it `knows`. Raises UserError for arrays that do not fit."""
        known = [(_prefix(extractor.name), extractor.width) for extractor in extractors]
        has_spatial = "" in dict(known) and set(SPATIAL) <= self._names
        return Known(
            self.about.count,
            self.about.sha256,
            [self._moments(prefix, MOMENTS, width) for prefix, width in known],
            [self._features(prefix, width) for prefix, width in known],
            self._moments("", SPATIAL, SPATIAL_WIDTH) if has_spatial else None,
        )

    def facts(self) -> dict[str, Any]:
        """What a record tells of it; what the file does not tell is null."""
        about = self.about
        facts = {"name": self.name, "sha256": about.sha256 or None, "count": about.count or None}
        if not about.sha256:  # else they follow from the images
            facts["statistics_sha256"] = moments_sha256(self.path)
        facts |= {"of": about.name or None, "split": self.split, "transform": about.transform}
        size = [*about.size] if about.size else None
        return {**facts, "image_size": size, "unreadable": about.unreadable or {}}

    def _moments(self, prefix: str, names: tuple[str, str], width: int) -> Moments:
        mean, covariance = (read_array(self.path, prefix + name) for name in names)
        if mean.shape != (width,) or covariance.shape != (width, width):
            raise UserError(
                f"{self.path} has {names[0]} of shape {mean.shape} and {names[1]} of "
                f"{covariance.shape}, the features are {width} numbers; make the file again."
            )
        return Moments(self.about.count, mean, covariance)

    def _features(self, prefix: str, width: int) -> Tensor:
        if prefix + FEATURES not in self._names:
            return torch.empty(0, width)
        return torch.from_numpy(read_array(self.path, prefix + FEATURES))

    def _read_about(self) -> About:
        text = read_array(self.path, ABOUT)
        try:
            told = json.loads(text.item())
            version, size = told.pop("format"), tuple(told.pop("size"))
            about = About(**told, size=size) if version == FORMAT else None
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self.path} does not tell what it holds ({error}).") from None
        if about is None:
            raise UserError(
                f"{self.path} is of format {version}, this version reads {FORMAT}; make it again."
            )
        return about


def holds_statistics(path: str | Path) -> bool:
    """Whether an `.npz` is whole, and has statistics and no images."""
    try:
        names = array_names(Path(path))
    except UserError:  # which whoever reads it will tell
        return False
    return "arr_0" not in names and bool({ABOUT, *MOMENTS} & names)


def moments_sha256(path: Path) -> str:
    """Of the numbers of ADM's arrays in a file."""
    digest = hashlib.sha256()
    for name in sorted({*MOMENTS, *SPATIAL} & array_names(path)):
        digest.update(np.ascontiguousarray(read_array(path, name)).data)
    return digest.hexdigest()


def array_names(path: Path) -> set[str]:
    """Of the arrays of an `.npz`. Raises UserError for a file that is not there or damaged."""
    if not path.is_file():
        raise UserError(f"No such file: {path}.")
    try:
        with ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except DAMAGE as error:
        raise UserError(_damaged(path, error)) from None


def read_array(path: Path, name: str) -> NDArray[Any]:
    """An array of an `.npz`. Raises UserError for a damaged one, and for NaN and infinity in it."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            array = arrays[name]
    except DAMAGE as error:
        raise UserError(_damaged(path, error)) from None
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UserError(f"{path} has NaN or infinity in its {name}; copy it again or make it anew.")
    return array


def array_name(network: str, array: str) -> str:
    """What an array of a network is called in the file."""
    return _prefix(network) + array


def write_statistics(path: Path, about: About, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a file that is whole or not there; the same statistics give the same bytes."""
    text = json.dumps({"format": FORMAT, **asdict(about)})
    contents: dict[str, Any] = {ABOUT: np.array(text), **arrays}
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            np.savez(file, **contents)  # which gives no member a date
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _prefix(network: str) -> str:
    return "" if network == NETWORK else f"{network}/"


def _damaged(path: Path, error: Exception) -> str:
    return f"{path} is no whole .npz file ({error}): it was cut short or damaged; copy it again."
