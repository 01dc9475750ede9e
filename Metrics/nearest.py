"""Which training images the samples resemble: a count for the record, a picture for people.

Every sample has passed through a tokenizer's decoder: even the image of a perfect memoriser lies
off its original by the tokenizer's error. So data are compared as the tokenizer reconstructs them.
N samples, M images of the reference, B of a batch, H height, W width, D numbers of a thumbnail.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Reconstruct = Callable[[Tensor], Tensor]  # images (B, 3, H, W) uint8 -> as a tokenizer draws them

THUMBNAIL = 16  # pixels: small enough to forgive a shift of a pixel, large enough to know a picture
NEAR = 0.01  # share of the reference that counts as near to the training images
SHOWN = 16  # the first samples, whose nearest training images the record names
HOW_NEAR = (
    f"L2 distance of pixels in [0, 1], images reduced to {THUMBNAIL}x{THUMBNAIL} by area, to the "
    f"nearest training image; near is up to the quantile {NEAR} of the reference images; of many "
    "samples and reference images those evenly spread are compared; "
)
RECONSTRUCTED = "training and reference images encoded and decoded by the tokenizer first"
AS_THEY_ARE = "all images compared as they are"


def near_training(
    samples: Tensor,
    reference: Tensor,
    train: Iterable[Tensor],
    reconstruct: Reconstruct | None = None,
) -> dict[str, Any]:
    """How many samples are as near to a training image as hardly any of the reference is.

    Thumbnails (N, D) and (M, D); training images (B, 3, H, W) uint8, seen through `reconstruct` as
    those of the reference were. New images that are as varied as the reference have its share:
    about NEAR, or more where the reference holds copies itself; then the threshold is 0, and copies
    still count. "nearer" counts those below the threshold, "nearest" has the numbers of the
    training images nearest to the first samples.
    """
    both = torch.cat([samples, reference])
    distance = torch.full((len(both),), torch.inf, dtype=both.dtype)
    rows = torch.zeros(len(both), dtype=torch.int64)
    num_train = 0
    for batch in train:
        small = thumbnails(batch, reconstruct)
        rough, index = torch.cdist(both, small).min(1)
        closer = rough < distance
        # `cdist` gives copies 1e-7 and not 0: finds the image, but is no distance to judge by
        distance[closer] = (both[closer] - small[index[closer]]).norm(dim=1)
        rows[closer] = num_train + index[closer]
        num_train += len(batch)
    threshold = distance[len(samples) :].quantile(NEAR)
    near = distance <= threshold
    return {
        "share": near[: len(samples)].double().mean().item(),
        "count": int(near[: len(samples)].sum()),
        "nearer": int((distance[: len(samples)] < threshold).sum()),
        "reference share": near[len(samples) :].double().mean().item(),
        "threshold": threshold.item(),
        "num_train": num_train,
        "num_compared": len(samples),
        "nearest": rows[: min(SHOWN, len(samples))].tolist(),
        "how": HOW_NEAR + (RECONSTRUCTED if reconstruct else AS_THEY_ARE),
    }


def thumbnails(images: Tensor, reconstruct: Reconstruct | None = None) -> Tensor:
    """Images (B, 3, H, W) uint8 -> their colours (B, D) float64 in [0, 1] on a small grid."""
    images = reconstruct(images) if reconstruct else images
    return F.adaptive_avg_pool2d(images.double() / 255, THUMBNAIL).flatten(1)


def take_images(batches: Iterable[Tensor], rows: list[int]) -> Tensor:
    """The images number `rows` (N,) of a set that comes in batches (B, 3, H, W): (N, 3, H, W)."""
    found: dict[int, Tensor] = {}
    first = 0
    for batch in batches:
        found |= {row: batch[row - first] for row in rows if first <= row < first + len(batch)}
        first += len(batch)
    return torch.stack([found[row] for row in rows])
