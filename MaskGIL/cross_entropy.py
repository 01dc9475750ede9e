"""Cross-entropy with label smoothing, whose gradient takes the place of what was kept for it.

Large codebooks make its logits the largest tensors of a step: each look at them counts, and each
copy. Shapes: M rows, V codes.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """Cross-entropy (M,) of logits (M, V) against targets (M,) int64, in natural units.

    As torch.nn.functional has it: a share `label_smoothing` in [0, 1] of each target is spread over
    all codes. Its backward pass runs once only.
    """
    return _ClosedForm.apply(logits, targets, label_smoothing)


class _ClosedForm(torch.autograd.Function):
    """The gradient is softmax(logits) - smoothed target; PyTorch adds it up from three tensors."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        logs = logits.log_softmax(-1)  # (M, V)
        ctx.save_for_backward(logs, targets)
        ctx.smoothing = smoothing
        of_target = logs.gather(1, targets[:, None])[:, 0]
        return (smoothing - 1) * of_target - smoothing * logs.mean(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore
        logs, targets = ctx.saved_tensors
        gradient, smoothing = gradient[:, None], ctx.smoothing
        # In place; PyTorch would notice a second backward pass and refuse it
        of_logits = logs.exp_().sub_(smoothing / logs.shape[1]).mul_(gradient)
        of_logits.scatter_add_(1, targets[:, None], (smoothing - 1) * gradient)
        return of_logits, None, None
