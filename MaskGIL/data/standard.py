"""The small data sets of the field, MNIST to STL-10, as torchvision keeps them on disk.

They are read where they lie and never downloaded here: a run waits for no network. Grey pictures
become RGB.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image
from torchvision.datasets import CIFAR10, MNIST, STL10, FashionMNIST

from Network.config import UserError


class Kind(NamedTuple):
    """A class of torchvision, and what its members are called."""

    dataset: type[Any]
    folder: str  # below the root
    labels: str
    splits: dict[str, dict[str, bool | str]]  # what chooses train and val


class Standard:
    """One split of a data set of the table KINDS below `root`. Its test images are `val`.

    `labels` (N,) int64 index `classes`, rows follow torchvision. Raises UserError when the data
    set is missing or damaged.
    """

    classes: tuple[str, ...]
    labels: np.ndarray

    def __init__(self, name: str, root: str | Path, split: Literal["train", "val"]) -> None:
        self._dataset = _open(name, Path(root), split)
        self._prefix = f"{split}/{name}"
        self.classes = tuple(self._dataset.classes)
        self.labels = np.asarray(getattr(self._dataset, KINDS[name].labels), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """The picture, RGB."""
        return self._dataset[index][0].convert("RGB")

    def name(self, index: int) -> str:
        """What a message calls the row, for instance `train/cifar10-00017`."""
        return f"{self._prefix}-{index:05}"


_TRAIN: dict[str, dict[str, bool | str]] = {"train": {"train": True}, "val": {"train": False}}
KINDS = {
    "mnist": Kind(MNIST, "MNIST", "targets", _TRAIN),
    "fashion-mnist": Kind(FashionMNIST, "FashionMNIST", "targets", _TRAIN),
    "cifar10": Kind(CIFAR10, CIFAR10.base_folder, "targets", _TRAIN),
    "stl10": Kind(
        STL10, STL10.base_folder, "labels", {"train": {"split": "train"}, "val": {"split": "test"}}
    ),
}


def _open(name: str, root: Path, split: str) -> Any:
    kind = KINDS[name]
    name_there = kind.dataset.__name__
    code = f"from torchvision.datasets import {name_there}; {name_there}('{root}', download=True)"
    if not (root / kind.folder).is_dir():
        raise UserError(
            f"data.path={root} has no folder {kind.folder} inside: name another folder, or run "
            f'python -c "{code}" to download it.'
        )
    try:
        return kind.dataset(root, **kind.splits[split], download=False)
    except Exception as error:  # a damaged file raises whatever its reader stumbled over
        raise UserError(
            f"data.source={name} is damaged or not whole in {root / kind.folder}: delete that "
            f'folder, then run python -c "{code}" to download it again.'
        ) from error
