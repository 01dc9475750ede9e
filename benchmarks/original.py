"""The published MaskGIL's network and step, as plain PyTorch: what its users train with today.

A pre-norm LLaMA without QK-norm, one table for codes, mask and classes, the class token last, one
dimension of rotary positions; dropout 0.1, loss on all positions, a head of one more output, AdamW
as PyTorch chooses it. Parameters are named as in its checkpoints; tests/test_original.py keeps it
equal to stored outputs of the published code.
Shapes: B images, N image tokens, S = N + 1 with the class token, D width, H heads, V codebook.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from Network.config import NetworkConfig


class OriginalNetwork(nn.Module):
    """Tokens and labels -> logits of all positions, one of them for the mask token."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.codes, num_tokens = config.codebook_size, config.grid[0] * config.grid[1]
        rows = self.codes + 1 + config.num_classes + 1  # codes, mask, classes, null
        self.tok_emb = nn.Embedding(rows, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.depth))
        self.norm = Norm(config.width)
        self.output = nn.Linear(config.width, self.codes + 1, bias=False)
        table = rotary(num_tokens, config.width // config.heads)
        self.register_buffer("table", table, persistent=False)  # (S, head_dim / 2, 2)

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Tokens (B, h, w), V where hidden, labels (B,) -> logits (B, N, V + 1)."""
        classes = (labels + self.codes + 1)[:, None]
        x = self.dropout(self.tok_emb(torch.cat([tokens.flatten(1), classes], 1)))  # (B, S, D)
        for layer in self.layers:
            x = layer(x, self.table)
        return self.output(self.norm(x))[:, :-1]


class Layer(nn.Module):
    """Attention and SwiGLU, each behind its normalisation."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm, self.ffn_norm = Norm(config.width), Norm(config.width)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """X (B, S, D) -> (B, S, D)."""
        x = x + self.attention(self.attention_norm(x), table)
        return x + self.feed_forward(self.ffn_norm(x))


class Attention(nn.Module):
    """Every token sees every token, the class token as one of them."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.wqkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.wo = nn.Linear(config.width, config.width, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """X (B, S, D) -> (B, S, D)."""
        q, k, v = self.wqkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)  # (B, S, H, head_dim)
        q, k = rotate(q, table).transpose(1, 2), rotate(k, table).transpose(1, 2)
        attended = F.scaled_dot_product_attention(q, k, v.transpose(1, 2))
        return self.dropout(self.wo(attended.transpose(1, 2).flatten(2)))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width, inner = config.width, math.ceil(8 * config.width / 3 / 256) * 256
        self.w1 = nn.Linear(width, inner, bias=False)
        self.w3 = nn.Linear(width, inner, bias=False)
        self.w2 = nn.Linear(inner, width, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """X (B, S, D) -> (B, S, D)."""
        return self.dropout(self.w2(F.silu(self.w1(x)) * self.w3(x)))


class Norm(nn.RMSNorm):
    """RMSNorm in float32."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """X (..., width) -> the same shape."""
        return super().forward(x.float())


def rotary(num_tokens: int, head_dim: int) -> Tensor:
    """Cosine and sine (S, head_dim / 2, 2): a row of zeros, then positions 0 to N - 1.

    The zeros were meant for a class token in front; as it stands last, they fall on image token 0.
    """
    frequencies = 10000.0 ** (-torch.arange(0, head_dim, 2) / head_dim)
    angles = torch.arange(num_tokens)[:, None] * frequencies
    return F.pad(torch.stack([angles.cos(), angles.sin()], -1), (0, 0, 0, 0, 1, 0))


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn neighbouring channels of x (B, S, H, head_dim), in float32."""
    real, imaginary = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = table[:, None].unbind(-1)
    turned = [real * cosine - imaginary * sine, real * sine + imaginary * cosine]
    return torch.stack(turned, -1).flatten(-2).type_as(x)


def original_network(config: NetworkConfig) -> OriginalNetwork:
    """A fresh network, ready to train."""
    network = OriginalNetwork(config)
    for weight in network.parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=0.02)
    return network.train()


def original_loss(network: nn.Module, masked: Tensor, labels: Tensor, tokens: Tensor) -> Tensor:
    """Smoothed cross-entropy of masked tokens (B, h, w), over all positions, hidden or not."""
    logits = network(masked, labels).flatten(0, 1).float()
    return F.cross_entropy(logits, tokens.flatten(), label_smoothing=0.1)


def original_optimizer(network: nn.Module) -> torch.optim.AdamW:
    """AdamW with the published settings; which of its implementations runs, PyTorch chooses."""
    return torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.9, 0.96), weight_decay=1e-5)
