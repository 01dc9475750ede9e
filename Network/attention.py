"""Attention of the LLaMA, and the product at its heart, which the other networks share.

Keys and values may have fewer heads than queries (grouped-query attention, Ainslie et al., 2023).
Shapes: B batch, n tokens given, m keys, M rows asked for, D width, H heads, G of keys and values.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from Network.config import NetworkConfig
from Network.context import KVCache
from Network.norm import RMSNorm
from Network.rotary import rotate


class Attention(nn.Module):
    """Multi-head attention with QK-norm before the rotation and fused projections.

    A head of keys and values serves H / G heads of queries that follow each other.
    """

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.head_dim = config.width // config.heads
        self.heads = config.heads, config.key_heads, config.key_heads  # of q, k and v
        num_rows = sum(self.heads) * self.head_dim  # of q, then of k, then of v
        self.qkv = nn.Linear(config.width, num_rows, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)
        self.q_norm = RMSNorm(self.head_dim) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.head_dim) if config.qk_norm else nn.Identity()

    def forward(
        self,
        x: Tensor,
        table: Tensor,
        *,
        past: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
        rows: Tensor | None,
        store: tuple[KVCache, int] | None,
        num_condition: int,
        causal: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """X (B, n, D) attends to `past`, the stored tokens and itself; queries may be rows only.

        The first `num_condition` tokens attend only to each other, and `past` is none of theirs.
        `causal` tokens attend to those before them and to themselves.
        """
        q, k, v = self._project(x, rows)
        q = rotate(self.q_norm(q), table if rows is None else table[rows]).to(v.dtype)
        k = rotate(self.k_norm(k), table).to(v.dtype)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, n, head_dim)
        keys, values = k, v
        if past is not None and store:
            keys, values = store[0].extend(store[1], past, k, v)
        elif past is not None:
            keys, values = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        attended = attend(q[:, :, num_condition:], keys, values, mask, causal).transpose(1, 2)
        if num_condition:
            q, keys, values = (t[:, :, :num_condition] for t in (q, keys, values))
            first = attend(q, keys, values, None).transpose(1, 2)
            attended = torch.cat([first, attended], 1)  # (B, n, H, head_dim)
        return self.out(attended.flatten(2)), k, v

    def _project(self, x: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        heads = (-1, self.head_dim)
        if rows is None:
            q, k, v = self.qkv(x).unflatten(-1, heads).split(self.heads, 2)  # (B, n, H, head_dim)
            return q, k, v
        width = x.shape[-1]
        q = F.linear(take_rows(x, rows), self.qkv.weight[:width])  # (B, M, D)
        k, v = F.linear(x, self.qkv.weight[width:]).chunk(2, -1)
        return q.unflatten(-1, heads), k.unflatten(-1, heads), v.unflatten(-1, heads)


def attend(
    q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool = False
) -> Tensor:
    """Scaled dot-product attention of q (B, H, n, head_dim) over keys and values (B, G, m, .).

    `mask` (n, m) is True where a query sees a key; `causal` says that it is a triangle.
    """
    if keys.shape[2] == 1:
        each = values.unsqueeze(2).expand(-1, -1, q.shape[1] // values.shape[1], -1, -1)
        return each.flatten(1, 2).expand_as(q)  # whatever the only score is, its softmax is 1
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        # The fused kernel's backward pass is 2 to 5 times slower here (torch 2.15, AVX512-BF16)
        mask = causal_mask(q.shape[2], 0, q.device) if causal else mask
        scores = _by_head(q * q.shape[-1] ** -0.5, keys.mT)  # (B, H, n, m)
        scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
        return _by_head(scores.softmax(-1).to(values.dtype), values)
    grouped = q.shape[1] != keys.shape[1]
    return F.scaled_dot_product_attention(
        q, keys, values, attn_mask=mask, is_causal=causal, enable_gqa=grouped
    )


def _by_head(left: Tensor, right: Tensor) -> Tensor:
    """Left (B, H, n, a) times right (B, G, a, b), a matrix of which serves H / G: (B, H, n, b).

    Heads that share a matrix are taken as more rows, so that it is not copied.
    """
    batch, heads, num_rows, _ = left.shape
    rows = left.reshape(batch, right.shape[1], -1, left.shape[-1])  # (B, G, H / G n, a)
    return (rows @ right).view(batch, heads, num_rows, right.shape[-1])


def take_rows(x: Tensor, rows: Tensor) -> Tensor:
    """X (B, n, D) -> its rows (B, M), as (B, M, D)."""
    return x.gather(1, rows[..., None].expand(-1, -1, x.shape[-1]))


def causal_mask(num_queries: int, num_earlier: int, device: torch.device) -> Tensor:
    """Keys (n, num_earlier + n) that a query sees: what is earlier, those before it and itself."""
    ones = torch.ones(num_queries, num_earlier + num_queries, dtype=torch.bool, device=device)
    return ones.tril(num_earlier)
