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
        if x.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return _ClosedForm.apply(x, weight, self.eps)
        return F.rms_norm(x, self.normalized_shape, weight, self.eps)


class _ClosedForm(torch.autograd.Function):
    """The gradient as one formula: PyTorch differentiates step by step on a CPU.

    There memory takes the time, so what has served is written over.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # (..., 1)
        inverse = norm.square_().div_(len(weight)).add_(eps).rsqrt_()
        ctx.save_for_backward(x, inverse, weight)
        return (x * inverse).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore
        x, inverse, weight = ctx.saved_tensors
        unit = x * inverse  # (..., D)
        along = unit * gradient
        of_weight = along.reshape(-1, len(weight)).sum(0)
        share = along.mul_(weight).mean(-1, keepdim=True)
        of_x = torch.mul(gradient, weight, out=along).addcmul_(unit, share, value=-1).mul_(inverse)
        return of_x, of_weight, None
