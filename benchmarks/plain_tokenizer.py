"""The yardstick of tokenizers: VQ-16 as plain PyTorch computes it, channels first.

It borrows the weights of a tokenizer of ours and nothing else: what a competent rendering of the
published code uses, SiLU and fused attention among it. tests/test_plain_tokenizer.py keeps it equal
to ours. Shapes: B images, H x W pixels, C channels, h x w tokens, K codes of width D.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from Network.tokenizer.vq import VQTokenizer


class PlainTokenizer:
    """Images (B, 3, H, W) in [-1, 1] <-> tokens (B, h, w): taming, LlamaGen, Chameleon."""

    def __init__(self, tokenizer: VQTokenizer) -> None:
        weights: Any = copy.deepcopy(tokenizer).to(memory_format=torch.contiguous_format)
        self.encoder, self.decoder, self.quantiser = (
            weights.encoder, weights.decoder, weights.quantize,
        )  # fmt: skip
        self.to_codes, self.from_codes = weights.quant_conv, weights.post_quant_conv

    def encode(self, images: Tensor) -> Tensor:
        """Images -> tokens."""
        encoder, quantiser = self.encoder, self.quantiser
        x = encoder.conv_in(images)
        for level in encoder.down:
            x = blocks(level, x)
            if hasattr(level, "downsample"):
                x = level.downsample.conv(F.pad(x, (0, 1, 0, 1)))
        x = encoder.conv_out(F.silu(encoder.norm_out(middle(encoder.mid, x))))
        z = self.to_codes(x)
        flat = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])  # (B h w, D)
        codes = quantiser.embedding.weight
        if quantiser.l2_norm:
            flat, codes = F.normalize(flat, dim=1), F.normalize(codes, dim=1)
        squares = flat.square().sum(1, keepdim=True) + codes.square().sum(1)
        return (squares - 2 * flat @ codes.T).argmin(1).view(len(z), *z.shape[2:])

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens -> images, not clamped."""
        decoder, quantiser = self.decoder, self.quantiser
        codes = quantiser.embedding.weight
        codes = F.normalize(codes, dim=1) if quantiser.l2_norm else codes
        z = F.embedding(tokens, codes).permute(0, 3, 1, 2).contiguous()
        x = middle(decoder.mid, decoder.conv_in(self.from_codes(z)))
        for level in reversed(decoder.up):
            x = blocks(level, x)
            if hasattr(level, "upsample"):
                x = level.upsample.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return decoder.conv_out(F.silu(decoder.norm_out(x)))


def blocks(level: Any, x: Tensor) -> Tensor:
    """The residual blocks of a level, each with its attention where there is any."""
    for index, block in enumerate(level.block):
        x = residual(block, x)
        x = attention(level.attn[index], x) if len(level.attn) else x
    return x


def middle(module: Any, x: Tensor) -> Tensor:
    """Two residual blocks and attention between them, or nothing."""
    if isinstance(module, nn.Identity):
        return x
    return residual(module.block_2, attention(module.attn_1, residual(module.block_1, x)))


def residual(block: Any, x: Tensor) -> Tensor:
    """Norm, SiLU, convolution, twice; the shortcut behind it."""
    h = block.conv1(F.silu(block.norm1(x)))
    h = block.conv2(F.silu(block.norm2(h)))
    return (block.nin_shortcut(x) if hasattr(block, "nin_shortcut") else x) + h


def attention(block: Any, x: Tensor) -> Tensor:
    """Single-head attention over all places, or nothing."""
    if isinstance(block, nn.Identity):
        return x
    normed = block.norm(x)
    q, k, v = (
        layer(normed).flatten(2).transpose(1, 2) for layer in (block.q, block.k, block.v)
    )  # (B, H W, C)
    out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    return x + block.proj_out(out.reshape(x.shape))
