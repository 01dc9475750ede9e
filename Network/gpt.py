"""The LLaMA of MaskGIL: bidirectional for masked tokens (MAR), causal with a KV cache (AR).

Condition tokens attend only to each other, image tokens to everything, so what the condition
contributes (keys and values per block) is computed once per image: `encode`, then `hidden` as
often as needed; `hidden_at_once` does both in one pass, for training.
Shapes: B batch, N image tokens, P condition tokens, D width, H heads, V codebook.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from Network.attention import Attention, causal_mask, take_rows
from Network.condition import Captions, build_condition, condition_mask, with_seen
from Network.config import NetworkConfig
from Network.context import Context, KVCache
from Network.dropout import Dropout
from Network.feed_forward import FeedForward
from Network.head import build_embedding, build_head
from Network.norm import RMSNorm
from Network.rotary import condition_table, rotary_table
from Network.size_condition import SizeCondition


class GPT(nn.Module):
    """LLaMA blocks over image tokens. `tokens == codebook_size` means hidden."""

    objectives = ("mar", "ar", "both")  # of training that it is made for

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.config = config
        width = config.width
        self.token_embedding = build_embedding(config)
        self.condition = build_condition(config)
        num_tokens = config.grid[0] * config.grid[1]
        self.position_embedding = (
            nn.Embedding(num_tokens, width) if config.learned_positions else None
        )
        self.size_condition = SizeCondition(width) if config.size_condition else None
        self.embed_norm = RMSNorm(width) if config.embed_norm else nn.Identity()
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = RMSNorm(width)
        self.output = build_head(config)
        self.head_is_linear = self.output.is_affine  # so guidance may mix hidden states
        self.apply(_initialise)
        self.output.forget()

    @property
    def mask_id(self) -> int:
        """The token that stands for a hidden one."""
        return self.config.codebook_size

    @property
    def null_label(self) -> int:
        """The label of the null condition."""
        return self.condition.null

    def forward(self, tokens: Tensor, condition: Tensor | Captions, causal: bool = False) -> Tensor:
        """Tokens (B, h, w) or (B, N) and labels (B,) or captions -> logits (B, N, V)."""
        return self.head(self.hidden_at_once(tokens, condition, causal))

    def encode(self, condition: Tensor | Captions, causal: bool = False) -> Context:
        """Labels (B,) or captions -> the context of their images, for every step of decoding."""
        x = self._embed_condition(condition)  # (B, P, D)
        head_dim = self.config.width // self.config.heads
        table = condition_table(self.config.rotary, x.shape[1], head_dim, x.device)
        seen = condition.seen if isinstance(condition, Captions) else None
        mask = condition_mask(x.shape[1], seen, causal, x.device)
        context = Context([], [], mask=seen)
        for block in self.blocks:
            x, keys, values = block(x, table, mask=mask)
            # Laid out as joined ones are, or blocks would be compiled for both
            context.keys.append(keys.clone(memory_format=torch.contiguous_format))
            context.values.append(values.clone(memory_format=torch.contiguous_format))
        context.last = x[:, -1:] if causal else None
        return context

    def hidden(
        self,
        tokens: Tensor,
        context: Context,
        rows: Tensor | None = None,
        causal: bool = False,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Hidden states before the head: (B, N, D), or (B, M, D) of rows (B, M) int64.

        Row j predicts token rows[:, j]. In causal order it has seen the tokens before it; a
        `cache` then keeps what earlier calls computed: `rows` must be those that follow the rows
        of the last call, the same for all images, and only tokens before the last one are read. In
        bidirectional order it has seen all tokens, and the cache must be None.
        """
        grid, tokens = self._grid(tokens)
        if causal:
            return self._hidden_causal(tokens, grid, context, rows, cache)
        assert cache is None
        x, table = self._embed(tokens, grid), self._table(grid, tokens.device, context.positions)
        mask = with_seen(None, context.mask, x.shape[1])
        for index, block in enumerate(self.blocks):
            last = index == len(self.blocks) - 1
            past = (context.keys[index], context.values[index])
            x, _, _ = block(x, table, past=past, mask=mask, rows=rows if last else None)
        return self.norm(x)

    def hidden_at_once(
        self, tokens: Tensor, condition: Tensor | Captions, causal: bool = False
    ) -> Tensor:
        """What `hidden` of `encode` gives, (B, N, D), in one pass.

        Faster where a context serves once: condition and tokens share every matrix product.
        """
        if isinstance(condition, Captions) and condition.mask is not None:  # two masks, two passes
            return self.hidden(tokens, self.encode(condition, causal), causal=causal)
        grid, tokens = self._grid(tokens)
        condition_tokens = self._embed_condition(condition)  # (B, P, D)
        seen = tokens[:, :-1] if causal else tokens  # nothing stands behind the last one
        x = torch.cat([condition_tokens, self._embed(seen, grid)], 1)
        head_dim, num_condition = self.config.width // self.config.heads, condition_tokens.shape[1]
        table = torch.cat(
            [
                condition_table(self.config.rotary, num_condition, head_dim, x.device),
                self._table(grid, x.device)[: seen.shape[1]],
            ]
        )
        apart = 0 if causal else num_condition  # a triangle keeps the condition to itself anyway
        for block in self.blocks:
            x, _, _ = block(x, table, num_condition=apart, causal=causal)
        return self.norm(x[:, num_condition - causal :])  # its last token predicts image token 0

    def head(self, hidden: Tensor, rows: Tensor | None = None) -> Tensor:
        """Hidden states (..., D) -> logits (..., V) over exactly the codes of the tokenizer.

        `rows` (...) are their places in the grid, which this head has no use for; without them
        hidden is (B, N, D). A factorised head gives log-probabilities.
        """
        return self.output(hidden)

    def _hidden_causal(
        self,
        tokens: Tensor,
        grid: tuple[int, int],
        context: Context,
        rows: Tensor | None,
        cache: KVCache | None,
    ) -> Tensor:
        assert context.last is not None, "encode the condition with causal=True"
        first, asked = 0, tokens.shape[1]  # tokens stored, rows answered behind this call
        if cache:  # counted, never read from `rows`: that would wait for the device
            first = cache.length
            asked = asked if rows is None else cache.rows + rows.shape[1]
        x = self._embed(tokens[:, first : asked - 1], grid, first)  # (B, n, D)
        table = self._table(grid, tokens.device, context.positions)[first : asked - 1]
        num_earlier = context.keys[0].shape[2] + first
        mask = causal_mask(x.shape[1], num_earlier, x.device) if x.shape[1] > 1 else None
        mask = with_seen(mask, context.mask, first + x.shape[1])
        if x.shape[1]:
            for index, block in enumerate(self.blocks):
                past = (context.keys[index], context.values[index])
                store = cache.room(index, past) if cache else None
                x, _, _ = block(x, table, past=past, mask=mask, store=store)
        if not cache or not cache.rows:
            x = torch.cat([context.last, x], 1)  # row j predicts token j
        if cache:
            cache.rows = asked
        elif rows is not None:
            x = take_rows(x, rows)
        return self.norm(x)

    def _embed_condition(self, condition: Tensor | Captions) -> Tensor:
        """Labels (B,), shares of classes or captions -> (B, P, D)."""
        if self.config.null_condition == "mask_token":  # as in eMIGM (You et al., 2025)
            hidden = torch.full((1,), self.mask_id, device=self.norm.weight.device)
            null = self.token_embedding(hidden)  # (1, D)
            return self.dropout(self.embed_norm(self.condition(condition, null)))
        return self.dropout(self.embed_norm(self.condition(condition)))

    def _embed(self, tokens: Tensor, grid: tuple[int, int], first: int = 0) -> Tensor:
        """Tokens (B, n), of which the first stands at position `first` of the grid -> (B, n, D)."""
        x = self.token_embedding(tokens)
        if self.position_embedding is not None:
            if grid != self.config.grid:
                learned = "{}x{}".format(*self.config.grid)
                raise ValueError(
                    f"A network with learned_positions has learned the grid {learned}, "
                    f"not {grid[0]}x{grid[1]}"
                )
            x = x + self.position_embedding.weight[first : first + tokens.shape[1]]
        if self.size_condition is not None:
            x = x + self.size_condition(grid)
        return self.dropout(self.embed_norm(x))

    def _table(
        self, grid: tuple[int, int], device: torch.device, positions: str = "none"
    ) -> Tensor:
        config, head_dim = self.config, self.config.width // self.config.heads
        longest, base = config.longest_sides, config.rotary_base
        return rotary_table(*grid, head_dim, device, positions, longest, base)

    def _grid(self, tokens: Tensor) -> tuple[tuple[int, int], Tensor]:
        if tokens.dim() == 3:
            return (tokens.shape[1], tokens.shape[2]), tokens.flatten(1)
        height, width = self.config.grid
        if tokens.shape[1] != height * width:
            raise ValueError(
                f"{tokens.shape[1]} tokens do not fill the grid {height}x{width} of network.grid; "
                "give tokens as (batch, height, width)"
            )
        return (height, width), tokens


