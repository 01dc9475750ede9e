"""ImageNet-1k: its classes by name and by WordNet id, and the number of its images.

The names are torchvision's, the ids timm's; the number of a class is its place among the sorted
ids. Counts: Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge (2015), table 2.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

NUM_CLASSES = 1000
TRAIN_IMAGES = 1_281_167
VAL_IMAGES = 50_000
# Of the ids, a line each: so folders are recognised without loading timm
SYNSETS_SHA256 = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"


@lru_cache
def imagenet_names() -> tuple[str, ...]:
    """What people call the classes: `goldfish` is number 1. Not all differ in lower case."""
    from torchvision.models import ResNet50_Weights

    return tuple(ResNet50_Weights.IMAGENET1K_V2.meta["categories"])


@lru_cache
def imagenet_synsets() -> tuple[str, ...]:
    """The WordNet ids that name ImageNet's class folders: `n01443537` is number 1."""
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo().label_names())


def is_imagenet(classes: Sequence[str]) -> bool:
    """Whether these are ImageNet's WordNet ids, all and in order."""
    if len(classes) != NUM_CLASSES:
        return False
    lines = "\n".join(classes).encode("utf-8", "surrogateescape")  # a folder may have any name
    return hashlib.sha256(lines).hexdigest() == SYNSETS_SHA256


class Classed(Protocol):
    """Images, as far as their number and their classes are concerned."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...


def describe_count(images: Classed, split: str) -> str:
    """Number of images of a split, as `9 images`; of ImageNet also how many are missing."""
    count = len(images)
    missing = {"train": TRAIN_IMAGES, "val": VAL_IMAGES}[split] - count
    told = f"{count:,} images"
    if not missing or not is_imagenet(images.classes):
        return told
    return f"{told} (ImageNet: {abs(missing):,} {'are missing' if missing > 0 else 'too many'})"
