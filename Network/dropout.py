"""Dropout as PyTorch has it, but on a CPU with four decisions from each random number.

There drawing is what takes the time: PyTorch draws a number per decision.
"""

import torch
from torch import Tensor, nn

_LEVELS = 2**16  # of 16 bits: probabilities are multiples of their inverse


class Dropout(nn.Dropout):
    """Sets a share `p` of all numbers to zero in training, and scales the others by 1 / (1 - p).

    On a CPU p is rounded down to a multiple of 2^-16, in both places.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Input of any shape -> the same shape; draws from PyTorch's default generator."""
        is_plain = input.device.type != "cpu" or torch.compiler.is_compiling()
        if not self.training or not self.p or is_plain:
            return super().forward(input)
        return input * _factors(input, int(self.p * _LEVELS))


def _factors(like: Tensor, dropped: int) -> Tensor:
    """0 for `dropped` of 2^16 equally likely levels, else what makes up for them, shaped `like`."""
    draws = torch.empty(-(-like.numel() // 4), dtype=torch.int64, device=like.device)
    levels = draws.random_(-(2**63), None).view(torch.int16)[: like.numel()].view(like.shape)
    kept = levels.ge_(dropped - _LEVELS // 2)  # 1 or 0
    return kept.to(like.dtype).mul_(_LEVELS / (_LEVELS - dropped))
