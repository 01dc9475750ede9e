"""Confidence maps: beside each image how sure the network was of every token when it drew it.

The scale is that of log p, from a blind guess among all codes (1 / codebook size, dark) to
certainty (1, light).
"""

import math
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from MaskGIL.pictures import grid_of

COLOURS = "magma"  # of matplotlib: even steps of p are even steps of lightness
LEGEND_WIDTH, LEGEND_HEIGHT, BAR_HEIGHT, MARGIN = 300, 52, 12, 8


def colour_confidence(confidence: Tensor, codebook_size: int) -> Tensor:
    """Log-probabilities (B, h, w) -> colours (B, 3, h, w) uint8."""
    return _colours((1 + confidence.cpu() / math.log(codebook_size)).clamp(0, 1))


def save_confidence(
    images: Tensor, confidence: Tensor, codebook_size: int, path: Path, columns: int, enlarge: int
) -> None:
    """Write a PNG of images (B, 3, H, W) uint8, each beside its map, and of what colours mean.

    confidence (B, h, w) are log-probabilities of the tokens.
    """
    size = images.shape[-2:]
    maps = F.interpolate(colour_confidence(confidence, codebook_size), size=size, mode="nearest")
    pairs = torch.cat([images.cpu(), maps], 3)  # (B, 3, H, 2 W)
    grid = Image.fromarray(grid_of(pairs, columns, enlarge))
    picture = Image.new(
        "RGB", (max(grid.width, LEGEND_WIDTH + 2 * MARGIN), grid.height + LEGEND_HEIGHT), "white"
    )
    picture.paste(grid)
    _draw_legend(picture, grid.height, codebook_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def _draw_legend(picture: Image.Image, top: int, codebook_size: int) -> None:
    """A bar of the colours below `top`, its ends and its meaning in words."""
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(12)
    bar = _colours(torch.linspace(0, 1, LEGEND_WIDTH)[None, None])[0].permute(1, 2, 0)
    bar = Image.fromarray(bar.numpy()).resize((LEGEND_WIDTH, BAR_HEIGHT))
    below, left, right = top + MARGIN // 2, MARGIN, MARGIN + LEGEND_WIDTH
    picture.paste(bar, (left, below + 17))
    draw.text((left, below), "probability of each token when it was drawn", "black", font)
    under = below + 17 + BAR_HEIGHT
    draw.text((left, under), f"1/{codebook_size} or less: a guess", "black", font)
    draw.text((right, under), "1: certain", "black", font, anchor="ra")


def _colours(shares: Tensor) -> Tensor:
    """Shares (B, h, w) in [0, 1] -> (B, 3, h, w) uint8."""
    colours = matplotlib.colormaps[COLOURS](shares.numpy(), bytes=True)[..., :3]
    return torch.from_numpy(np.ascontiguousarray(colours)).permute(0, 3, 1, 2)
