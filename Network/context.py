"""What a transformer remembers of an image between two calls: its condition, and tokens seen.

Shapes: B batch, P condition tokens, N image tokens, D width, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor


@dataclass
class Context:
    """What image tokens need of the condition: per block keys and values (B, H, P, head_dim).

    `last` (B, 1, D) is the last condition token behind all blocks: it predicts image token 0 in
    causal order, and is None in bidirectional order. `mask` (B, 1, 1, P) is False at condition
    tokens that nobody may look at, None where there are none such.
    Other networks have instead `tokens` (B, P, D), the embedded condition, where it attends jointly
    with the image; or `vectors`, per block (B, 6, D) and at the end (B, 2, D), of adaptive norms.
    `positions` is how those of a grid beyond training are had, a row of `INTERPOLATIONS`.
    """

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    last: Tensor | None = None
    mask: Tensor | None = None
    tokens: Tensor | None = None
    vectors: list[Tensor] = field(default_factory=list)
    positions: str = "none"

    @staticmethod
    def cat(contexts: list[Context]) -> Context:
        """Join along the batch, as guidance does with condition and null condition."""
        names = [part.name for part in fields(Context)]
        return Context(**{name: _cat([getattr(each, name) for each in contexts]) for name in names})


@dataclass
class KVCache:
    """Keys and values of condition and image tokens seen so far, per block, in one place.

    The room for all is taken at once and filled in place. `rows` counts the predictions made.
    """

    num_tokens: int
    rows: int = 0
    buffers: dict[int, Tensor] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Image tokens stored: the last one is read only when its successor is asked for."""
        return max(0, self.rows - 1)

    def room(self, block: int, past: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
        """Keys and values of a block, (2, B, H, P + num_tokens, head_dim), and where new ones go.

        In front stand those of the condition, `past` (B, H, P, head_dim) each.
        """
        batch, heads, num_condition, width = past[0].shape
        if block not in self.buffers:
            room = past[0].new_empty(2, batch, heads, num_condition + self.num_tokens, width)
            room[:, :, :, :num_condition] = torch.stack(past)
            self.buffers[block] = room
        return self.buffers[block], num_condition + self.length

    @staticmethod
    def cat(caches: list[KVCache]) -> KVCache:
        """Join along the batch caches that have seen equally many tokens, as guidance does."""
        first = caches[0]
        assert all(cache.rows == first.rows for cache in caches)
        buffers = {i: torch.cat([each.buffers[i] for each in caches], 1) for i in first.buffers}
        return KVCache(first.num_tokens, first.rows, buffers)

    def first(self, batch: int) -> KVCache:
        """Of the first `batch` images alone; the memory of the others is free then."""
        buffers = {i: buffer[:, :batch].clone() for i, buffer in self.buffers.items()}
        return KVCache(self.num_tokens, self.rows, buffers)


def _cat(parts: list[Any]) -> Any:
    """Join tensors, or lists of them place by place; nothing and a word, alike in all, stay."""
    if isinstance(parts[0], list):
        return [torch.cat(tensors) for tensors in zip(*parts, strict=True)]
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    assert all(part == parts[0] for part in parts)
    return parts[0]
