"""Sets of images as a tokenizer draws them, from their own tokens or from shuffled ones.

B images of a batch, H height, W width, h x w tokens.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from MaskGIL.data.crops import to_float, to_uint8
from MaskGIL.noise import random_bits
from MaskGIL.pipeline import Pipeline
from Metrics.geometry import resized
from Metrics.reference import LabelledImages


class Redrawn:
    """A set of images, each seen through `redraw`: (B, 3, H, W) uint8 -> as many images."""

    def __init__(self, images: LabelledImages, redraw: Callable[[Tensor], Tensor]) -> None:
        self.labels = images.labels
        self._images, self._redraw = images, redraw

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[Tensor]:
        return map(self._redraw, self._images)


@torch.no_grad()
def reconstructed(pipe: Pipeline, images: Tensor, chunk: int, resize: int = 0) -> Tensor:
    """Images (B, 3, H, W) uint8 as the tokenizer of `pipe` draws them: encoded and decoded.

    In pieces of `chunk` images, as samples are: it takes no more memory than they do. And with
    `resize` brought to this side as samples are (`Metrics.geometry`).
    """
    drawn = []
    for part in images.split(chunk):
        tokens = pipe.tokenizer.encode(to_float(part.to(pipe.device)))
        pixels = pipe.pixels(tokens, clamp=False)
        drawn.append(to_uint8(resized(pixels, resize) if resize else pixels).cpu())
    return torch.cat(drawn)


@torch.no_grad()
def shuffled(pipe: Pipeline, images: Tensor, chunk: int) -> Tensor:
    """Images (B, 3, H, W) uint8 with their tokens in another order: the same for every image."""
    drawn = []
    for part in images.split(chunk):
        tokens = pipe.tokenizer.encode(to_float(part.to(pipe.device)))  # (B, h, w)
        places = torch.arange(tokens[0].numel(), device=pipe.device)
        order = random_bits(torch.zeros_like(places), "order", 0, places).argsort(stable=True)
        tokens = tokens.flatten(1)[:, order].view_as(tokens)
        drawn.append(to_uint8(pipe.pixels(tokens)).cpu())
    return torch.cat(drawn)
