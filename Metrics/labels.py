"""Which classes a set of samples has, how often, and in which order.

N images.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from MaskGIL.noise import random_bits
from MaskGIL.pipeline import Pipeline
from Network.config import UserError


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


def _data_shares(pipe: Pipeline, num_images: int, reference: Classed | None) -> NDArray[np.int64]:
    """Images of each class: the proportions of the reference, rounded by largest remainder."""
    num_classes = pipe.network.config.num_classes
    fits = (
        reference is not None
        and len(reference.labels) > 0
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
