"""What a transformer remembers of an image between two calls: its condition, and tokens seen.

Shapes: B batch, P condition tokens, N image tokens, D width, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Context:
    """What image tokens need of the condition: per block keys and values (B, H, P, head_dim).

    `last` (B, 1, D) is the last condition token behind all blocks: it predicts image token 0 in
    causal order, and is None in bidirectional order.
    """

    keys: list[Tensor]
    values: list[Tensor]
    last: Tensor | None = None

    @staticmethod
    def cat(contexts: list[Context]) -> Context:
        """Join along the batch, as guidance does with condition and null condition."""
        depth = range(len(contexts[0].keys))
        lasts = [context.last for context in contexts if context.last is not None]
        return Context(
            [torch.cat([context.keys[block] for context in contexts]) for block in depth],
            [torch.cat([context.values[block] for context in contexts]) for block in depth],
            torch.cat(lasts) if lasts else None,
        )


@dataclass
class KVCache:
    """Keys and values of the image tokens seen so far, per block; grows in place up to N."""

    num_tokens: int
    length: int = 0
    buffers: dict[int, Tensor] = field(default_factory=dict)

    def extend(self, block: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, H, n, head_dim); return all so far (B, H, length + n, .)."""
        batch, heads, new, width = keys.shape
        if block not in self.buffers:
            self.buffers[block] = keys.new_empty(2, batch, heads, self.num_tokens, width)
        buffer, end = self.buffers[block], self.length + new
        buffer[0, :, :, self.length : end] = keys
        buffer[1, :, :, self.length : end] = values
        return buffer[0, :, :, :end], buffer[1, :, :, :end]
