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
        tensor.permute(0, 2, 3, 1).numpy(),
        images,
        [*tensor],
        [tensor[0], np.asarray(images[1])],
        [tmp_path / "a.png", images[1]],
        (str(tmp_path / "a.png"), images[1]),
    ):
        found = read_pictures(given)
        assert all(np.array_equal(a, b) for a, b in zip(found, images, strict=True))
    for given in (tensor[0], np.asarray(images[0]), images[0], tmp_path / "a.png"):
        (found,) = read_pictures(given)
        assert np.array_equal(found, images[0])


def test_transparent_pixels_are_white():
    (found,) = read_pictures(Image.new("RGBA", (2, 2), (9, 9, 9, 0)))
    assert np.array_equal(found, np.full((2, 2, 3), 255))


@pytest.mark.parametrize("orientation", [3, 5, 6, 8])
def test_a_picture_is_turned_once_however_it_is_given(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(6, 8).save(tmp_path / "turned.png", exif=exif)
    (expected,) = read_pictures(tmp_path / "turned.png")
    with Image.open(tmp_path / "turned.png") as opened:
        (found,) = read_pictures(opened)
        assert found.size == ((8, 6) if orientation == 3 else (6, 8))
    for again in (found, *read_pictures(found)):
        assert np.array_equal(again, expected)
    assert not np.array_equal(found, picture(*found.size[::-1]))


def test_what_is_transparent_in_a_mask_hides_nothing(tmp_path):
    mask = Image.new("RGBA", (8, 6), (255, 255, 255, 0))
    mask.paste((255, 255, 255, 255), (2, 1, 5, 4))
    mask.save(tmp_path / "mask.png")
    expected = torch.zeros(6, 8, dtype=torch.bool)
    expected[1:4, 2:5] = True
    for given in (mask, tmp_path / "mask.png"):
        (found,) = read_masks(given)
        assert torch.equal(fit_mask(found, picture(6, 8), 6, 8), expected)


def test_masks_of_every_kind_are_the_same(tmp_path):
    planes = torch.rand(2, 4, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    images = [Image.fromarray(255 * plane.byte().numpy()) for plane in planes]
    images[1].convert("1").save(tmp_path / "mask.png")
    for given in (
        planes,
        planes.byte() * 255,
        planes.numpy(),
        255 * planes.byte().numpy(),
        [*planes.numpy()],
        images,
        [images[0], tmp_path / "mask.png"],
        [planes[0], images[1]],
    ):
        found = torch.stack([fit_mask(m, picture(4, 6), 4, 6) for m in read_masks(given)])
        assert torch.equal(found, planes)
    assert len(read_masks(planes[0])) == 1


def test_a_picture_of_the_right_size_stays_and_another_is_cropped_as_in_training():
    assert torch.equal(fit_picture(picture(), 8, 8), pixels(batch=1)[0])
    assert torch.equal(fit_picture(picture(4, 12), 4, 12), pixels(4, 12, 1)[0])
    large = picture(30, 41)
    assert torch.equal(fit_picture(large, 8, 8), crop_image(large, "center", 0, 8))
    assert torch.equal(fit_picture(large, 4, 8), crop_image(large, "center", 0, (4, 8)))
    assert fit_picture(large, 16, 4).shape == (3, 16, 4)


def test_a_mask_is_cropped_with_its_picture():
    """A white block in the picture itself says where it has to be."""
    block = np.zeros((64, 96), np.uint8)
    block[16:32, 40:72] = 255
    mask = Image.fromarray(block)
    found = fit_mask(mask, mask.convert("RGB"), 16, 16)
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[4:8, 6:14] = True  # the square begins at column 16, a quarter of its size is left
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("shape", "size"), [((16, 32), (60, 90)), ((32, 8), (60, 90)),
                                             ((20, 16), (10, 26))])  # fmt: skip
def test_a_mask_is_cropped_to_any_shape_as_its_picture_is(shape, size):
    """A white block that ends at borders of pixels behind the crop."""
    height, width = shape
    factor = min(size[0] / height, size[1] / width)
    high, wide = round(height * factor), round(width * factor)
    block = np.zeros(size, np.uint8)
    top, left = (size[0] - high) // 2, (size[1] - wide) // 2
    block[top + high // 4 : top + high // 2, left + wide // 2 : left + wide] = 255
    mask = Image.fromarray(block)
    drawn = fit_picture(mask.convert("RGB"), *shape)[0] > 127
    found = fit_mask(mask, mask.convert("RGB"), *shape)
    assert (found | ~drawn).all()  # nothing that shows white is left out
    assert (found != drawn).float().mean() < 0.06  # along its border pixels are touched in part


@pytest.mark.parametrize("size", [(1024, 1024), (1000, 1431), (40, 33), (20, 25)])
def test_a_line_of_one_pixel_is_never_lost(size):
    """Wherever it lies in the middle square, the token pixels that it touches are hidden."""
    height, width = size
    side = min(size)
    top, left = (height - side) // 2, (width - side) // 2
    for place in (0, side // 3, side // 2, side - 1):
        line = np.zeros(size, np.uint8)
        line[:, left + place] = 255
        mask = Image.fromarray(line)
        found = fit_mask(mask, mask, 32, 32)
        assert found.all(0).nonzero().flatten().tolist() == [
            column for column in range(32)
            if column * side // 32 <= place < -(-(column + 1) * side // 32)
        ]  # fmt: skip
        turned = Image.fromarray(line.T.copy())
        assert torch.equal(fit_mask(turned, turned, 32, 32), found.T)
    corner = np.zeros(size, np.uint8)
    corner[top, left] = 255
    assert fit_mask(Image.fromarray(corner), Image.fromarray(corner), 32, 32)[0, 0]


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
            "An image is float32 of shape (3, 8, 8); give uint8 of shape (3, H, W), in NumPy (H, ",
        ),
        (
            lambda: read_pictures(torch.zeros(8, 8, 3, dtype=torch.uint8)),
            "An image is uint8 of shape (8, 8, 3); give",
        ),
        (
            lambda: read_pictures(np.zeros((3, 8, 8), np.uint8)),
            "An image is uint8 of shape (3, 8, 8); give",
        ),
        (
            lambda: read_pictures(torch.zeros(3, 0, 8, dtype=torch.uint8)),
            "An image is uint8 of shape (3, 0, 8); give",
        ),
        (
            lambda: read_pictures(torch.zeros(0, 3, 8, 8, dtype=torch.uint8)),
            "images is empty; give a picture.",
        ),
        (lambda: read_pictures(torch.tensor(3)), "An image is int64 of shape (); give uint8 of s"),
        (lambda: read_pictures(Image.new("F", (8, 8))), "An image cannot be read: floating-point"),
        (lambda: read_pictures(Image.new("L", (0, 8))), "An image has 0x8 pixels; give one that h"),
        (lambda: read_pictures(None), "images are None; give pictures in a list."),
        (lambda: read_pictures([None]), "None is no picture; give PIL images, files, or uint8 pix"),
        (
            lambda: read_masks(np.eye(8, dtype=np.uint8)),
            "A mask has pixels from 0 to 1, and hides those from 128 to 255; make what to draw wh",
        ),
        (
            lambda: read_masks([np.eye(8) > 0, Image.new("L", (8, 8), 127)]),
            "A mask has pixels from 127 to 127, and hides those from 128 to 255; make what to dr",
        ),
        (lambda: read_masks([]), "masks is empty; give a picture."),
        (
            lambda: read_masks(torch.ones(8, 8)),
            "A mask is float32 of shape (8, 8); give bool or uint8 of shape (H, W), PIL images or",
        ),
        (
            lambda: fit_mask(Image.new("L", (6, 5)), picture(5, 7), 4, 4),
            "The mask has 6x5 pixels and its image 7x5; give both the same size.",
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
