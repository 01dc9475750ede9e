"""PSNR and SSIM: torchmetrics' numbers."""

import pytest
import torch
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from Metrics.similarity import WINDOW, absolute_error, psnr, ssim


@pytest.fixture(scope="module")
def pairs():
    """Smooth images, and the same with noise that grows from one to the next."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(4, 3, 6, 8, generator=generator)
    clean = 255 * torch.nn.functional.interpolate(coarse, (40, 48), mode="bicubic").clamp(0, 1)
    noise = torch.randn(clean.shape, generator=generator) * torch.arange(1, 5).view(4, 1, 1, 1) ** 2
    return clean.to(torch.uint8), (clean + noise).clamp(0, 255).to(torch.uint8)


def test_psnr_is_that_of_each_image(pairs):
    expected = [
        peak_signal_noise_ratio(first.double(), second.double(), data_range=255)
        for first, second in zip(*pairs)
    ]
    torch.testing.assert_close(psnr(*pairs).double(), torch.stack(expected), rtol=0, atol=1e-4)
    assert (psnr(*pairs).diff() < -2).all()


def test_ssim_is_that_of_torchmetrics_in_double_precision(pairs):
    first, second = (images.double() for images in pairs)
    _, places = structural_similarity_index_measure(
        first, second, data_range=255.0, reduction="none", return_full_image=True
    )
    inside = places[:, :, 5:-5, 5:-5]  # the paper's window lies in the image, not over its edge
    expected = inside.mean((1, 2, 3))
    torch.testing.assert_close(ssim(*pairs).double(), expected, rtol=0, atol=2e-6)
    assert ssim(*pairs)[-1] < 0.9


def test_one_grey_level_apart_is_an_error_of_one(pairs):
    dark = torch.full((1, 3, WINDOW, WINDOW), 7, dtype=torch.uint8)
    assert absolute_error(dark, dark + 1).tolist() == [1]
    assert psnr(dark, dark + 1).item() == pytest.approx(48.1308, abs=1e-4)  # 20 log10 255
    assert absolute_error(dark, 255 - dark).tolist() == [241]  # bytes do not wrap around


def test_an_image_is_like_itself(pairs):
    image, _ = pairs
    assert psnr(image, image).tolist() == [100] * 4
    assert torch.equal(ssim(image, image), torch.ones(4))
    flat = torch.full((1, 3, 16, 16), 255, dtype=torch.uint8)
    assert ssim(flat, flat).item() == 1
