"""The optimiser, the learning rate as a function of the step, and the average of the weights."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from Trainer.config import OptimConfig
from Trainer.parallel import local, whole


def build_optimizer(module: nn.Module, config: OptimConfig) -> AdamW:
    """AdamW with weight decay on matrices and kernels only: gains and biases go free."""
    matrices = [p for p in module.parameters() if p.requires_grad and p.dim() >= 2]
    others = [p for p in module.parameters() if p.requires_grad and p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)


def learning_rate(step: int, total: int, config: OptimConfig) -> float:
    """Linear warm-up, then a cosine down to `final_lr`; `step` counts from 0."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = min(1.0, (step - config.warmup) / max(1, total - config.warmup))
    floor = config.final_lr
    return config.lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def set_learning_rate(optimizer: AdamW, lr: float) -> None:
    """Write `lr` into every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


class EMA:
    """Exponential moving average of parameters, moved in one call for all of them.

    The decay of step n is min(decay, (1 + n) / (10 + n)), so that a young average forgets its
    initial weights (TensorFlow's ExponentialMovingAverage with num_updates).
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.tensors = {name: p.detach().clone() for name, p in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move towards `module` behind step number `step`; integers are copied."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current = {name: local(tensor) for name, tensor in module.state_dict().items()}
        average = {name: local(tensor) for name, tensor in self.tensors.items()}  # the same memory
        floats = [name for name, tensor in average.items() if tensor.is_floating_point()]
        torch._foreach_lerp_(
            [average[name] for name in floats], [current[name] for name in floats], 1 - decay
        )
        for name in average.keys() - set(floats):
            average[name].copy_(current[name])


def gradient_norm(parameters: Iterable[Tensor], clip: float) -> Tensor:
    """Norm of all gradients, which are clipped to `clip` if it is above 0."""
    return whole(nn.utils.clip_grad_norm_(parameters, clip or math.inf))
