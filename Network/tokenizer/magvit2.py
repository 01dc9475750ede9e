"""The encoder and decoder of Open-MAGVIT2 (Luo et al., 2024), with its key names.

Facts from SEED-Voken (b9a17eac): no attention, residual convolutions without bias, the statistics
of the quantised grid as the decoder's style. Shapes: B batch, H x W pixels, h x w tokens, C code
width, D channels.
"""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from Network.config import TokenizerConfig
from Network.Taming.blocks import ResBlock, group_norm, swish


class Encoder(nn.Module):
    """Images (B, 3, H, W) -> latents (B, C, h, w)."""

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        widths = [config.width * multiplier for multiplier in config.multipliers]
        self.conv_in = nn.Conv2d(3, config.width, 3, padding=1, bias=False)
        self.down = nn.Sequential()
        for level, (width_in, width) in enumerate(zip([config.width, *widths], widths)):
            self.down.append(_level(config, width_in, width))
            if level < len(widths) - 1:  # symmetric padding, unlike taming-transformers
                halve = nn.Conv2d(width, width, 3, stride=2, padding=1)
                self.down[-1].add_module("downsample", halve)
        self.mid_block = _residual_blocks(config, widths[-1], widths[-1])
        self.norm_out = group_norm(widths[-1], config.groups)
        self.conv_out = nn.Conv2d(widths[-1], config.latent_width, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> latents (B, C, h, w)."""
        x = self.mid_block(self.down(self.conv_in(images)))
        return self.conv_out(swish(self.norm_out(x)))


class Decoder(nn.Module):
    """Codes (B, C, h, w) -> images (B, 3, H, W), not clamped.

    The style of each level is global: an image depends on the whole grid of codes, so it cannot be
    decoded in tiles, and a grid of one token has no deviation: NaN, as in the original, which
    `VQTokenizer` refuses.
    """

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        widths = [config.width * multiplier for multiplier in config.multipliers]
        self.conv_in = nn.Conv2d(config.latent_width, widths[-1], 3, padding=1)
        self.mid_block = _residual_blocks(config, widths[-1], widths[-1])
        self.up, self.adaptive = nn.ModuleList(), nn.ModuleList()
        for level, (width, width_in) in enumerate(zip(widths, [*widths[1:], widths[-1]])):
            self.up.append(_level(config, width_in, width))
            if level > 0:
                self.up[-1].add_module("upsample", DepthToSpace(width))
            self.adaptive.append(AdaptiveNorm(config.latent_width, width_in, config.groups))
        self.norm_out = group_norm(widths[0], config.groups)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, codes: Tensor) -> Tensor:
        """Codes (B, C, h, w) -> images (B, 3, H, W) around [-1, 1]."""
        x = self.mid_block(self.conv_in(codes))
        for adaptive, level in zip(reversed(self.adaptive), reversed(self.up)):
            x = level(adaptive(x, codes))
        return self.conv_out(swish(self.norm_out(x)))


class DepthToSpace(nn.Module):
    """Double the resolution: a convolution to four times the channels, dealt out in 2x2 squares."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4 * channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """X (B, D, H, W) -> (B, D, 2H, 2W).

        The place in the square is the outer index of the channels, (2 dy + dx) D + d; that of
        `F.pixel_shuffle` is the inner one.
        """
        places = self.conv1(x).movedim(1, -1).unflatten(3, (2, 2, -1))  # (B, H, W, dy, dx, D)
        return places.transpose(2, 3).flatten(3, 4).flatten(1, 2).movedim(-1, 1)


class AdaptiveNorm(nn.Module):
    """GroupNorm whose gain and bias follow from deviation and mean of the quantised grid."""

    def __init__(self, code_width: int, channels: int, groups: int):
        super().__init__()
        self.groups = groups
        self.gamma = nn.Linear(code_width, channels)
        self.beta = nn.Linear(code_width, channels)

    def forward(self, x: Tensor, codes: Tensor) -> Tensor:
        """X (B, D, H, W) and codes (B, C, h, w) -> (B, D, H, W)."""
        deviation = (codes.var((2, 3), correction=1) + 1e-6).sqrt()  # (B, C)
        gain, bias = self.gamma(deviation), self.beta(codes.mean((2, 3)))  # (B, D)
        normed = F.group_norm(x, self.groups, eps=1e-6)
        return gain[:, :, None, None] * normed + bias[:, :, None, None]


def _level(config: TokenizerConfig, channels_in: int, channels: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(block=_residual_blocks(config, channels_in, channels)))


def _residual_blocks(config: TokenizerConfig, channels_in: int, channels: int) -> nn.Sequential:
    widths = [channels_in] + [channels] * (config.res_blocks - 1)
    return nn.Sequential(*(ResBlock(w, channels, config.groups, bias=False) for w in widths))
