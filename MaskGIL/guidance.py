"""Classifier-free guidance: how strong at each progress, and what it makes of two passes.

Guidance with scale s is null + s (cond - null) (Ho & Salimans, 2022, with s = 1 + w); 1 is off.
Shapes: B batch, M rows, D width.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from MaskGIL.sampling import SamplingConfig
from Network.config import UserError
from Network.head import Head

# name -> scale at a progress in [0, 1] when the asked scale is s and the power is p
GUIDANCE: dict[str, Callable[[float, float, float], float]] = {
    "constant": lambda s, progress, p: s,
    "linear": lambda s, progress, p: 1 + (s - 1) * progress,
    "cosine": lambda s, progress, p: 1 + (s - 1) * (1 - math.cos(math.pi * progress**p)) / 2,
}


def scale_at(sampling: SamplingConfig, progress: float) -> float:
    """The guidance scale at a progress in [0, 1]; 1 outside [guidance_from, guidance_until].

    The power-cosine is that of MDT (Gao et al., 2023), the interval that of Kynkaanniemi et al.
    (2024). Raises UserError for guidance that nobody knows.
    """
    if sampling.guidance not in GUIDANCE:
        raise UserError(f"Unknown guidance {sampling.guidance!r}. Known: {', '.join(GUIDANCE)}.")
    if not sampling.guidance_from <= progress <= sampling.guidance_until:
        return 1.0
    scale = GUIDANCE[sampling.guidance]
    return scale(sampling.guidance_scale, progress, sampling.guidance_power)


def guide(conditional: Tensor, null: Tensor, scale: float) -> Tensor:
    """Null + scale (conditional - null), elementwise over tensors of one shape."""
    wide = torch.promote_types(null.dtype, torch.float32)
    return torch.lerp(null.to(wide), conditional.to(wide), scale)


@dataclass
class PartLogits:
    """Guided logits of tokens that are predicted in parts, one part at a time.

    A large codebook never becomes a row of all its codes. `hidden` (B, M, D) are the states under
    the condition and, where there is guidance, under the null condition.
    """

    head: Head
    hidden: Sequence[Tensor]
    scale: float = 1.0

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes of each part."""
        return self.head.sizes

    def next(self, earlier: Sequence[Tensor]) -> Tensor:
        """Logits (B, M, size) of the part behind the earlier ones (B, M)."""
        conditional, *null = [self.head.part_logits(hidden, earlier) for hidden in self.hidden]
        return guide(conditional, null[0], self.scale) if null else conditional
