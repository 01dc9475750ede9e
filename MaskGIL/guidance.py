"""Classifier-free guidance and the draw of tokens: scale, temperature, truncation.

Guidance with scale s is null + s (cond - null) (Ho & Salimans, 2022, with s = 1 + w); 1 is off.
Shapes: B batch, M rows, V codebook.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from MaskGIL.sampling import SamplingConfig
from Network.head import Head

# name -> scale at a progress in [0, 1] when the asked scale is s
GUIDANCE: dict[str, Callable[[float, float], float]] = {
    "constant": lambda scale, progress: scale,
    "linear": lambda scale, progress: 1 + (scale - 1) * progress,
}


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


def draw_tokens(
    logits: Tensor | PartLogits, noise: Tensor | Sequence[Tensor], sampling: SamplingConfig
) -> tuple[Tensor, Tensor]:
    """Draw one token per row of logits (B, M, V) by inverse CDF from uniforms noise (B, M).

    Temperature and top-k shape the draw; of tokens in parts, that of every part, each with
    uniforms of its own. Returns tokens (B, M) int64 and the log-probability (B, M) that the
    untempered, untruncated logits give them.
    """
    noises = [noise] if isinstance(noise, Tensor) else noise
    if isinstance(logits, Tensor):
        return _draw(logits.float(), noises[0], sampling)
    parts: list[Tensor] = []
    confidence = torch.zeros_like(noises[0])
    for uniforms in noises:
        drawn, log_probability = _draw(logits.next(parts).float(), uniforms, sampling)
        parts.append(drawn)
        confidence = confidence + log_probability
    return logits.head.join(parts), confidence


def _draw(logits: Tensor, noise: Tensor, sampling: SamplingConfig) -> tuple[Tensor, Tensor]:
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
