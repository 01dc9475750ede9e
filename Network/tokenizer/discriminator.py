"""The PatchGAN discriminator (Isola et al., 2017), with taming-transformers' (3ba01b24) key names.

LlamaGen and Open-MAGVIT2 train with the same one. Shapes: B images, H x W pixels, h x w patches.
"""

from itertools import pairwise

from torch import Tensor, nn

MOST = 8  # times the width at most


class PatchDiscriminator(nn.Module):
    """Images -> a logit for each patch: is it real? `depth` convolutions halve the resolution."""

    def __init__(self, width: int = 64, depth: int = 3):
        super().__init__()
        channels = [width * min(2**level, MOST) for level in range(depth + 1)]
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, padding=1), nn.LeakyReLU(0.2)]
        for level, (width_in, width_out) in enumerate(pairwise(channels), start=1):
            stride = 2 if level < depth else 1
            layers += [
                nn.Conv2d(width_in, width_out, 4, stride, padding=1, bias=False),
                nn.BatchNorm2d(width_out),
                nn.LeakyReLU(0.2),
            ]
        self.main = nn.Sequential(*layers, nn.Conv2d(channels[-1], 1, 4, padding=1))
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> logits (B, 1, h, w), above 0 for real."""
        return self.main(images)

    @staticmethod
    def smallest_side(depth: int) -> int:
        """Pixels along a side of the smallest image that has a patch."""
        return 3 * 2**depth


def _initialise(layer: nn.Module) -> None:
    """N(0, 0.02) for kernels, N(1, 0.02) for gains, no biases (Radford et al., 2016)."""
    if isinstance(layer, nn.Conv2d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)
        nn.init.zeros_(layer.bias)
