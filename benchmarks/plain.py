"""The yardstick: our network and the published sampler, as plain PyTorch has them.

Written on its own, with nothing of ours but the configuration, and with what a competent rendering
uses: fused QKV, SDPA, F.rms_norm, real-valued rotary, one sequence with an attention mask.
tests/test_plain.py keeps it equal to ours and free of needless matrix work.
Shapes: B images, N image tokens, S = 1 + N with the class token, D width, H heads, V codebook.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from MaskGIL.sampling import SamplingConfig
from Network.config import NetworkConfig

Attention = Callable[..., Tensor]  # queries, keys, values (B, H, S, head_dim), attn_mask= (S, S)


class PlainNetwork(nn.Module):
    """The default architecture: post-norm, QK-norm, embed norm, two-dimensional rotary."""

    def __init__(
        self, config: NetworkConfig, attention: Attention = F.scaled_dot_product_attention
    ) -> None:
        super().__init__()
        width, head_dim = config.width, config.width // config.heads
        self.token_embedding = nn.Embedding(config.codebook_size + 1, width)
        self.label_embedding = nn.Embedding(config.num_classes + 1, width)
        self.embed_norm = Norm(width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(PlainBlock(config, attention) for _ in range(config.depth))
        self.norm = Norm(width)
        self.output = nn.Linear(width, config.codebook_size, bias=False)
        self.grid = height, grid_width = config.grid
        learned = config.learned_positions
        self.position_embedding = nn.Embedding(height * grid_width, width) if learned else None
        cosine, sine = rotary(height, grid_width, head_dim)
        length = 1 + height * grid_width
        allowed = torch.ones(length, length, dtype=torch.bool)
        allowed[0, 1:] = False  # the class token sees itself alone, image tokens see everything
        self.register_buffer("cosine", cosine, persistent=False)  # (S, head_dim / 2)
        self.register_buffer("sine", sine, persistent=False)
        self.register_buffer("allowed", allowed, persistent=False)

    def forward(self, tokens: Tensor, labels: Tensor, rows: Tensor | None = None) -> Tensor:
        """Tokens (B, h, w), labels (B,) -> logits (B, N, V), or (M, V) of flat rows (M,)."""
        label = self.label_embedding(labels)[:, None]
        x = self.token_embedding(tokens.flatten(1))  # (B, N, D)
        x = x if self.position_embedding is None else x + self.position_embedding.weight
        x = torch.cat([label, x], 1)  # (B, S, D)
        x = self.dropout(self.embed_norm(x))
        for block in self.blocks:
            x = block(x, self.cosine, self.sine, self.allowed)
        x = self.norm(x[:, 1:])  # (B, N, D)
        return self.output(x if rows is None else x.flatten(0, 1)[rows])


class PlainBlock(nn.Module):
    """Attention and SwiGLU, each normalised before it is added."""

    def __init__(self, config: NetworkConfig, attention: Attention) -> None:
        super().__init__()
        self.attention = attention
        width, self.heads = config.width, config.heads
        inner = math.ceil(8 * width / 3 / 256) * 256
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_norm = Norm(width // config.heads)
        self.k_norm = Norm(width // config.heads)
        self.out = nn.Linear(width, width, bias=False)
        self.attention_norm = Norm(width)
        self.gate = nn.Linear(width, inner, bias=False)
        self.up = nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)
        self.feed_forward_norm = Norm(width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        cosine: Tensor,
        sine: Tensor,
        allowed: Tensor,
        cache: Tensor | None = None,
        place: int = 0,
    ) -> Tensor:
        """X (B, S, D) -> (B, S, D).

        With a cache (2, B, H, S, head_dim) x is token number `place` alone, and attends to all of
        the cache that is `allowed`.
        """
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)  # (B, S, H, head_dim)
        q = rotate(self.q_norm(q), cosine, sine).to(v.dtype)
        k = rotate(self.k_norm(k), cosine, sine).to(v.dtype)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if cache is not None:
            cache[0, :, :, place], cache[1, :, :, place] = k[:, :, 0], v[:, :, 0]
            k, v = cache.unbind()
        attended = self.attention(q, k, v, attn_mask=allowed)
        attended = self.out(attended.transpose(1, 2).flatten(2))
        x = x + self.dropout(self.attention_norm(attended))
        fed = self.down(F.silu(self.gate(x)) * self.up(x))
        return x + self.dropout(self.feed_forward_norm(fed))


def unfused_attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor) -> Tensor:
    """Attention as its formula stands, softmax in float32; arguments and result as of SDPA."""
    scores = (q * q.shape[-1] ** -0.5) @ k.mT  # (B, H, S, S)
    weights = scores.masked_fill(~attn_mask, -torch.inf).softmax(-1, dtype=torch.float32)
    return weights.to(v.dtype) @ v


class Norm(nn.RMSNorm):
    """RMSNorm in float32: with bfloat16 inputs and float32 gains PyTorch leaves its fast path."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """X (..., width) -> the same shape."""
        return super().forward(x.float())


def rotary(height: int, width: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine (1 + height * width, head_dim / 2), angle 0 for the class token."""
    frequencies = 10000.0 ** (-torch.arange(head_dim // 4) / (head_dim // 4))
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    angles = torch.cat([p.flatten()[:, None] * frequencies for p in (row, column)], 1)
    angles = F.pad(angles, (0, 0, 1, 0))
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn x (B, S, H, head_dim): channel i of its first half and of its second are a pair."""
    cosine, sine = cosine[:, None], sine[:, None]
    first, second = x.chunk(2, -1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], -1)


@torch.no_grad()
def sample(
    network: PlainNetwork, labels: Tensor, counts: list[int], settings: SamplingConfig
) -> Tensor:
    """Decode an empty grid for labels (B,); step i reveals counts[i] tokens. Returns (B, h, w).

    As published samplers do it: every step computes the logits of all positions under the condition
    and under the null condition, draws every token, and keeps the most confident draws. The
    guidance scale grows linearly from 1.
    """
    grid, mask_id = network.grid, network.output.out_features
    tokens = torch.full((len(labels), grid[0] * grid[1]), mask_id, device=labels.device)
    null = torch.full_like(labels, network.label_embedding.num_embeddings - 1)
    both = torch.cat([labels, null])
    for step, count in enumerate(counts):
        progress = step / (len(counts) - 1) if len(counts) > 1 else 1.0
        scale = 1 + (settings.guidance_scale - 1) * progress
        given, free = network(torch.cat([tokens, tokens]), both).float().chunk(2)
        logits = free + scale * (given - free)  # (B, N, V)
        probabilities = (logits / settings.temperature).softmax(-1)
        drawn = torch.multinomial(probabilities.flatten(0, 1), 1).view_as(tokens)
        confidence = logits.log_softmax(-1).gather(-1, drawn[..., None])[..., 0]  # (B, N)
        gumbel = -torch.empty_like(confidence).exponential_().log()
        confidence += settings.noise * (1 - progress) * gumbel
        confidence[tokens != mask_id] = -torch.inf
        chosen = confidence.topk(count).indices
        tokens.scatter_(1, chosen, drawn.gather(1, chosen))
    return tokens.unflatten(1, grid)


@torch.no_grad()
def sample_in_order(
    network: PlainNetwork, labels: Tensor, settings: SamplingConfig, dtype: torch.dtype
) -> Tensor:
    """Decode token after token with a cache of `dtype`, for labels (B,). Returns (B, h, w).

    As LlamaGen does it: both conditions in one batch all along, the cache as long as the sequence
    and attended to as a whole behind a mask, all logits of both, constant guidance.
    """
    length, null = len(network.cosine), network.label_embedding.num_embeddings - 1
    both = torch.cat([labels, torch.full_like(labels, null)])
    block = network.blocks[0]
    head_dim = len(block.q_norm.weight)
    shape = (len(network.blocks), 2, len(both), block.heads, length, head_dim)
    caches = torch.zeros(shape, dtype=dtype, device=labels.device)
    seen = torch.ones(length, length, dtype=torch.bool, device=labels.device).tril()
    x, drawn = network.label_embedding(both)[:, None], []  # (2 B, 1, D)
    for place in range(length - 1):
        x, here = network.embed_norm(x), slice(place, place + 1)
        for block, cache in zip(network.blocks, caches):
            x = block(x, network.cosine[here], network.sine[here], seen[here], cache, place)
        given, free = network.output(network.norm(x[:, 0])).float().chunk(2)
        logits = free + settings.guidance_scale * (given - free)  # (B, V)
        drawn.append(torch.multinomial((logits / settings.temperature).softmax(-1), 1))
        x = network.token_embedding(torch.cat([drawn[-1], drawn[-1]]))
        if network.position_embedding is not None:
            x = x + network.position_embedding.weight[place]
    return torch.cat(drawn, 1).unflatten(1, network.grid)


# Names of parameters: ours -> here
RENAMED = {
    "condition.table": "label_embedding",
    ".attention.": ".",
    ".feed_forward.": ".",
    "_norm_out": "_norm",
}


def plain_copy(
    network: nn.Module,
    config: NetworkConfig,
    attention: Attention = F.scaled_dot_product_attention,
) -> PlainNetwork:
    """A plain network with the weights, the device and the mode of ours."""
    state = {}
    for name, tensor in network.state_dict().items():
        for ours, plain in RENAMED.items():
            name = name.replace(ours, plain)
        state[name] = _pairs_apart(name, tensor, config.heads)
    copy = PlainNetwork(config, attention)
    copy.load_state_dict(state)
    return copy.to(next(network.parameters()).device).train(network.training)


def _pairs_apart(name: str, tensor: Tensor, heads: int) -> Tensor:
    """Ours turns neighbouring channels of queries and keys; here they lie half a head apart."""
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        return tensor.unflatten(0, (-1, 2)).transpose(0, 1).flatten()
    if name.endswith("qkv.weight"):
        q, k, v = tensor.unflatten(0, (3, heads, -1, 2))  # (H, head_dim / 2, 2, D)
        q, k = q.transpose(1, 2), k.transpose(1, 2)
        return torch.cat([part.flatten(0, 2) for part in (q, k, v)])
    return tensor
