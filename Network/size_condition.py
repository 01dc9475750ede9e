"""The size of an image as a condition: what its tokens are told of the grid that they stand in.

Without it a network sees the size by positions alone. As in SDXL (Podell et al., 2023) the sides
become sines and cosines; here of their logarithms, since doubling a side means the same at any.
Shapes: D width.
"""

from math import log2

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Of radians per doubling of a side: from 1/8, no full turn up to any side, to 16, which tells 64
# from 65
OCTAVES = range(-3, 5)


class SizeCondition(nn.Module):
    """Height and width of a grid -> a vector for all its tokens; zero before it has learned.

    Condition tokens have none: so in causal order the first token is predicted without.
    """

    def __init__(self, width: int):
        super().__init__()
        # No nn.Linear: that would be drawn with the others, and draw from their random numbers
        self.weight = nn.Parameter(torch.zeros(width, 4 * len(OCTAVES)))

    def forward(self, grid: tuple[int, int]) -> Tensor:
        """Height and width in tokens -> (D,)."""
        features = size_features(grid, self.weight.device)
        return F.linear(features.to(self.weight.dtype), self.weight)


def size_features(grid: tuple[int, int], device: torch.device) -> Tensor:
    """Sines and cosines (32,) of 2^octave log2(side), of the height, then of the width.

    Computed on the device: nothing waits for it.
    """
    frequencies = 2.0 ** torch.arange(OCTAVES.start, OCTAVES.stop, device=device)
    angles = [log2(side) * frequencies for side in grid]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())])
