"""Where training pictures come from: `open_images` makes a source of the table SOURCES.

A source is anything with the members of `Images`; those of CAPTIONED have captions too.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from PIL import Image

from MaskGIL.config import DataConfig
from MaskGIL.data.bucket_shapes import read_shapes
from MaskGIL.data.captions import CaptionTable, folder_captions
from MaskGIL.data.crops import least_side
from MaskGIL.data.file_list import Files
from MaskGIL.data.folders import LAYOUT, Folder, Split
from MaskGIL.data.layouts import open_layout
from MaskGIL.data.scenes import Scenes
from MaskGIL.data.shapes import Shapes
from MaskGIL.data.shards import Packed
from MaskGIL.data.standard import KINDS, Standard
from MaskGIL.distributed import first_rank_first
from Network.config import UserError


class Images(Protocol):
    """Labelled pictures by row. `labels` (N,) int64 index `classes`."""

    labels: np.ndarray

    @property
    def classes(self) -> Sequence[str]:
        """Names of the labels."""
        ...

    def __len__(self) -> int:
        """Number of rows N."""
        ...

    def image(self, index: int) -> Image.Image:
        """The picture of a row, RGB, any size. Raises `folders.UnreadableImage`."""
        ...

    def name(self, index: int) -> str:
        """What a message calls the row."""
        ...


def images_hash(images: Images) -> str:
    """The sha256 of the images' names and labels in their order, wherever they lie.

    Without the end of a name: what is .JPEG in one layout of ImageNet is .jpg in another.
    """
    digest = hashlib.sha256(images.labels.astype("<i8").tobytes())
    for row in range(len(images)):
        name = os.path.splitext(images.name(row))[0]
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def open_images(config: DataConfig, split: Split) -> Images:
    """The pictures of a split. Raises UserError for a bad path and for an unknown source.

    Every rank of a group must call it: what one reads of a folder, the others need not.
    """
    if config.source not in SOURCES:
        raise UserError(f"data.source={config.source} is unknown; choose {', '.join(SOURCES)}.")
    return SOURCES[config.source](config, split)


def open_captions(config: DataConfig, split: Split, images: Images) -> CaptionTable:
    """The captions of the pictures that `open_images` has opened, row by row.

    Raises UserError for a source without captions, and for pictures without them or the reverse.
    """
    if config.source not in CAPTIONED:
        raise UserError(
            f"data.source={config.source} has no captions; choose {', '.join(CAPTIONED)}."
        )
    return CAPTIONED[config.source](config, split, images)


def _shapes(config: DataConfig, split: Split) -> Images:
    return Shapes(split, _num_drawn(config, split), (config.image_size, config.image_size))


def _scenes(config: DataConfig, split: Split) -> Images:
    square = (config.image_size, config.image_size)
    shapes = read_shapes(config.buckets) or [square]
    return Scenes(split, _num_drawn(config, split), *shapes)


def _num_drawn(config: DataConfig, split: Split) -> int:
    # For val an eighth: small beside training. But 256 at least: one chunk of the token cache, and
    # a rate measured on it has a standard error of at most 3 percent (0.5 / sqrt(256)).
    val = max(256, config.num_images // 8)
    return config.num_images if split == "train" else val


def _folder(config: DataConfig, split: Split) -> Images:
    if not config.path:
        raise UserError(f"data.source=folder needs data.path=FOLDER with {LAYOUT}.")
    with first_rank_first():  # it remembers the headers of tar files, minutes for ImageNet
        images = open_layout(config.path, split)
    if config.draft:
        sides = [max(shape) for shape in read_shapes(config.buckets)] or [config.image_size]
        images.draft = least_side(config.crops, max(sides))
    return images


def _standard(config: DataConfig, split: Split) -> Images:
    if not config.path:
        raise UserError(
            f"data.source={config.source} needs data.path=FOLDER, where torchvision keeps it."
        )
    return Standard(config.source, config.path, split)


def _tokens(config: DataConfig, split: Split) -> Images:
    raise UserError(
        "data.source=tokens has no pictures, only the token cache of a generator, job=generator "
        "data.tokens=cache; name another data.source."
    )


SOURCES: dict[str, Callable[[DataConfig, Split], Images]] = {
    "shapes": _shapes,
    "scenes": _scenes,
    "folder": _folder,
    "tokens": _tokens,  # its rows are those of the cache, see MaskGIL.cached_rows
    **dict.fromkeys(KINDS, _standard),
}


def _drawn_captions(config: DataConfig, split: Split, images: Images) -> CaptionTable:
    assert isinstance(images, Shapes | Scenes), type(images)
    rows = range(len(images))
    captions = map(images.captions, rows)
    return CaptionTable(captions, [images.name(row) for row in rows])


def _folder_captions(config: DataConfig, split: Split, images: Images) -> CaptionTable:
    assert isinstance(images, Folder | Files | Packed), type(images)
    return folder_captions(config.path, split, images)


CAPTIONED: dict[str, Callable[[DataConfig, Split, Images], CaptionTable]] = {
    "shapes": _drawn_captions,
    "scenes": _drawn_captions,
    "folder": _folder_captions,
}
