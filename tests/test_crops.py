import numpy as np
import pytest
import torch
from PIL import Image

from MaskGIL.data.crops import (
    CROPS,
    all_crops,
    crop_image,
    num_crops,
    show_size,
    to_float,
    to_uint8,
)
from Network.config import UserError


def picture(height, width, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def channels_first(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_all_bytes_survive_the_border():
    every = torch.arange(256, dtype=torch.uint8)
    numbers = to_float(every)
    assert numbers.dtype == torch.float32
    assert (numbers[0], numbers[-1]) == (-1.0, 1.0)
    assert torch.equal(to_uint8(numbers), every)
    assert torch.equal(to_uint8(numbers.double()), every)


def test_border_rounds_half_up_and_clamps():
    x = torch.linspace(-1.5, 1.5, 10_001, dtype=torch.float64)
    expected = np.floor((x.numpy() + 1) * 127.5 + 0.5).clip(0, 255)  # in float64
    assert (np.abs(to_uint8(x).numpy() - expected) <= 1).all()
    assert (to_uint8(x).numpy() == expected).mean() > 0.999
    assert to_uint8(torch.tensor([-9.0, 9.0])).tolist() == [0, 255]


def test_number_of_crops():
    assert {name: num_crops(name) for name in CROPS} == {"center": 1, "flip": 2, "ten": 10}
    with pytest.raises(UserError, match=r"data.crops=tne is unknown; choose center, flip, ten."):
        num_crops("tne")


@pytest.mark.parametrize("shape", [(32, 32), (32, 47), (50, 32)])
def test_a_side_of_the_right_length_is_not_resampled(shape):
    image = picture(*shape)
    top, left = (shape[0] - 32) // 2, (shape[1] - 32) // 2
    expected = channels_first(image)[:, top : top + 32, left : left + 32]
    assert torch.equal(crop_image(image, "center", 0, 32), expected)


def halve(pixels):
    """Means of two columns, then of two rows, each rounded half up as Pillow does."""
    pixels = pixels.astype(int)
    pixels = (pixels[:, ::2] + pixels[:, 1::2] + 1) // 2
    return ((pixels[::2] + pixels[1::2] + 1) // 2).astype(np.uint8)


def adm_center_crop(image, size):
    """`center_crop_arr` of openai/guided-diffusion in other words, for sides that halve evenly."""
    for _ in range(int(np.log2(min(image.size) / size))):
        image = Image.fromarray(halve(np.array(image)))
    scale = size / min(image.size)
    image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC)
    top, left = (image.height - size) // 2, (image.width - size) // 2
    return channels_first(image)[:, top : top + size, left : left + size]


@pytest.mark.parametrize("shape", [(20, 24), (40, 57), (128, 144), (200, 144), (31, 90)])
def test_resizing_is_that_of_adm(shape):
    image = picture(*shape)
    assert torch.equal(crop_image(image, "center", 0, 32), adm_center_crop(image, 32))


def test_flip_is_the_mirrored_centre():
    image = picture(40, 60)
    plain, mirrored = all_crops(image, "flip", 32)
    assert torch.equal(plain, crop_image(image, "center", 0, 32))
    assert torch.equal(mirrored, plain.flip(-1))


def test_ten_crops_are_those_of_torchvision():
    from torchvision.transforms.functional import ten_crop

    size, larger = 40, 44  # int(40 * 1.1)
    image = picture(larger, larger)  # not resampled, so that only the crops are compared
    theirs = torch.stack([channels_first(crop) for crop in ten_crop(image, size)])
    ours = all_crops(image, "ten", size)
    assert sorted(crop.tolist() for crop in ours) == sorted(crop.tolist() for crop in theirs)
    assert len({crop.numpy().tobytes() for crop in ours}) == 10
    assert torch.equal(ours[5:], ours[:5].flip(-1))


@pytest.mark.parametrize("name", CROPS)
def test_one_crop_equals_its_place_among_all(name):
    image = picture(70, 90)
    crops = all_crops(image, name, 48)
    assert crops.shape == (num_crops(name), 3, 48, 48)
    assert crops.dtype == torch.uint8
    for index, crop in enumerate(crops):
        assert torch.equal(crop_image(image, name, index, 48), crop)


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (32, 32)])
@pytest.mark.parametrize("of", [(24, 40), (50, 60), (97, 210), (300, 80)])
def test_a_crop_of_any_shape_is_the_middle_that_covers_it(of, shape):
    """As the square one: as much of the picture as has the shape, then halved, then bicubic."""
    height, width = shape
    image = picture(*of)
    expected = image
    while expected.height >= 2 * height and expected.width >= 2 * width:
        expected = expected.resize(
            (expected.width // 2, expected.height // 2), Image.Resampling.BOX
        )
    scale = max(height / expected.height, width / expected.width)
    size = (round(expected.width * scale), round(expected.height * scale))
    if size != expected.size:
        expected = expected.resize(size, Image.Resampling.BICUBIC)
    top, left = (expected.height - height) // 2, (expected.width - width) // 2
    expected = channels_first(expected)[:, top : top + height, left : left + width]
    assert torch.equal(crop_image(image, "center", 0, shape), expected)


def test_the_side_of_a_square_is_a_size_too():
    image = picture(70, 90)
    assert torch.equal(all_crops(image, "ten", 48), all_crops(image, "ten", (48, 48)))
    assert [show_size(256), show_size((192, 320))] == ["256", "192x320"]


@pytest.mark.parametrize("name", CROPS)
def test_every_recipe_has_crops_of_any_shape(name):
    image = picture(70, 90)
    crops = all_crops(image, name, (32, 48))
    assert crops.shape == (num_crops(name), 3, 32, 48)
    for index, crop in enumerate(crops):
        assert torch.equal(crop_image(image, name, index, (32, 48)), crop)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300_000), (300_000, 2)])
def test_extreme_shapes_stay_small(shape):
    assert crop_image(Image.new("RGB", shape[::-1], "red"), "ten", 3, 64).shape == (3, 64, 64)
