import re

import pytest
import torch
from PIL import Image

from MaskGIL.regions import REGIONS, read_region
from Network.config import UserError

PICTURE = Image.new("RGB", (8, 8))


def mask(rows, columns, side=8):
    expected = torch.zeros(side, side, dtype=torch.bool)
    expected[rows, columns] = True
    return expected


@pytest.mark.parametrize(
    ("text", "rows", "columns"),
    [
        ("left", slice(0, 8), slice(0, 4)),
        ("right", slice(0, 8), slice(4, 8)),
        ("top", slice(0, 4), slice(0, 8)),
        ("bottom", slice(4, 8), slice(0, 8)),
        ("center", slice(2, 6), slice(2, 6)),
        ("1,2,4,7", slice(2, 7), slice(1, 4)),
        ("0,0,8,8", slice(0, 8), slice(0, 8)),
    ],
)
def test_words_and_boxes(text, rows, columns):
    assert torch.equal(read_region(text, PICTURE, 8, 8), mask(rows, columns))


def test_every_word_is_tested_here():
    assert set(REGIONS) == {"left", "right", "top", "bottom", "center"}


def test_a_box_belongs_to_the_picture_and_a_word_to_what_is_left_of_it():
    wide = Image.new("RGB", (48, 32))  # its middle square begins at column 8
    assert torch.equal(read_region("8,0,24,16", wide, 8, 8), mask(slice(0, 4), slice(0, 4)))
    assert torch.equal(read_region("left", wide, 8, 8), mask(slice(0, 8), slice(0, 4)))


def test_a_file(tmp_path):
    white = Image.new("L", (8, 8))
    white.paste(255, (3, 0, 5, 2))
    white.save(tmp_path / "mask.png")
    found = read_region(str(tmp_path / "mask.png"), PICTURE, 8, 8)
    assert torch.equal(found, mask(slice(0, 2), slice(3, 5)))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "centre",
            "mask=centre is no file, no box left,top,right,bottom and none of left, right, top, "
            "bottom, center. Did you mean 'center'?",
        ),
        ("1,2,3", "mask=1,2,3 is no file, no box left,top,right,bottom and none of left"),
        ("4,0,4,8", "mask=4,0,4,8 is no box left,top,right,bottom inside of the 8x8 pixels of t"),
        ("0,0,9,8", "mask=0,0,9,8 is no box left,top,right,bottom inside of the 8x8 pixels of t"),
        ("-1,0,8,8", "mask=-1,0,8,8 is no box left,top,right,bottom inside of the 8x8 pixels of"),
    ],
)
def test_sentences(text, sentence):
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}"):
        read_region(text, PICTURE, 8, 8)
