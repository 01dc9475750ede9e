"""Which training images the samples resemble: a count for the record, a picture for people.

N samples, M images of the reference, B of a batch, H height, W width, D numbers of a thumbnail.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

THUMBNAIL = 16  # pixels: small enough to forgive a shift of a pixel, large enough to know a picture
NEAR = 0.01  # share of the reference that counts as near to the training images
HOW_NEAR = (
    f"L2 distance of pixels in [0, 1], images reduced to {THUMBNAIL}x{THUMBNAIL} by area, to the "
    f"nearest training image; near is below the quantile {NEAR} of the reference images"
)


def near_training(samples: Tensor, reference: Tensor, train: Iterable[Tensor]) -> dict[str, Any]:
    """How many samples are nearer to a training image than nearly all of the reference is.

    Thumbnails (N, D) and (M, D); training images (B, 3, H, W) uint8. New images that are as varied
    as the reference have a share of NEAR; copies have one of 1.
    """
    both = torch.cat([samples, reference])
    nearest = torch.full((len(both),), torch.inf, dtype=both.dtype)
    num_train = 0
    for batch in train:
        nearest = torch.minimum(nearest, torch.cdist(both, thumbnails(batch)).amin(1))
        num_train += len(batch)
    threshold = nearest[len(samples) :].quantile(NEAR)
    count = int((nearest[: len(samples)] < threshold).sum())
    return {
        "share": count / len(samples),
        "count": count,
        "expected share": NEAR,
        "threshold": threshold.item(),
        "num_train": num_train,
        "how": HOW_NEAR,
    }


def thumbnails(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) uint8 -> their colours (B, D) float64 in [0, 1] on a small grid."""
    return F.adaptive_avg_pool2d(images.double() / 255, THUMBNAIL).flatten(1)


def nearest_training(images: Tensor, train: Iterable[Tensor]) -> Tensor:
    """The training image nearest to each of images (N, 3, H, W) uint8: the same shape."""
    best = torch.full((len(images),), torch.inf, dtype=torch.float64)
    found, looked_for = torch.zeros_like(images), thumbnails(images)
    for batch in train:
        distance, index = torch.cdist(looked_for, thumbnails(batch)).min(1)
        closer = distance < best
        found[closer] = batch[index[closer]]
        best = torch.minimum(best, distance)
    return found
