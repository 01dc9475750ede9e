"""What a command takes for a mask: a file, a box in pixels, or a word for a part of the image."""

import re
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from MaskGIL.border import fit_mask, read_masks
from MaskGIL.values import did_you_mean
from Network.config import UserError

# Left, top, right, bottom as parts of the width and height
REGIONS = {
    "left": (0, 0, 1 / 2, 1),
    "right": (1 / 2, 0, 1, 1),
    "top": (0, 0, 1, 1 / 2),
    "bottom": (0, 1 / 2, 1, 1),
    "center": (1 / 4, 1 / 4, 3 / 4, 3 / 4),
}


def read_region(text: str, picture: Image.Image, height: int, width: int) -> Tensor:
    """The mask (H, W) bool that a text means for a picture that is fitted to H x W pixels.

    A key of REGIONS is a part of the fitted picture; a box `left,top,right,bottom` and a file
    belong to the picture as it is. Raises UserError for what is none of these, and for a box or a
    file that does not fit the picture.
    """
    if text in REGIONS:
        left, top, right, bottom = REGIONS[text]
        rows = slice(int(top * height), int(bottom * height))
        columns = slice(int(left * width), int(right * width))
        mask = torch.zeros(height, width, dtype=torch.bool)
        mask[rows, columns] = True
        return mask
    if re.fullmatch(r"-?\d+(,-?\d+){3}", text):
        return fit_mask(_box(text, picture), picture, height, width)
    if not Path(text).is_file():
        hint = did_you_mean(text, REGIONS)
        raise UserError(
            f"mask={text} is no file, no box left,top,right,bottom and none of "
            f"{', '.join(REGIONS)}.{hint}"
        )
    return fit_mask(read_masks(text)[0], picture, height, width)


def _box(text: str, picture: Image.Image) -> Image.Image:
    left, top, right, bottom = map(int, text.split(","))
    if not (0 <= left < right <= picture.width and 0 <= top < bottom <= picture.height):
        raise UserError(
            f"mask={text} is no box left,top,right,bottom inside of the "
            f"{picture.width}x{picture.height} pixels of the image."
        )
    mask = Image.new("L", picture.size)
    mask.paste(255, (left, top, right, bottom))
    return mask
