"""The codebook at both ends of a network: tokens -> embeddings, hidden states -> logits.

A token of a large codebook is taken apart into two smaller ones, its low and its high bits (6 + 12
of 18 bits, as in Open-MAGVIT2): the embeddings of the parts are summed, the second part is
predicted from the hidden state and the first. So 2^18 codes cost as much as 4,160.
Shapes: D width, V codebook, L low parts, H high parts, L H = V.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from Network.config import NetworkConfig
from Network.feed_forward import FeedForward
from Network.norm import RMSNorm
from Network.tokenizer.lookup_free import join_tokens, split_tokens


class Head(Protocol):
    """Logits of a token, part after part. A plain head has one part, the token itself."""

    sizes: tuple[int, ...]
    is_affine: bool  # in the hidden state: then guidance may mix hidden states

    def part_logits(self, hidden: Tensor, earlier: Sequence[Tensor] = ()) -> Tensor:
        """Hidden (..., D), earlier parts (...) of the token -> logits (..., size) of the next."""
        ...

    def split(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """Tokens of any shape -> their parts, first the one that is predicted first."""
        ...

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The tokens which `split` took apart."""
        ...


class PlainHead(nn.Linear):
    """One matrix: hidden (..., D) -> logits (..., V)."""

    is_affine = True

    def __init__(self, width: int, codebook_size: int):
        super().__init__(width, codebook_size, bias=False)
        self.sizes = (codebook_size,)

    def forget(self) -> None:
        """Know nothing: every code alike."""
        nn.init.zeros_(self.weight)

    def part_logits(self, hidden: Tensor, earlier: Sequence[Tensor] = ()) -> Tensor:
        """Hidden (..., D) -> logits (..., V)."""
        return self(hidden)

    def split(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """Tokens are their only part."""
        return split_parts(tokens, self.sizes)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The only part is the token."""
        return join_parts(parts, self.sizes)


class FactorisedHead(nn.Module):
    """The low part from the hidden state, the high part from it and the low one.

    Between stands a residual SwiGLU: without it the logits of the high part would be a sum of what
    the hidden state says and of what the low part says, and could not be conditioned on both. The
    price is that the high part is not affine in the hidden state, so guidance mixes its logits.
    """

    is_affine = False

    def __init__(self, width: int, sizes: tuple[int, ...]):
        super().__init__()
        self.sizes = sizes
        self.low = nn.Linear(width, sizes[0], bias=False)
        self.low_embedding = nn.Embedding(sizes[0], width)
        self.feed_forward = FeedForward(width)
        self.norm = RMSNorm(width)
        self.high = nn.Linear(width, sizes[1], bias=False)

    def forget(self) -> None:
        """Know nothing: every code alike."""
        nn.init.zeros_(self.low.weight)
        nn.init.zeros_(self.high.weight)

    def part_logits(self, hidden: Tensor, earlier: Sequence[Tensor] = ()) -> Tensor:
        """Hidden (..., D) -> (..., L), or with low parts (...) those of the high part (..., H)."""
        if not earlier:
            return self.low(hidden)
        x = hidden + self.low_embedding(earlier[0])  # (..., D)
        return self.high(self.norm(x + self.feed_forward(x)))

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden (..., D) -> log-probabilities (..., V) of whole tokens: for small codebooks."""
        low = self.part_logits(hidden).log_softmax(-1)  # (..., L)
        every = torch.arange(self.sizes[0], device=hidden.device).expand(low.shape)
        high = self.part_logits(hidden[..., None, :], [every]).log_softmax(-1)  # (..., L, H)
        return (high + low[..., None]).mT.flatten(-2)  # token: high part x L + low part

    def split(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """Tokens of any shape -> their low and their high parts."""
        return split_parts(tokens, self.sizes)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The tokens of low and high parts."""
        return join_parts(parts, self.sizes)


class FactorisedEmbedding(nn.Module):
    """Tokens -> the sum of an embedding of each part; the mask token has a row of its own."""

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.sizes, self.mask_id = config.part_sizes, config.codebook_size
        self.parts = nn.ModuleList(nn.Embedding(size, config.width) for size in self.sizes)
        self.mask = nn.Embedding(1, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (...) in [0, V], V being the mask token -> (..., D)."""
        hidden = tokens == self.mask_id
        low, high = split_parts(tokens.masked_fill(hidden, 0), self.sizes)
        known = self.parts[0](low) + self.parts[1](high)
        return torch.where(hidden[..., None], self.mask.weight, known)


def build_head(config: NetworkConfig) -> PlainHead | FactorisedHead:
    """The head for `config.part_sizes`."""
    if len(config.part_sizes) == 1:
        return PlainHead(config.width, config.codebook_size)
    return FactorisedHead(config.width, config.part_sizes)


def build_embedding(config: NetworkConfig) -> nn.Embedding | FactorisedEmbedding:
    """Embeddings of all tokens and of the mask token, which is the last one."""
    if len(config.part_sizes) == 1:
        return nn.Embedding(config.codebook_size + 1, config.width)
    return FactorisedEmbedding(config)


def split_parts(tokens: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """Tokens of any shape -> their parts of `sizes` codes each, first what is predicted first."""
    return (tokens,) if len(sizes) == 1 else split_tokens(tokens, sizes[0].bit_length() - 1)


def join_parts(parts: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """The tokens which `split_parts` took apart."""
    low, *high = parts
    return join_tokens(low, high[0], sizes[0].bit_length() - 1) if high else low
