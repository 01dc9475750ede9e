"""The transformer of MaskGIT, as the published repository of MaskGIL has it beside its LLaMA.

LayerNorm, biases and learned positions; the class token stands last and attends jointly; the head
is the embedding table, with a bias per place and code. Source: MaskGIT (Chang et al., 2022) and
synbol/MaskGIL (4edf674). Shapes: B batch, N image tokens, D width, H heads, V codebook.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from Network.condition import ClassCondition
from Network.config import NetworkConfig
from Network.context import Context, KVCache
from Network.dropout import Dropout
from Network.gpt import attend

EDGE_EPS = 1e-12  # of the layer norms in front of the blocks and behind them, as in BERT


class MaskTransformer(nn.Module):
    """Bidirectional blocks over image tokens. `tokens == codebook_size` means hidden."""

    objectives = ("mar",)
    head_is_linear = True  # in the hidden state of a given place: so guidance may mix them

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.config = config
        width, num_tokens = config.width, config.grid[0] * config.grid[1]
        self.token_embedding = nn.Embedding(config.codebook_size + 1, width)
        self.condition = ClassCondition(config.num_classes, width)
        self.position_embedding = nn.Embedding(num_tokens + 1, width)
        self.first = nn.Sequential(*_edge(config), Dropout(config.dropout), _linear(width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.last = nn.Sequential(*_edge(config))
        self.bias = nn.Parameter(torch.zeros(num_tokens, config.codebook_size))
        self.apply(initialise)

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
        """Labels (B,) -> a context that holds no more than their embedding."""
        assert not causal, "see `objectives`"
        return Context(tokens=self.condition(condition))

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
        tokens = flat_tokens(tokens, self.config.grid)  # (B, N)
        x = torch.cat([self.token_embedding(tokens), context.tokens], 1)  # (B, N + 1, D)
        x = self.first(x + self.position_embedding.weight)
        for block in self.blocks:
            x = block(x)
        x = x[:, :-1] if rows is None else take_rows(x, rows)
        return self.last(x)

    def hidden_at_once(self, tokens: Tensor, condition: Tensor, causal: bool = False) -> Tensor:
        """What `hidden` of `encode` gives, (B, N, D)."""
        return self.hidden(tokens, self.encode(condition, causal), causal=causal)

    def head(self, hidden: Tensor, rows: Tensor | None = None) -> Tensor:
        """Hidden states (..., D) of the places rows (...) -> logits (..., V).

        Without rows they are those of all places in order, (B, N, D).
        """
        assert rows is not None or hidden.shape[-2] == len(self.bias), "say which rows"
        bias = self.bias if rows is None else self.bias[rows]
        return F.linear(hidden, self.token_embedding.weight[: self.mask_id]) + bias


class Block(nn.Module):
    """Attention and a feed-forward with GELU, each a residual branch behind its layer norm."""

    def __init__(self, config: NetworkConfig):
        super().__init__()
        width, inner = config.width, config.mlp_width or 4 * config.width
        self.heads = config.heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)  # rows: q, k, v
        self.out = nn.Linear(width, width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, inner), nn.GELU(), Dropout(config.dropout), nn.Linear(inner, width)
        )
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """X (B, n, D) -> (B, n, D)."""
        projected = self.qkv(self.attention_norm(x)).unflatten(-1, (3 * self.heads, -1))
        q, k, v = projected.transpose(1, 2).chunk(3, 1)  # (B, H, n, head_dim) each
        attended = attend(q, k, v, None).transpose(1, 2).flatten(2)  # (B, n, D)
        x = x + self.dropout(self.out(attended))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


def flat_tokens(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens (B, h, w) or (B, N) -> (B, N). Raises ValueError unless they fill `grid`."""
    found = tokens.shape[1:]
    if tuple(found) not in (grid, (grid[0] * grid[1],)):
        raise ValueError(
            f"This network has learned the places of the grid {grid[0]}x{grid[1]}, "
            f"not {'x'.join(map(str, found))}"
        )
    return tokens.flatten(1)


def take_rows(x: Tensor, rows: Tensor) -> Tensor:
    """X (B, n, D) -> its rows (B, M), as (B, M, D)."""
    return x.gather(1, rows[..., None].expand(-1, -1, x.shape[-1]))


def initialise(module: nn.Module) -> None:
    """Matrices N(0, 0.02), biases 0."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _edge(config: NetworkConfig) -> list[nn.Module]:
    """What stands in front of the blocks and behind them, without its end."""
    width = config.width
    norms = [nn.LayerNorm(width, eps=EDGE_EPS) for _ in range(2)]
    return [norms[0], Dropout(config.dropout), _linear(width), nn.GELU(), norms[1]]


def _linear(width: int) -> nn.Linear:
    return nn.Linear(width, width)
