"""Aspect buckets: pictures of many shapes, cut to the few shapes that batches are made of.

A batch has one shape, and which one a step trains on follows from (seed, step) alone. After
NovelAI's aspect ratio bucketing (2022), without its carried-over remainders: a bucket's last images
wait for no one, as each bucket has an endless stream of its own.
N pictures, K buckets.
"""

import json
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image

from MaskGIL.data import Images, images_hash
from MaskGIL.data.bucket_shapes import choose_shape
from MaskGIL.data.crops import Shape, show_size
from MaskGIL.data.folders import Split, UnreadableImage
from MaskGIL.distributed import first_rank_first
from MaskGIL.durable import replace_file, to_json
from MaskGIL.noise import random_bits
from Network.config import UserError

READERS = 16  # threads that ask for the sizes of pictures: they wait for the disk


@runtime_checkable
class Measured(Protocol):
    """Pictures that tell their shape without being decoded."""

    def shape(self, index: int) -> Shape:
        """Height and width of a picture, upright. Raises UnreadableImage."""
        ...


@dataclass
class Bucket:
    """The pictures `rows` (n,) of a data set, all to be cut to one `shape` (height, width)."""

    images: Images
    rows: np.ndarray
    shape: Shape

    def __post_init__(self):
        self.labels, self.draft = self.images.labels[self.rows], getattr(self.images, "draft", 0)

    @property
    def classes(self) -> Sequence[str]:
        """Those of all pictures."""
        return self.images.classes

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, index: int) -> Image.Image:
        """The picture of a row of the bucket."""
        return self.images.image(int(self.rows[index]))

    def name(self, index: int) -> str:
        """What the data set calls it."""
        return self.images.name(int(self.rows[index]))


def fill_buckets(
    images: Images, shapes: Sequence[Shape], memory: Path, split: Split
) -> list[Bucket]:
    """Put every picture into the bucket that `choose_shape` chooses: up to K buckets.

    It is remembered in the file `memory`: the sizes of a million files take minutes to read. All
    ranks must come here. In `val` a bucket without pictures is left out; in `train` it is a
    UserError, and so is a source whose pictures all have one shape.
    """
    numbers = _numbers(images, shapes, memory)
    buckets = [Bucket(images, np.flatnonzero(numbers == k), s) for k, s in enumerate(shapes)]
    empty = [show_size(bucket.shape) for bucket in buckets if not len(bucket)]
    if empty and split == "train":
        raise UserError(
            f"No picture of train goes to data.buckets={','.join(empty)}: others are nearer in "
            "aspect ratio, or of the same and fit its size; leave that out."
        )
    return [bucket for bucket in buckets if len(bucket)]


class BucketOrder:
    """Which bucket a step takes, and how many steps have taken it before.

    An epoch has as many steps of each bucket as it fills batches, at least one, in an order drawn
    by (seed, epoch).
    """

    def __init__(self, sizes: Sequence[int], batch: int, seed: int) -> None:
        self.steps = np.array([max(1, round(size / batch)) for size in sizes])  # of an epoch
        self._turns = np.repeat(np.arange(len(sizes)), self.steps)
        self._seed = torch.tensor(seed, dtype=torch.int64)

    @property
    def shares(self) -> np.ndarray:
        """The share of steps of each bucket, (K,)."""
        return self.steps / self.steps.sum()

    def __call__(self, step: int) -> tuple[int, int]:
        """The bucket of a step, and its number among the steps of that bucket."""
        if len(self.steps) == 1:
            return 0, step
        epoch, place = divmod(step, len(self._turns))
        keys = random_bits(self._seed, "bucket", epoch, torch.arange(len(self._turns)))
        turns = self._turns[keys.numpy().argsort(kind="stable")]
        bucket = int(turns[place])
        before = int((turns[:place] == bucket).sum())
        return bucket, int(epoch * self.steps[bucket]) + before


def _numbers(images: Images, shapes: Sequence[Shape], memory: Path) -> np.ndarray:
    """The bucket (N,) of every picture, as `memory` has it if it is of the same work."""
    if not isinstance(images, Measured):
        raise UserError(
            "data.buckets needs pictures of many shapes, those of data.source=folder or scenes; "
            "leave it out."
        )
    work = {"shapes": [*map(list, shapes)], "images_sha256": images_hash(images)}
    with first_rank_first():
        if kept := _kept(memory, work):
            return np.array(kept, np.int64)
        # Around the threads, not in them: what is ignored is ignored by all of a process
        with warnings.catch_warnings(), ThreadPoolExecutor(READERS) as pool:
            warnings.simplefilter("ignore")  # Pillow would remark on large pictures and odd tags
            sizes = pool.map(partial(_shape, images), range(len(images)))
            numbers = [choose_shape(shape, shapes) for shape in sizes]
        memory.parent.mkdir(parents=True, exist_ok=True)
        replace_file(memory, to_json({**work, "numbers": numbers}))
    return np.array(numbers, np.int64)


def _kept(memory: Path, work: dict[str, Any]) -> list[int]:
    """What stands in the file of an earlier start, if it is whole and of the same work."""
    try:
        found = json.loads(memory.read_text("utf-8"))
    except (OSError, ValueError):
        return []
    fits = isinstance(found, dict) and work.items() <= found.items()
    return found.get("numbers", []) if fits else []


def _shape(images: Measured, row: int) -> Shape:
    """That of a picture; one that cannot be read is met again, and told, when its turn comes."""
    try:
        return images.shape(row)
    except UnreadableImage:
        return 1, 1
