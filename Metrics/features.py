"""Our own small feature network, "shapesnet-1": what the shapes demo is scored with.

Trained by `Metrics.train_features` to read drawn pictures and how they were degraded. Distances of
its features compare sets of pictures with each other only: they are no FID and never called so.
B batch, C channels, h, w a level's grid.
"""

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from Network.config import UserError
from Network.files import load_strict, read_tensors

WEIGHTS = Path(__file__).with_name("shapesnet.safetensors")
SHA256 = "bd21034dfc43aa55b8be8dbae1193c6ff52f748066f6be42f361c380c9cd6636"
INPUT_SIZE = 64
WIDTHS = (24, 40, 64)  # of the levels at 32x32, 16x16 and 8x8; their sum is the feature width


class FeatureNetwork(nn.Module):
    """Pictures -> standardised features of three depths: texture, parts, and what stands where.

    The first two levels are averaged over the picture, so they see blur and noise anywhere; the
    last keeps a 4x4 grid, so it sees positions. `name` and `sha256` identify it in results.
    """

    def __init__(self) -> None:
        super().__init__()
        self.name, self.sha256, self.width = "shapesnet-1", "", sum(WIDTHS)
        texture, parts, whole = WIDTHS
        self.texture = nn.Sequential(_layer(3, texture, 5, 2), _layer(texture, texture, 3, 1))
        self.parts = nn.Sequential(_layer(texture, parts, 3, 2), _layer(parts, parts, 3, 1))
        self.whole = nn.Sequential(_layer(parts, whole, 3, 2), _layer(whole, whole, 3, 1))
        self.project = nn.Linear(whole * 4 * 4, whole)
        self.standardise = nn.BatchNorm1d(sum(WIDTHS), affine=False)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 128) float32 of images (B, 3, H, W) or (B, H, W, 3) uint8.

        Any other size is first resized to 64x64, bilinearly and antialiased, in float32.
        """
        assert images.dtype == torch.uint8, images.dtype
        images = images if images.shape[1] == 3 else images.movedim(-1, 1)
        images = images.float().contiguous(memory_format=torch.channels_last)  # twice as fast
        texture = self.texture(resized(images) / 127.5 - 1)  # (B, 24, 32, 32)
        parts = self.parts(texture)  # (B, 40, 16, 16)
        whole = self.whole(parts)  # (B, 64, 8, 8)
        whole = self.project(F.avg_pool2d(whole, 2).flatten(1))  # (B, 64)
        return self.standardise(torch.cat([texture.mean((2, 3)), parts.mean((2, 3)), whole], 1))


def load_feature_network() -> FeatureNetwork:
    """The trained network, frozen, on the CPU. Raises UserError for a missing or another file."""
    tensors = read_tensors(WEIGHTS)
    if hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() != SHA256:
        raise UserError(
            f"{WEIGHTS} is not the file this version was made with (its sha256 differs): "
            "restore it from the repository, or train it with `make features` and set SHA256."
        )
    network = FeatureNetwork()
    load_strict(network, tensors, WEIGHTS)
    network.sha256 = SHA256
    return network.eval().requires_grad_(False)


def resized(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) float at 64x64, bilinearly and antialiased."""
    if images.shape[-2:] == (INPUT_SIZE, INPUT_SIZE):
        return images
    size = (INPUT_SIZE, INPUT_SIZE)
    return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)


def _layer(channels: int, width: int, kernel: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())
