"""SwiGLU, the feed-forward branch of a LLaMA block (Shazeer, 2020)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


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
        return self.down(gated(self.gate(x), self.up(x)))


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """Silu(gate) * up, all (..., inner)."""
    if gate.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return _Gated.apply(gate, up)
    return F.silu(gate) * up


def feed_forward_width(width: int) -> int:
    """LLaMA's inner width: 2/3 of 4 x width, rounded up to a multiple of 256."""
    return -(-(8 * width // 3) // 256) * 256


class _Gated(torch.autograd.Function):
    """What PyTorch keeps a third tensor for, from two: on a CPU, making memory takes the time."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore
        gate, up = ctx.saved_tensors
        of_silu = gradient * up
        of_gate = torch.ops.aten.silu_backward.grad_input(of_silu, gate, grad_input=of_silu)
        return of_gate, F.silu(gate).mul_(gradient)
