"""What samples are compared with: drawn pictures, a folder of them, another set of samples.

Every one is an `ImageSet`: labelled images of one size, read in batches as often as asked. A
`StatisticsFile` stands in for the images where only distances to them are wanted.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from MaskGIL.config import DataConfig
from MaskGIL.data import Images, Split, open_images
from MaskGIL.data.choice import Told, choice_rows
from MaskGIL.data.crops import crop_image
from MaskGIL.data.folders import SPLITS, Folder, UnreadableImage, is_image
from MaskGIL.data.layouts import LAYOUTS, Files, open_layout
from MaskGIL.data.sampler import spread
from MaskGIL.data.scenes import Scenes
from MaskGIL.data.shapes import Shapes
from Metrics.samples import BATCH, SampleFile
from Metrics.statistics_file import StatisticsFile, holds_statistics, moments_sha256
from Network.config import UserError

DRAWN = {"shapes": Shapes, "scenes": Scenes}  # by what keys call them
JPEG = (".jpg", ".jpeg")
MOST_UNREADABLE = 0.01  # share of a set
CROP = "centre crop, where the size is another one: halved by box, then bicubic, as ADM has it"


class LabelledImages(Protocol):
    """Images that can be read in batches as often as asked. `labels` (N,) int64, -1 unknown."""

    labels: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of images N."""
        ...

    def __iter__(self) -> Iterator[Tensor]:
        """Images (B, 3, H, W) uint8."""
        ...


class ImageSet(LabelledImages, Protocol):
    """Images of `size` (H, W) whose labels index `classes`; `unreadable` files with the reason.

    `split` is None where nobody has told which they are of.
    """

    name: str
    split: Told | None
    size: tuple[int, int]
    transform: str
    classes: Sequence[str]
    unreadable: dict[str, str]

    def pieces(self, pieces: Iterable[range]) -> Iterator[Tensor]:
        """Images (B, 3, H, W) uint8 of these ranges of rows, which ascend."""
        ...

    def part(self, count: int) -> "ImageSet":
        """Up to `count` of the images, evenly spread."""
        ...


Reference = ImageSet | StatisticsFile


class Pictures:
    """Rows of a source of pictures of a split, the middle square of each of `side` pixels.

    For a file that cannot be read its neighbour stands in, as long as they are few.
    """

    transform = CROP

    def __init__(
        self, name: str, images: Images, split: Told | None, rows: NDArray[np.int64], side: int
    ) -> None:
        self.name, self.classes, self.labels = name, images.classes, images.labels[rows]
        self.split: Told | None = split
        self.size = side, side
        self.unreadable: dict[str, str] = {}
        self._images, self._rows = images, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Tensor]:
        """Images (B, 3, S, S) uint8. Raises UserError for too many unreadable files."""
        starts = range(0, len(self), BATCH)
        return self.pieces(range(start, start + BATCH) for start in starts)

    def pieces(self, pieces: Iterable[range]) -> Iterator[Tensor]:
        """The same of these ranges of rows."""
        for piece in pieces:
            rows = self._rows[piece.start : piece.stop].tolist()
            yield torch.stack([self._crop(row) for row in rows])

    @property
    def are_lossy(self) -> bool:
        """Whether there are JPEG files among them."""
        names = (self._images.name(row).lower() for row in self._rows.tolist())
        return any(name.endswith(JPEG) for name in names)

    def part(self, count: int) -> "Pictures":
        """Up to `count` of the images, evenly spread."""
        rows = self._rows[spread(len(self), count)]
        return Pictures(self.name, self._images, self.split, rows, self.size[0])

    def choice(self, key: str, count: int) -> "Pictures":
        """Of training images up to `count` (0: all) of those that data.choice holds out."""
        rows = choice_rows(self._images)
        rows = rows[_rows(key, len(rows), count)]
        return Pictures(f"{self.name}, choice", self._images, "choice", rows, self.size[0])

    def _crop(self, row: int) -> Tensor:
        for other in range(row, row + len(self._images)):
            try:
                image = self._images.image(other % len(self._images))
                return crop_image(image, "center", 0, self.size[0])
            except UnreadableImage as error:
                self.unreadable[error.name] = error.reason
                if len(self.unreadable) > MOST_UNREADABLE * len(self):
                    raise UserError(
                        f"{len(self.unreadable)} of {len(self)} images of {self.name} cannot be "
                        f"read, {error.name} among them ({error.reason}); mend or remove them."
                    ) from error
        raise AssertionError  # of one file, all would be unreadable


def open_reference(
    value: str, split: Told, size: tuple[int, int], count: int = 0, *, whole: bool = True
) -> Reference:
    """What a key `reference` names, of a split: images as `open_image_set` has them, or statistics.

    What does not tell its split is of train where the command says so, else of an unknown one.
    Raises UserError as `open_image_set` does, and for statistics of another split or size:
    published distances are to either, and a record that names the wrong one misleads.
    """
    if not (value.endswith(".npz") and holds_statistics(value)):
        return open_reference_images(value, split, size, count, whole=whole)
    if split == "choice":
        raise UserError(f"reference_split=choice needs images, and reference={value} has none.")
    if count:
        raise UserError(
            f"num_reference chooses images, and reference={value} has none; leave it out."
        )
    statistics = StatisticsFile(value)
    statistics.check_size(size)
    _settle_split(value, statistics, split)
    return statistics


