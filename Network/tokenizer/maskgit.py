"""Encoder and decoder of MaskGIT's VQGAN (Chang et al., 2022): convolutions only, no attention.

Names and arithmetic of its PyTorch port (bytedance/1d-tokenizer 942a96fb, the same module as
huggingface/open-muse 64e1afe0). Level 0 is the full resolution; the decoder runs from the last.
"""

from torch import Tensor, nn

from Network.config import TokenizerConfig
from Network.Taming.blocks import double_and_convolve, group_norm, swish


class Encoder(nn.Module):
    """Images (B, 3, H, W) -> latents (B, C, h, w); reads no setting of attention or middle."""

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        num_levels = len(config.multipliers)
        width = _channels(config, num_levels - 1)
        self.conv_in = nn.Conv2d(3, config.width, 3, padding=1, bias=False)
        self.down = nn.Sequential(*(Down(config, level) for level in range(num_levels)))
        self.mid = _blocks(config, width, width)
        self.norm_out = group_norm(width, config.groups)
        self.conv_out = nn.Conv2d(width, config.latent_width, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), in [0, 1] for the public weights -> latents (B, C, h, w)."""
        x = self.mid(self.down(self.conv_in(images)))
        return self.conv_out(swish(self.norm_out(x)))


class Decoder(nn.Module):
    """Latents (B, C, h, w) -> images (B, 3, H, W); reads no setting of attention or middle."""

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        num_levels = len(config.multipliers)
        width = _channels(config, num_levels - 1)
        self.conv_in = nn.Conv2d(config.latent_width, width, 3, padding=1)
        self.mid = _blocks(config, width, width)
        self.up = nn.ModuleList(Up(config, level) for level in range(num_levels))
        self.norm_out = group_norm(_channels(config, 0), config.groups)
        self.conv_out = nn.Conv2d(_channels(config, 0), 3, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> images (B, 3, H, W), about [0, 1] for the public weights."""
        x = self.mid(self.conv_in(latents))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(swish(self.norm_out(x)))


class Down(nn.Module):
    """Residual blocks of one resolution; behind all but the last level, means of 2x2 pixels."""

    def __init__(self, config: TokenizerConfig, level: int):
        super().__init__()
        width_in = _channels(config, level - 1) if level else config.width
        is_last = level == len(config.multipliers) - 1
        self.block = _blocks(config, width_in, _channels(config, level))
        self.pool = nn.Identity() if is_last else nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """X (B, C_in, H, W) -> (B, C, H/2, W/2), of the last level (B, C, H, W)."""
        return self.pool(self.block(x))


class Up(nn.Module):
    """Residual blocks of one resolution; above level 0, nearest neighbour and a convolution."""

    def __init__(self, config: TokenizerConfig, level: int):
        super().__init__()
        width = _channels(config, level)
        above = min(level + 1, len(config.multipliers) - 1)
        self.block = _blocks(config, _channels(config, above), width)
        if level:
            self.upsample_conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """X (B, C_in, H, W) -> (B, C, 2H, 2W), of level 0 (B, C, H, W)."""
        x = self.block(x)
        return double_and_convolve(x, self.upsample_conv) if hasattr(self, "upsample_conv") else x


class ResBlock(nn.Module):
    """Pre-activation block without biases; residual only where the channels stay the same.

    Elsewhere the published code, in PyTorch as in JAX, feeds its 1x1 shortcut with the branch
    instead of the block's input, and the public weights need it so.
    """

    def __init__(self, channels_in: int, channels_out: int, groups: int):
        super().__init__()
        self.norm1 = group_norm(channels_in, groups)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.norm2 = group_norm(channels_out, groups)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        if channels_in != channels_out:
            self.nin_shortcut = nn.Conv2d(channels_out, channels_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """X (B, C_in, H, W) -> (B, C_out, H, W)."""
        branch = self.conv1(swish(self.norm1(x)))
        branch = self.conv2(swish(self.norm2(branch)))
        shortcut = self.nin_shortcut(branch) if hasattr(self, "nin_shortcut") else x
        return branch + shortcut if shortcut is not x else branch.add_(x)


def _blocks(config: TokenizerConfig, channels_in: int, channels_out: int) -> nn.Sequential:
    widths = [channels_in] + [channels_out] * (config.res_blocks - 1)
    return nn.Sequential(*(ResBlock(width, channels_out, config.groups) for width in widths))


def _channels(config: TokenizerConfig, level: int) -> int:
    return config.width * config.multipliers[level]
