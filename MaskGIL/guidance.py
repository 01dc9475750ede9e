"""Classifier-free guidance and the draw of tokens: scale, temperature, truncation.

Guidance with scale s is null + s (cond - null) (Ho & Salimans, 2022, with s = 1 + w); 1 is off.
Shapes: B batch, M rows, V codebook.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from MaskGIL.config import SamplingConfig

# name -> scale at a progress in [0, 1] when the asked scale is s
GUIDANCE: dict[str, Callable[[float, float], float]] = {
    "constant": lambda scale, progress: scale,
    "linear": lambda scale, progress: 1 + (scale - 1) * progress,
}


def guide(conditional: Tensor, null: Tensor, scale: float) -> Tensor:
    """Null + scale (conditional - null), elementwise over tensors of one shape."""
    return torch.lerp(null.float(), conditional.float(), scale)


def draw_tokens(logits: Tensor, noise: Tensor, sampling: SamplingConfig) -> tuple[Tensor, Tensor]:
    """Draw one token per row of logits (B, M, V) by inverse CDF from uniforms noise (B, M).

    Temperature and top-k shape the draw. Returns tokens (B, M) int64 and the log-probability
    (B, M) that the untempered, untruncated logits give them.
    """
    shaped = logits if sampling.temperature == 1 else logits / sampling.temperature
    if sampling.top_k:
        kept = min(sampling.top_k, logits.shape[-1])
        shaped = shaped.masked_fill(shaped < shaped.topk(kept).values[..., -1:], -torch.inf)
    cumulative = shaped.softmax(-1).cumsum_(-1)
    target = noise[..., None] * cumulative[..., -1:]
    tokens = torch.searchsorted(cumulative, target, right=True)  # never one of probability 0
    tokens = tokens.clamp_max_(logits.shape[-1] - 1)
    confidence = logits.gather(-1, tokens)[..., 0] - logits.logsumexp(-1)
    return tokens[..., 0], confidence
