"""The Bi-LLaMA as its authors released it: its weights need other positions than ours.

The class token stands last and attends jointly with the image, so nothing of it can be computed
ahead. Positions are those of `published_table`. Source: synbol/MaskGIL (4edf674).
Shapes: B batch, N image tokens, D width.
"""

import torch
from torch import Tensor

from Network.condition import Captions
from Network.context import Context, KVCache
from Network.gpt import GPT
from Network.rotary import published_table


class PublishedGPT(GPT):
    """`GPT` over one sequence of image tokens and condition, bidirectional alone."""

    objectives = ("mar",)

    def encode(self, condition: Tensor | Captions, causal: bool = False) -> Context:
        """Labels (B,) -> a context that holds no more than their embedding."""
        assert not causal, "see `objectives`"
        return Context(tokens=self._embed_condition(condition))

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
        assert context.tokens is not None
        grid, tokens = self._grid(tokens)
        num_tokens, head_dim = tokens.shape[1], self.config.width // self.config.heads
        x = torch.cat([self._embed(tokens, grid), context.tokens], 1)  # (B, N + 1, D)
        table = published_table(num_tokens, head_dim, x.device)
        for index, block in enumerate(self.blocks):
            last = index == len(self.blocks) - 1
            x, _, _ = block(x, table, rows=rows if last else None)
        return self.norm(x[:, :num_tokens] if rows is None else x)

    def hidden_at_once(
        self, tokens: Tensor, condition: Tensor | Captions, causal: bool = False
    ) -> Tensor:
        """What `hidden` of `encode` gives, (B, N, D)."""
        return self.hidden(tokens, self.encode(condition, causal), causal=causal)
