import re

import numpy as np
import pytest
import torch
from PIL import Image

from MaskGIL.border import (
    as_output,
    check_output_type,
    fit_mask,
    fit_picture,
    read_masks,
    read_pictures,
)
from MaskGIL.data.crops import crop_image
from Network.config import UserError


def pixels(height=8, width=8, batch=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (batch, 3, height, width), generator=generator, dtype=torch.uint8)


def picture(height=8, width=8):
    return Image.fromarray(pixels(height, width, 1)[0].permute(1, 2, 0).numpy())


def test_pictures_of_every_kind_are_the_same(tmp_path):
    tensor = pixels()
    images = [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in tensor]
    images[0].save(tmp_path / "a.png")
    for given in (
        tensor,
        images,
        [tmp_path / "a.png", images[1]],
        (str(tmp_path / "a.png"), images[1]),
    ):
        found = read_pictures(given)
        assert all(np.array_equal(a, b) for a, b in zip(found, images, strict=True))
    for given in (tensor[0], images[0], tmp_path / "a.png"):
        (found,) = read_pictures(given)
        assert np.array_equal(found, images[0])


def test_transparent_pixels_are_white():
    (found,) = read_pictures(Image.new("RGBA", (2, 2), (9, 9, 9, 0)))
    assert np.array_equal(found, np.full((2, 2, 3), 255))


def test_masks_of_every_kind_are_the_same(tmp_path):
    planes = torch.rand(2, 4, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    images = [Image.fromarray(255 * plane.byte().numpy()) for plane in planes]
    images[1].convert("1").save(tmp_path / "mask.png")
    for given in (planes, images, [images[0], tmp_path / "mask.png"]):
        found = torch.stack([fit_mask(m, picture(4, 6), 4, 6) for m in read_masks(given)])
        assert torch.equal(found, planes)
    assert len(read_masks(planes[0])) == 1


def test_a_picture_of_the_right_size_stays_and_another_is_cropped_as_in_training():
    assert torch.equal(fit_picture(picture(), 8, 8), pixels(batch=1)[0])
    assert torch.equal(fit_picture(picture(4, 12), 4, 12), pixels(4, 12, 1)[0])
    large = picture(30, 41)
    assert torch.equal(fit_picture(large, 8, 8), crop_image(large, "center", 0, 8))


def test_a_mask_is_cropped_with_its_picture():
    """A white block in the picture itself says where it has to be."""
    block = np.zeros((64, 96), np.uint8)
    block[16:32, 40:72] = 255
    mask = Image.fromarray(block)
    found = fit_mask(mask, mask.convert("RGB"), 16, 16)
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[4:8, 6:14] = True  # the square begins at column 16, a quarter of its size is left
    assert torch.equal(found, expected)


def test_outputs():
    images, tokens = pixels(), torch.zeros(2, 2, 2)
    assert as_output(images, tokens, "uint8").images is images
    made = as_output(images, tokens, "pil")
    assert np.array_equal(made.images[1], images[1].permute(1, 2, 0))
    assert made.tokens is tokens


@pytest.mark.parametrize(
    ("job", "sentence"),
    [
        (lambda: read_pictures("no.png"), "There is no file no.png; give a picture that exists."),
        (lambda: read_pictures([]), "images is empty; give a picture."),
        (
            lambda: read_pictures(torch.zeros(3, 8, 8)),
            "images are float32 of shape (3, 8, 8); give uint8 of shape (3, H, W) or (B, 3, H, W),",
        ),
        (
            lambda: read_pictures(torch.zeros(8, 8, 3, dtype=torch.uint8)),
            "images are uint8 of shape (8, 8, 3); give",
        ),
        (
            lambda: read_masks(torch.ones(8, 8)),
            "masks are float32 of shape (8, 8); give bool of shape (H, W) or (B, H, W), PIL",
        ),
        (
            lambda: fit_mask(Image.new("L", (6, 5)), picture(5, 7), 4, 4),
            "The mask has 6x5 pixels and its image 7x5; give both the same size.",
        ),
        (
            lambda: fit_picture(picture(8, 8), 4, 12),
            "This generator draws 12x4 pixels and an image has 8x8; crop or resize it.",
        ),
        (lambda: check_output_type("numpy"), "Unknown output_type 'numpy'. Known: pil, uint8."),
    ],
)
def test_sentences(job, sentence):
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}"):
        job()


def test_files_that_are_no_pictures(tmp_path):
    (tmp_path / "a.png").write_text("no")
    with pytest.raises(
        UserError, match=r"a\.png is no picture that can be read: not an image of t"
    ):
        read_pictures(tmp_path / "a.png")
    with pytest.raises(UserError, match="^There is no file"):
        read_pictures(tmp_path)
    Image.new("1", (9000, 9000)).save(tmp_path / "bomb.png")
    with pytest.raises(UserError, match=r"bomb\.png is no .* read: 9000 x 9000 pixels are more th"):
        read_pictures([tmp_path / "bomb.png"])
