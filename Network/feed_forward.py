"""SwiGLU, the feed-forward branch of a LLaMA block (Shazeer, 2020)."""

import torch.nn.functional as F
from torch import Tensor, nn


class FeedForward(nn.Module):
    """Down(silu(gate x) * up x), without biases."""

    def __init__(self, width: int):
        super().__init__()
        inner = feed_forward_width(width)
        self.gate = nn.Linear(width, inner, bias=False)
        self.up = nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """X (..., D) -> (..., D)."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


def feed_forward_width(width: int) -> int:
    """LLaMA's inner width: 2/3 of 4 x width, rounded up to a multiple of 256."""
    return -(-(8 * width // 3) // 256) * 256