class Block(nn.Module):
    """Attention and SwiGLU, each a residual branch with its normalisation before or behind."""

    def __init__(self, config: NetworkConfig):
        super().__init__()
        pre, post = config.norm != "post", config.norm != "pre"
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config.width)
        self.attention_norm_in = RMSNorm(config.width) if pre else nn.Identity()
        self.attention_norm_out = RMSNorm(config.width) if post else nn.Identity()
        self.feed_forward_norm_in = RMSNorm(config.width) if pre else nn.Identity()
        self.feed_forward_norm_out = RMSNorm(config.width) if post else nn.Identity()
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        table: Tensor,
        *,
        past: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
        rows: Tensor | None = None,
        store: tuple[Tensor, int] | None = None,
        num_condition: int = 0,
        causal: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """X (B, n, D) -> the same, or its rows (B, M, D), and the keys and values it made."""
        x_in = self.attention_norm_in(x)
        branch, keys, values = self.attention(
            x_in,
            table,
            past=past,
            mask=mask,
            rows=rows,
            store=store,
            num_condition=num_condition,
            causal=causal,
        )
        x = x if rows is None else take_rows(x, rows)
        x = x + self.dropout(self.attention_norm_out(branch))
        branch = self.feed_forward(self.feed_forward_norm_in(x))
        return x + self.dropout(self.feed_forward_norm_out(branch)), keys, values


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