def open_reference_images(
    value: str, split: Told, size: tuple[int, int], count: int = 0, *, whole: bool = True
) -> ImageSet:
    """The same where statistics will not do; choice are the training images held out for it."""
    if split == "choice":
        images = open_image_set("reference", value, "train", size, whole=whole)
        if not isinstance(images, Pictures) or images.split != "train":
            raise UserError(
                f"reference_split=choice needs training images, drawn or in a folder with train, "
                f"not reference={value}."
            )
        return images.choice("reference", count)
    images = open_image_set("reference", value, split, size, count, whole=whole)
    _settle_split(value, images, split)
    return images


def open_image_set(
    key: str,
    value: str,
    split: Split,
    size: tuple[int, int],
    count: int = 0,
    *,
    whole: bool = True,
) -> ImageSet:
    """The images that `value` names: a key of DRAWN, KEY:COUNT, a folder or an .npz of samples.

    `split` is drawn, or taken of a folder that has both; `size` (H, W) is that of the samples; of
    more than `count` images as many are taken, spread evenly (0: all). A folder of bare pictures is
    taken `whole`, or only what a run would train on or validate with. Raises UserError naming
    `key` for whatever is not there and does not fit.
    """
    if value.endswith(".npz"):
        if holds_statistics(value):
            raise UserError(
                f"{key}={value} has statistics and no images, which are needed here; "
                "name the images."
            )
        return _open_samples(key, value, size, count)
    if size[0] != size[1]:
        raise UserError(f"{key}={value} gives square images; use an .npz of {size[0]}x{size[1]}.")
    if is_drawn(value):
        images = open_drawn(key, value, split, size)
        name = f"{value.partition(':')[0]} ({split})"
        return Pictures(name, images, split, _rows(key, len(images), count), size[0])
    images, told = _open_folder(key, Path(value), split, whole)
    return Pictures(value, images, told, _rows(key, len(images), count), size[0])


def is_drawn(value: str) -> bool:
    """Whether a key of this value names pictures that are drawn."""
    return value.partition(":")[0] in DRAWN


def open_drawn(key: str, value: str, split: Split, size: tuple[int, int]) -> Shapes | Scenes:
    """The drawn pictures of a split and `size` (H, W) that `value` names, KEY or KEY:COUNT.

    Without COUNT they are as many as a run draws by default. Raises UserError naming `key`.
    """
    name, colon, number = value.partition(":")
    if colon and not (number.isdecimal() and int(number)):
        raise UserError(f"{key}={value} needs a number of images behind the colon: {name}:4096.")
    if not colon:
        number = len(open_images(DataConfig(), split))
    images = DRAWN[name](split, int(number), size)
    if not images.classes:
        images.labels[:] = -1
    return images


def _open_samples(key: str, value: str, size: tuple[int, int], count: int) -> ImageSet:
    samples = SampleFile(value)
    if samples.size != size:
        (height, width), (wanted_height, wanted_width) = samples.size, size
        raise UserError(
            f"{key}={value} holds images of {height}x{width}, the samples have "
            f"{wanted_height}x{wanted_width}; compare images of one size."
        )
    return SampleFile(value, _rows(key, len(samples), count))


def _open_folder(key: str, root: Path, split: Split, whole: bool) -> tuple[Images, Split | None]:
    """The pictures, and the split that they are of, as far as the folder tells."""
    if not root.is_dir():
        raise UserError(
            f"No such {key}: {key}={root}; give shapes, scenes, a folder of images or an "
            ".npz of samples."
        )
    with_splits = any((root / name).is_dir() for name in SPLITS)
    files = sorted(file for file in root.iterdir() if is_image(file.name))
    if files and not with_splits and whole:
        names = [file.name for file in files]
        told = SPLITS[SPLITS.index(root.name)] if root.name in SPLITS else None
        return Files(root, root.name, names, np.full(len(names), -1), []), told
    if any(layout.fits(root) for layout in LAYOUTS):
        images = open_layout(root, split)
        if not images.classes:
            images.labels[:] = -1
        return images, split
    if _has_classes(root / split):  # of which the other split may be elsewhere
        return Folder(root, split, "train" if _has_classes(root / "train") else split), split
    if root.name in SPLITS and _has_classes(root):
        other = f" reference_split={root.name}" * (key == "reference" and root.name != split)
        raise UserError(f"{key}={root} is a split of a folder; use {key}={root.parent}{other}.")
    raise UserError(f"{key}={root} holds neither {split}/CLASS/* nor images.")


def _has_classes(folder: Path) -> bool:
    return folder.is_dir() and any(
        each.is_dir() and not each.name.startswith(".") for each in folder.iterdir()
    )


def _rows(key: str, available: int, count: int) -> NDArray[np.int64]:
    """Rows (count,) spread evenly: files are sorted by class, and every class gets its share."""
    if count > available:
        raise UserError(f"{key} has {available} images, not {count}; lower num_{key}.")
    return spread(available, count or available)


def _settle_split(value: str, reference: Reference, split: Told) -> None:
    if reference.split not in (None, split):
        raise UserError(
            f"reference={value} is of {reference.split} and not of {split}; say reference_split="
            f"{reference.split} if that is meant, or name another reference."
        )
    if split == "train":  # val is only the default, and nobody's word
        reference.split = split


def reference_facts(reference: ImageSet, sha256: str) -> dict[str, Any]:
    """What a record tells of images whose bytes have this hash."""
    facts = {"name": reference.name, "sha256": sha256, "count": len(reference)}
    if isinstance(reference, SampleFile) and reference.has_moments:
        facts["statistics_sha256"] = moments_sha256(reference.path)  # which are of other images
    facts |= {"split": reference.split, "transform": reference.transform}
    return {**facts, "image_size": [*reference.size], "unreadable": dict(reference.unreadable)}
