"""Building blocks of the VQGAN encoder and decoder, under the names of its public checkpoints.

Facts from taming-transformers (3ba01b24): GroupNorm of 32 groups and eps 1e-6, swish, asymmetric
padding when downsampling. Shapes: (B, C, H, W).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# A row per tap of the transposed convolution that equals doubling, then a convolution of 3 taps
_TAPS = ((0, 0, 1), (0, 1, 1), (1, 1, 0), (1, 0, 0))


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    """GroupNorm with eps 1e-6; its groups must divide the channels."""
    return nn.GroupNorm(groups, channels, eps=1e-6)


def swish(normed: Tensor) -> Tensor:
    """X * sigmoid(x) of what a normalisation gave, in its place if no gradient needs it there."""
    return F.silu(normed, inplace=not normed.requires_grad)


def double_and_convolve(x: Tensor, convolution: nn.Conv2d) -> Tensor:
    """X (B, C, H, W) -> (B, C', 2H, 2W): nearest neighbour, then the 3x3 convolution.

    Of the nine pixels that a tap reads four at most differ, so kernels are summed before: a
    transposed convolution of 4x4 taps and stride 2, with 4/9 of the products.
    """
    taps = torch.tensor(_TAPS, dtype=torch.float32, device=x.device)
    kernel = torch.einsum("ai,bj,ocij->coab", taps, taps, convolution.weight.float())
    kernel = kernel.to(x.dtype).contiguous(memory_format=torch.channels_last)
    return F.conv_transpose2d(x, kernel, convolution.bias, stride=2, padding=1)


class ResBlock(nn.Module):
    """Pre-activation residual block; a 1x1 shortcut where the number of channels changes.

    `bias` is that of its convolutions; Open-MAGVIT2's have none.
    """

    def __init__(self, channels_in: int, channels_out: int, groups: int, bias: bool = True):
        super().__init__()
        self.norm1 = group_norm(channels_in, groups)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=bias)
        self.norm2 = group_norm(channels_out, groups)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=bias)
        if channels_in != channels_out:
            self.nin_shortcut = nn.Conv2d(channels_in, channels_out, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """X (B, C_in, H, W) -> (B, C_out, H, W)."""
        branch = self.conv1(swish(self.norm1(x)))
        branch = self.conv2(swish(self.norm2(branch)))
        shortcut = self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x
        return branch.add_(shortcut)  # no layer looks at what it gave again


class AttentionBlock(nn.Module):
    """Residual single-head attention over all positions, scaled by C^-0.5."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.norm = group_norm(channels, groups)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """X (B, C, H, W) -> the same shape."""
        normed = self.norm(x)
        q, k, v = (layer(normed).flatten(2).mT[:, None] for layer in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q, k, v)[:, 0]  # (B, H W, C)
        return x + self.proj_out(attended.mT.unflatten(2, x.shape[2:]))


class Downsample(nn.Module):
    """Halve the resolution: one zero row and column right and below, then a stride of 2."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """X (B, C, H, W) -> (B, C, H/2, W/2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the resolution: nearest neighbour, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """X (B, C, H, W) -> (B, C, 2H, 2W)."""
        return double_and_convolve(x, self.conv)
