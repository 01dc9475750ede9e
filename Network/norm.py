"""RMSNorm, the one normalisation of the transformers (Zhang and Sennrich, 2019)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class RMSNorm(nn.RMSNorm):
    """RMSNorm with eps 1e-5 (LLaMA); statistics in float32 or wider, whatever comes in."""

    def __init__(self, width: int):
        super().__init__(width, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """X (..., width) -> the same shape with weighted root mean square 1."""
        wide = torch.promote_types(x.dtype, torch.float32)
        x, weight = x.to(wide), self.weight.to(wide)
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return F.rms_norm(x, self.normalized_shape, weight, self.eps)
        if torch.is_grad_enabled():
            return _ClosedForm.apply(x, weight, self.eps)
        return (x * _inverse(x, self.eps)).mul_(weight)


class _ClosedForm(torch.autograd.Function):
    """The gradient as one formula: PyTorch differentiates step by step on a CPU, twice as slow."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        inverse = _inverse(x, eps)  # (..., 1)
        unit = x * inverse
        ctx.save_for_backward(unit, inverse, weight)
        return unit * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore
        unit, inverse, weight = ctx.saved_tensors
        along = gradient * unit  # (..., D)
        share = (along * weight).mean(-1, keepdim=True)
        of_x = torch.addcmul(gradient * weight, unit, share, value=-1) * inverse
        return of_x, along.reshape(-1, len(weight)).sum(0), None


def _inverse(x: Tensor, eps: float) -> Tensor:
    """Of the root mean square of x (..., D): (..., 1). One pass; PyTorch's own makes three."""
    square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
    return square.div_(x.shape[-1]).add_(eps).rsqrt_()
