import numpy as np
import pytest
import torch
from PIL import Image

from MaskGIL.pictures import MASKED_GREY, grey_out, save_gif, save_grid, save_images, save_strip


def images(batch, height=4, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (batch, 3, height, width), generator=generator, dtype=torch.uint8)


def pixels(path):
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def cell(picture, row, column, height, width):
    top, left = 2 + row * (height + 2), 2 + column * (width + 2)
    return picture[top : top + height, left : left + width]


def channels_last(image, enlarge=1):
    array = image.permute(1, 2, 0).numpy()
    return array.repeat(enlarge, 0).repeat(enlarge, 1)


@pytest.mark.parametrize("enlarge", [1, 3])
def test_a_grid_holds_every_pixel(tmp_path, enlarge):
    batch, path = images(5), tmp_path / "made/on/the/way/grid.png"
    save_grid(batch, path, columns=3, enlarge=enlarge)
    found, height, width = pixels(path), 4 * enlarge, 6 * enlarge
    assert found.shape == (2 * (height + 2) + 2, 3 * (width + 2) + 2, 3)
    for index in range(5):
        expected = channels_last(batch[index], enlarge)
        assert np.array_equal(cell(found, *divmod(index, 3), height, width), expected)
    assert (cell(found, 1, 2, height, width) == 255).all()  # nobody there


def test_hidden_tokens_are_grey():
    batch = images(2)
    hidden = torch.tensor([[[True, False, False], [False, False, True]], [[False] * 3] * 2])
    found = grey_out(batch, hidden)
    assert found.dtype == torch.uint8
    assert (found[0, :, :2, :2] == MASKED_GREY).all()
    assert (found[0, :, 2:, 4:] == MASKED_GREY).all()
    covered = torch.zeros(2, 4, 6, dtype=torch.bool)
    covered[0, :2, :2] = covered[0, 2:, 4:] = True
    shown = ~covered[:, None].expand_as(batch)
    assert torch.equal(found[shown], batch[shown])


def test_a_strip_has_a_row_per_image_and_a_column_per_frame(tmp_path):
    frames = [images(2, seed=seed) for seed in range(4)]
    save_strip(frames, tmp_path / "strip.png")
    found = pixels(tmp_path / "strip.png")
    for row in range(2):
        for column in range(4):
            expected = channels_last(frames[column][row])
            assert np.array_equal(cell(found, row, column, 4, 6), expected)


def test_an_animation_rests_on_its_last_frame(tmp_path):
    """A GIF has 256 colours: frames of one colour come back exactly."""
    frames = [torch.full((4, 3, 8, 8), 60 * index, dtype=torch.uint8) for index in range(4)]
    save_gif(frames, tmp_path / "new/decode.gif", columns=2, enlarge=2)
    with Image.open(tmp_path / "new/decode.gif") as gif:
        assert gif.n_frames == 4
        assert gif.info["loop"] == 0
        for index in range(4):
            gif.seek(index)
            assert gif.info["duration"] == (1000 if index == 3 else 180)
            found = np.array(gif.convert("RGB"))
            assert found.shape == (38, 38, 3)
            assert (cell(found, 1, 0, 16, 16) == 60 * index).all()


def test_images_of_their_own(tmp_path):
    given = images(2)
    save_images(given, tmp_path / "new/folder")
    for index, image in enumerate(given):
        assert np.array_equal(pixels(tmp_path / f"new/folder/0{index}.png"), channels_last(image))
