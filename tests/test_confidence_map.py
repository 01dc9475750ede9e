import math

import numpy as np
import pytest
import torch
from PIL import Image

from MaskGIL.confidence_map import (
    BAR_HEIGHT,
    LEGEND_HEIGHT,
    LEGEND_WIDTH,
    MARGIN,
    colour_confidence,
    save_confidence,
)


def lightness(colours):
    """Luma (Rec. 601) of colours (..., 3)."""
    return np.asarray(colours).astype(float) @ [0.299, 0.587, 0.114]


def test_lighter_is_surer_from_a_guess_to_certainty():
    shares = torch.linspace(0, 1, 20)
    log_probability = (shares - 1) * math.log(64)
    colours = colour_confidence(log_probability.view(1, 4, 5), 64)
    assert colours.dtype == torch.uint8
    assert colours.shape == (1, 3, 4, 5)
    light = lightness(colours[0].flatten(1).T)
    assert (np.diff(light) > 0).all()
    assert light[0] < 5  # 1/64, a guess among all
    assert light[-1] > 240


def test_what_is_worse_than_a_guess_or_hidden_is_darkest():
    found = colour_confidence(torch.tensor([[[-math.log(64), -9.0, -torch.inf]]]), 64)
    assert len(set(map(tuple, found[0, :, 0].T.tolist()))) == 1


@pytest.mark.parametrize("enlarge", [1, 3])
def test_each_image_has_its_map_beside_it_and_a_legend_below(tmp_path, enlarge):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (5, 3, 8, 8), generator=generator, dtype=torch.uint8)
    confidence = torch.rand(5, 2, 2, generator=generator).log()
    path = tmp_path / "new/map.png"
    save_confidence(images, confidence, 64, path, 3, enlarge)
    picture = np.asarray(Image.open(path))
    side, row = 8 * enlarge, 8 * enlarge + 2
    assert picture.shape[0] == 2 * row + 2 + LEGEND_HEIGHT
    assert picture.shape[1] == max(3 * (2 * side + 2) + 2, LEGEND_WIDTH + 2 * MARGIN)
    colours = colour_confidence(confidence, 64)
    for index in range(5):
        top, left = 2 + index // 3 * row, 2 + index % 3 * (2 * side + 2)
        pair = picture[top : top + side, left : left + 2 * side]
        for found, expected, scale in ((pair[:, :side], images, 1), (pair[:, side:], colours, 4)):
            wide = expected[index].permute(1, 2, 0).numpy()
            wide = wide.repeat(scale * enlarge, 0).repeat(scale * enlarge, 1)
            assert np.array_equal(found, wide)
    legend = lightness(picture[-LEGEND_HEIGHT:])
    bar = legend[:, MARGIN : MARGIN + LEGEND_WIDTH]
    is_bar = (bar[:, 0] < 5) & (np.diff(bar) >= -2).all(1)
    assert is_bar.sum() == BAR_HEIGHT
    first = is_bar.argmax()
    for words in (legend[:first], legend[first + BAR_HEIGHT :]):
        assert (words < 128).sum() > 50  # letters above and below it
