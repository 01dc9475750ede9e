"""The VQGAN encoder and decoder (Esser et al., 2021), with the key names of taming-transformers.

Level 0 is the full resolution in both; the decoder runs from the last level to level 0.
"""

from torch import Tensor, nn

from Network.config import TokenizerConfig
from Network.Taming.blocks import AttentionBlock, Downsample, ResBlock, Upsample, group_norm, swish


class Level(nn.Module):
    """Residual blocks of one resolution, attention behind each where configured, a resampling."""

    def __init__(self, config: TokenizerConfig, level: int, channels_in: int, depth: int):
        super().__init__()
        channels, groups = config.width * config.multipliers[level], config.groups
        widths = [channels_in] + [channels] * (depth - 1)
        self.block = nn.ModuleList(ResBlock(width, channels, groups) for width in widths)
        num_attention = depth if level in config.attention_levels else 0
        self.attn = nn.ModuleList(AttentionBlock(channels, groups) for _ in range(num_attention))

    def forward(self, x: Tensor) -> Tensor:
        """X (B, C_in, H, W) -> (B, C, H, W), resampled where the level has a resampling."""
        for index, block in enumerate(self.block):
            x = block(x)
            x = self.attn[index](x) if len(self.attn) else x
        for resampling in ("downsample", "upsample"):
            x = getattr(self, resampling)(x) if hasattr(self, resampling) else x
        return x


class Middle(nn.Module):
    """Two residual blocks, attention between them if asked for, at the lowest resolution."""

    def __init__(self, config: TokenizerConfig, with_attention: bool):
        super().__init__()
        channels, groups = config.width * config.multipliers[-1], config.groups
        attention = AttentionBlock(channels, groups) if with_attention else None
        self.block_1 = ResBlock(channels, channels, groups)
        self.attn_1 = attention or nn.Identity()
        self.block_2 = ResBlock(channels, channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        """X (B, C, h, w) -> the same shape."""
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Images (B, 3, H, W) -> latents (B, C, h, w)."""

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        widths = [config.width * multiplier for multiplier in config.multipliers]
        self.conv_in = nn.Conv2d(3, config.width, 3, padding=1)
        self.down = nn.ModuleList()
        for level, (width_in, width) in enumerate(zip([config.width, *widths], widths)):
            self.down.append(Level(config, level, width_in, config.res_blocks))
            if level < len(widths) - 1:
                self.down[-1].downsample = Downsample(width)
        self.mid = _middle(config, config.encoder_middle)
        self.norm_out = group_norm(widths[-1], config.groups)
        self.conv_out = nn.Conv2d(widths[-1], config.latent_width, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> latents (B, C, h, w)."""
        x = self.conv_in(images)
        for level in self.down:
            x = level(x)
        return self.conv_out(swish(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Latents (B, C, h, w) -> images (B, 3, H, W), not clamped."""

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        widths = [config.width * multiplier for multiplier in config.multipliers]
        self.conv_in = nn.Conv2d(config.latent_width, widths[-1], 3, padding=1)
        self.mid = _middle(config, config.decoder_middle)
        self.up = nn.ModuleList()
        for level, width in enumerate(widths):
            width_in = widths[min(level + 1, len(widths) - 1)]
            self.up.append(Level(config, level, width_in, config.res_blocks + 1))
            if level > 0:
                self.up[-1].upsample = Upsample(width)
        self.norm_out = group_norm(widths[0], config.groups)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> images (B, 3, H, W) around [-1, 1]."""
        x = self.mid(self.conv_in(latents))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(swish(self.norm_out(x)))


def _middle(config: TokenizerConfig, kind: str) -> nn.Module:
    return nn.Identity() if kind == "none" else Middle(config, kind == "attention")
