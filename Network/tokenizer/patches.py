"""An encoder whose codes see their own pixels and nothing else.

The patch embedding of a ViT (Dosovitskiy et al., 2021) and a feed-forward network per patch in the
place of VQGAN's encoder. So equal patches have equal codes, whatever lies around them, and what is
flat costs a generator next to nothing; the decoder behind it sees all codes and mends their seams.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from Network.config import TokenizerConfig, UserError


class Encoder(nn.Module):
    """Images (B, 3, H, W) -> latents (B, C, h, w); `res_blocks` layers of each patch's own.

    Raises UserError for `encoder_middle`, which has no effect here.
    """

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        if config.encoder_middle != TokenizerConfig.encoder_middle:
            raise UserError(
                f"tokenizer.encoder_middle={config.encoder_middle} has no effect on the family "
                "patches, whose encoder has no middle: leave it out."
            )
        stride = 2 ** (len(config.multipliers) - 1)
        width = config.width * config.multipliers[-1]
        self.conv_in = nn.Conv2d(3, width, stride, stride)
        self.block = nn.ModuleList(Block(width) for _ in range(config.res_blocks))
        self.conv_out = nn.Conv2d(width, config.latent_width, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> latents (B, C, h, w)."""
        x = self.conv_in(images)
        for block in self.block:
            x = block(x)
        return self.conv_out(F.silu(x))


class Block(nn.Module):
    """A residual feed-forward network of each place by itself."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 1)
        self.conv2 = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """X (B, C, h, w) -> the same shape."""
        return x + self.conv2(F.silu(self.conv1(x)))
