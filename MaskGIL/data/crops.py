"""Crops of a picture to a shape, and the one border between bytes and numbers of the whole project.

Resizing follows ADM: halve with a box filter while the shorter side is twice too long, then
bicubic (`center_crop_arr` of openai/guided-diffusion). A mirrored picture is a crop of its own.
H x W shape of a crop, C crops of a picture.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from Network.config import UserError

Shape = tuple[int, int]  # height, width in pixels
Size = int | Shape  # the side of a square, or a shape
Crop = Callable[[Image.Image, Shape], Image.Image]  # larger picture -> picture of that shape


@dataclass(frozen=True)
class Recipe:
    """The middle is cut out, `scale` times as large as the wanted shape, and cropped in C ways."""

    scale: float
    crops: tuple[Crop, ...]


def _at(row: float, column: float, mirror: bool = False) -> Crop:
    """A window at parts (0 to 1) of the free space; `mirror` flips it left to right."""

    def crop(middle: Image.Image, shape: Shape) -> Image.Image:
        window = _window(middle, shape, row, column)
        return window.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror else window

    return crop


_CENTER = (0.5, 0.5)
_FIVE = ((0, 0), (0, 1), (1, 0), (1, 1), _CENTER)  # torchvision's five_crop

_MAX_ASPECT = 16  # a longer picture is cut first: resized, 1 x 1,000,000 pixels fill the memory

# `ten` is LlamaGen's extract_codes_c2i.py: five crops of a square 1.1 times as large, each mirrored
CROPS = {
    "center": Recipe(1.0, (_at(*_CENTER),)),
    "flip": Recipe(1.0, (_at(*_CENTER), _at(*_CENTER, mirror=True))),
    "ten": Recipe(1.1, tuple(_at(*place, mirror=m) for m in (False, True) for place in _FIVE)),
}


def num_crops(name: str) -> int:
    """How many crops a recipe cuts from a picture. Raises UserError for an unknown name."""
    return len(_recipe(name).crops)


def least_side(name: str, size: int) -> int:
    """Shorter side of a picture that is still halved once before a recipe's last, bicubic step."""
    return 2 * int(size * _recipe(name).scale)


def crop_image(image: Image.Image, name: str, index: int, size: Size) -> Tensor:
    """Crop number `index` of a recipe: (3, H, W) uint8."""
    recipe, shape = _recipe(name), shape_of(size)
    return _to_tensor(recipe.crops[index](_middle(image, shape, recipe.scale), shape))


def all_crops(image: Image.Image, name: str, size: Size) -> Tensor:
    """Every crop of a recipe, resized once: (C, 3, H, W) uint8."""
    recipe, shape = _recipe(name), shape_of(size)
    middle = _middle(image, shape, recipe.scale)
    return torch.stack([_to_tensor(crop(middle, shape)) for crop in recipe.crops])


def shape_of(size: Size) -> Shape:
    """Height and width of a size."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def show_size(size: Size) -> str:
    """A size as people write it: 256, or 192x320 for height x width."""
    return str(size) if isinstance(size, int) else "{}x{}".format(*size)


def to_float(images: Tensor) -> Tensor:
    """Bytes -> numbers in [-1, 1], float32, any shape: u / 127.5 - 1, undone by `to_uint8`."""
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Numbers in [-1, 1] -> bytes: clamp(127.5 x + 128, 0, 255) truncated, any shape.

    This is rounding half up, as DiT's sample_ddp.py does it, and the exact inverse of `to_float`.
    Every picture that is saved or scored passes here, so that no two metrics round differently.
    """
    return (127.5 * images.float() + 128).clamp(0, 255).to(torch.uint8)


def _recipe(name: str) -> Recipe:
    if name not in CROPS:
        raise UserError(f"data.crops={name} is unknown; choose {', '.join(CROPS)}.")
    return CROPS[name]


def _middle(image: Image.Image, shape: Shape, scale: float) -> Image.Image:
    """The middle of a picture, resized to `scale` times a shape; one of that shape stays as it is.

    As much of the picture as has this aspect ratio.
    """
    height, width = (int(side * scale) for side in shape)
    longest = _MAX_ASPECT * min(image.size)
    image = _window(image, (min(image.height, longest), min(image.width, longest)), *_CENTER)
    while image.width >= 2 * width and image.height >= 2 * height:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    factor = max(width / image.width, height / image.height)
    if factor != 1:
        size = (round(image.width * factor), round(image.height * factor))
        image = image.resize(size, Image.Resampling.BICUBIC)
    return _window(image, (height, width), *_CENTER)


def _window(image: Image.Image, shape: Shape, row: float, column: float) -> Image.Image:
    height, width = shape
    if image.size == (width, height):
        return image
    top, left = int((image.height - height) * row), int((image.width - width) * column)
    return image.crop((left, top, left + width, top + height))


def _to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()  # (3, H, W)
