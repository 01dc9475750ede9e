"""How alike two images are, pixel by pixel and window by window.

B batch, H height, W width; images (B, 3, H, W) uint8, values 0 to 255.
"""

import torch
from torch import Tensor

WINDOW, SIGMA = 11, 1.5  # of SSIM's Gaussian, in pixels
STABLE = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # its C1 and C2
IDENTICAL = 100.0  # dB, for no error at all; one grey level in one value of 256x256 is 101


def psnr(first: Tensor, second: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (B,) in dB: 10 log10(255^2 / mean squared error), at most 100."""
    error = (first.float() - second.float()).square().mean((1, 2, 3))
    return (10 * torch.log10(255**2 / error)).clamp(max=IDENTICAL)


def absolute_error(first: Tensor, second: Tensor) -> Tensor:
    """Mean absolute difference (B,), in grey levels."""
    return (first.float() - second.float()).abs().mean((1, 2, 3))


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity (B,) of images of at least 11x11, the mean of the three channels.

    Wang et al. 2004, eq. 13, with their Gaussian window of 11x11 at sigma 1.5, wherever it lies
    within the image. scikit-image's default is another one: a square of 7x7.
    """
    first, second = (images.float() - 128 for images in (first, second))  # smaller squares
    moments = torch.cat([first, second, first.square(), second.square(), first * second])
    mean1, mean2, square1, square2, product = _blurred(moments).chunk(5)  # (B, 3, H - 10, W - 10)
    variances = square1 - mean1.square() + square2 - mean2.square()
    covariance = product - mean1 * mean2
    mean1, mean2 = mean1 + 128, mean2 + 128
    stable1, stable2 = STABLE
    luminance = (2 * mean1 * mean2 + stable1) / (mean1.square() + mean2.square() + stable1)
    structure = (2 * covariance + stable2) / (variances + stable2)
    return (luminance * structure).mean((1, 2, 3))


def _blurred(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) -> (B, 3, H - 10, W - 10), weighted by the window.

    As products of matrices: a convolution of one channel takes three times as long on a CPU.
    """
    height, width = images.shape[-2:]
    return _windows(height, images.device) @ images @ _windows(width, images.device).T


def _windows(size: int, device: torch.device) -> Tensor:
    """(S - 10, S): in row i the weights of the window that begins at pixel i."""
    places = torch.arange(size, device=device)
    starts = places[: size - WINDOW + 1, None]
    distance = places - starts - WINDOW // 2  # (S - 10, S)
    weights = torch.exp(-distance.square() / (2 * SIGMA**2))
    weights = weights.where(distance.abs() <= WINDOW // 2, 0)
    return weights / weights.sum(1, keepdim=True)
