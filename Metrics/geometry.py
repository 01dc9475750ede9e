"""The size in which the images of a set are drawn, and that in which they are kept and scored.

B images of a batch, S side.
"""

from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from MaskGIL.pipeline import Pipeline
from Metrics.sample_config import SampleConfig
from Network.config import UserError

FILTER = "bicubic (a = -0.75), half-pixel centres, no antialiasing, before rounding to 8 bits"


class Geometry(NamedTuple):
    """Heights and widths, and what of them a set follows from."""

    grid: tuple[int, int]  # in tokens
    drawn: tuple[int, int]  # in pixels, as all others
    kept: tuple[int, int]
    identity: dict[str, Any]  # nothing where a set is as the network learned it


def find_geometry(pipe: Pipeline, config: SampleConfig) -> Geometry:
    """What `height`, `width` and `resize` ask for.

    Raises UserError for what the network or its sampler cannot do, and for a `resize` that would
    distort the images or change nothing.
    """
    stride, resize = pipe.tokenizer.stride, config.resize
    grid = pipe.grid(config.height or None, config.width or None)
    pipe.plan(grid=grid)  # it checks
    drawn = grid[0] * stride, grid[1] * stride
    changed = drawn != pipe.image_size
    identity: dict[str, Any] = dict(zip(("height", "width"), drawn)) if changed else {}
    if not resize:
        return Geometry(grid, drawn, drawn, identity)
    if drawn[0] != drawn[1]:
        raise UserError(
            f"resize={resize} makes square images, those of height={drawn[0]} and width={drawn[1]} "
            "would be distorted; leave it out."
        )
    if resize == drawn[0]:
        raise UserError(f"resize={resize} is the size that the images have; leave it out.")
    if config.train and resize % stride:
        raise UserError(
            f"resize={resize} must be a multiple of {stride}: images are encoded again to compare "
            "them with those of train=...; choose one, or leave train out."
        )
    return Geometry(grid, drawn, (resize, resize), {**identity, "resize": resize, "filter": FILTER})


def resized(images: Tensor, side: int) -> Tensor:
    """Images (B, 3, S, S) floating, brought to (B, 3, side, side) by FILTER.

    So LlamaGen's sample_c2i_ddp.py makes images of 256 out of those of 384: of the decoder's
    numbers, which may lie outside of [-1, 1] still.
    """
    return F.interpolate(images, (side, side), mode="bicubic", align_corners=False, antialias=False)
