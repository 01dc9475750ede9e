"""The transformer of Halton-MaskGIT: the class enters by adaptive norms alone.

Learned positions, one register token, QK-norm over the whole width before the heads are split; the
head is the embedding table, with a bias per code. Source: valeoai/Halton-MaskGIT (f61b0a1), after
DiT (Peebles and Xie, 2023). Shapes: B batch, N image tokens, D width, H heads, V codebook.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from Network.condition import ClassCondition
from Network.config import NetworkConfig
from Network.context import Context, KVCache
from Network.dropout import Dropout
from Network.feed_forward import FeedForward
from Network.gpt import attend
from Network.norm import RMSNorm
from Network.transformer import flat_tokens, initialise, take_rows


class HaltonTransformer(nn.Module):
    """Adaptive blocks over image tokens. `tokens == codebook_size` means hidden."""

    objectives = ("mar",)
    head_is_linear = True  # so guidance may mix hidden states instead of logits

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.config = config
        width = config.width
        self.token_embedding = nn.Embedding(config.codebook_size + 1, width)
        self.condition = ClassCondition(config.num_classes, width)
        self.position_embedding = nn.Embedding(config.grid[0] * config.grid[1], width)
        self.register = nn.Embedding(1, width)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.modulation = nn.Linear(width, 2 * width)
        self.norm = RMSNorm(width)
        self.norm_bias = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(config.codebook_size))
        self.apply(initialise)
        for block in self.blocks:  # so every block begins as the identity, as in DiT
            assert isinstance(block, Block)
            nn.init.zeros_(block.modulation.weight)
        nn.init.zeros_(self.modulation.weight)

    @property
    def mask_id(self) -> int:
        """The token that stands for a hidden one."""
        return self.config.codebook_size

    @property
    def null_label(self) -> int:
        """The label of the null condition."""
        return self.condition.null

    def forward(self, tokens: Tensor, condition: Tensor, causal: bool = False) -> Tensor:
        """Tokens (B, h, w) or (B, N) and labels (B,) -> logits (B, N, V)."""
        return self.head(self.hidden_at_once(tokens, condition, causal))

    def encode(self, condition: Tensor, causal: bool = False) -> Context:
        """Labels (B,) -> shift, scale and gate of every branch, shift and scale of the end."""
        assert not causal, "see `objectives`"
        activated = F.silu(self.condition(condition))  # (B, 1, D)
        parts = [*(block.modulation for block in self.blocks), self.modulation]
        return Context(vectors=[_vectors(part, activated) for part in parts])

    def hidden(
        self,
        tokens: Tensor,
        context: Context,
        rows: Tensor | None = None,
        causal: bool = False,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Hidden states before the head: (B, N, D), or (B, M, D) of rows (B, M) int64."""
        assert not causal, "see `objectives`"
        assert cache is None
        x = self._embed(tokens)
        for block, vectors in zip(self.blocks, context.vectors):
            x = block(x, vectors)
        x = x[:, :-1] if rows is None else take_rows(x, rows)
        return self._end(x, context.vectors[-1])

    def hidden_at_once(self, tokens: Tensor, condition: Tensor, causal: bool = False) -> Tensor:
        """What `hidden` of `encode` gives, (B, N, D), each block computing its own vectors.

        So nothing of a block is used outside of it, where its weights may be on other ranks.
        """
        assert not causal, "see `objectives`"
        activated, x = F.silu(self.condition(condition)), self._embed(tokens)
        for block in self.blocks:
            x = block(x, activated=activated)
        return self._end(x[:, :-1], _vectors(self.modulation, activated))

    def head(self, hidden: Tensor, rows: Tensor | None = None) -> Tensor:
        """Hidden states (..., D) -> logits (..., V), alike at every place."""
        return F.linear(hidden, self.token_embedding.weight[: self.mask_id], self.bias)

    def _embed(self, tokens: Tensor) -> Tensor:
        """Tokens (B, h, w) or (B, N) -> (B, N + 1, D), the register last."""
        tokens = flat_tokens(tokens, self.config.grid)  # (B, N)
        x = self.dropout(self.token_embedding(tokens) + self.position_embedding.weight)
        register = self.register.weight.expand(len(tokens), -1, -1)
        return torch.cat([x, register.to(x.dtype)], 1)

    def _end(self, x: Tensor, vectors: Tensor) -> Tensor:
        """The last norm of x (B, M, D), shifted and scaled by vectors (B, 2, D)."""
        shift, scale = vectors.split(1, 1)  # (B, 1, D) each
        return _modulate(self.norm(x) + self.norm_bias, shift, scale)


class Block(nn.Module):
    """Attention and SwiGLU, each a residual branch whose norm and size the condition sets."""

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.modulation = nn.Linear(config.width, 6 * config.width)
        self.attention_norm = RMSNorm(config.width)
        self.attention = Attention(config)
        self.feed_forward_norm = RMSNorm(config.width)
        self.feed_forward = FeedForward(config.width)
        self.dropout = Dropout(config.dropout)

    def forward(
        self, x: Tensor, vectors: Tensor | None = None, activated: Tensor | None = None
    ) -> Tensor:
        """X (B, n, D) and vectors (B, 6, D): shift, scale, gate of either branch -> (B, n, D).

        Without vectors they are computed from the `activated` condition (B, 1, D).
        """
        if vectors is None:
            assert activated is not None
            vectors = _vectors(self.modulation, activated)
        shift, scale, gate, shift_2, scale_2, gate_2 = vectors.split(1, 1)  # (B, 1, D) each
        branch = self.attention(_modulate(self.attention_norm(x), shift, scale))
        x = x + gate * self.dropout(branch)
        branch = self.feed_forward(_modulate(self.feed_forward_norm(x), shift_2, scale_2))
        return x + gate_2 * self.dropout(branch)


class Attention(nn.Module):
    """Multi-head attention; its heads need not fill the width."""

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.heads = config.heads
        inner = config.width // config.heads * config.heads
        self.qkv = nn.Linear(config.width, 3 * inner, bias=False)  # rows: q, k, v
        self.out = nn.Linear(inner, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """X (B, n, D) -> (B, n, D)."""
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k = _unit(q), _unit(k)
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (q, k, v))
        return self.out(attend(q, k, v, None).transpose(1, 2).flatten(2))


def _vectors(modulation: nn.Module, activated: Tensor) -> Tensor:
    """The activated condition (B, 1, D) -> vectors (B, 6 or 2, D)."""
    return modulation(activated).unflatten(-1, (-1, activated.shape[-1]))[:, 0]


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift


def _unit(x: Tensor) -> Tensor:
    """X (..., n) with root mean square 1, without a weight; eps as in `RMSNorm`."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return F.rms_norm(x.to(wide), x.shape[-1:], eps=1e-5).to(x.dtype)
