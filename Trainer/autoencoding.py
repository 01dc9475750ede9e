"""What a tokenizer makes of images, and a discriminator of both: the module that DDP wraps.

Shapes: B images, H x W pixels, C code width, h x w tokens.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from Network.tokenizer.discriminator import PatchDiscriminator
from Network.tokenizer.vq import VQTokenizer
from Trainer.adversary import Verdicts, verdicts
from Trainer.config import ReconstructionConfig


class Reconstructed(NamedTuple):
    """What becomes of images (B, 3, H, W)."""

    images: Tensor  # (B, 3, H, W), not clamped
    latents: Tensor  # (B, C, h, w)
    tokens: Tensor  # (B, h, w)
    losses: dict[str, Tensor]  # the quantiser's terms, weighted
    verdicts: Verdicts | None


class Reconstruction(nn.Module):
    """A tokenizer and, if it has one, its discriminator.

    `means` (2,) are what LeCam remembers: the mean logit of real and of drawn images.
    """

    means: Tensor

    def __init__(self, tokenizer: VQTokenizer, discriminator: PatchDiscriminator | None = None):
        super().__init__()
        self.tokenizer = tokenizer
        self.discriminator = discriminator
        if discriminator is not None:
            self.register_buffer("means", torch.zeros(2))

    def forward(self, images: Tensor, contest: bool = False) -> Reconstructed:
        """Images (B, 3, H, W) in [-1, 1] -> their reconstruction, in a contest also verdicts."""
        latents = self.tokenizer.latents(images)
        codes, tokens, losses = self.tokenizer.quantise(latents)
        drawn, found = self.tokenizer.pixels(codes), None
        if contest:
            assert self.discriminator is not None
            found = verdicts(self.discriminator, images, drawn)
        return Reconstructed(drawn, latents, tokens, losses, found)


def pixel_loss(error: Tensor, config: ReconstructionConfig) -> Tensor:
    """Weighted mean of absolute and squared error (B, 3, H, W), of pixels in [-1, 1]."""
    return config.l1 * error.abs().mean() + config.l2 * error.square().mean()
