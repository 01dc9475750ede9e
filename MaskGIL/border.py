"""The border of a pipeline: pictures and masks come in as users have them, images go out.

Shapes: B images, H x W pixels, h x w tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from MaskGIL.data.crops import crop_image
from MaskGIL.data.folders import UnreadableImage, read_image, upright_rgb
from Network.config import UserError

Array = Tensor | NDArray
Picture = Image.Image | str | Path | Array
Pictures = Picture | Sequence[Picture]
OUTPUT_TYPES = ("pil", "uint8")
WHITE = 128  # and lighter


@dataclass(frozen=True)
class Output:
    """What a call made: images (PIL, or a uint8 tensor (B, 3, H, W)) and tokens (B, h, w)."""

    images: list[Image.Image] | Tensor
    tokens: Tensor


def check_output_type(output_type: str) -> None:
    """Raise UserError for an unknown one."""
    if output_type not in OUTPUT_TYPES:
        raise UserError(f"Unknown output_type {output_type!r}. Known: {', '.join(OUTPUT_TYPES)}.")


def as_output(images: Tensor, tokens: Tensor, output_type: str) -> Output:
    """Images (B, 3, H, W) uint8 and tokens (B, h, w) as the caller wants them."""
    return Output(_to_pil(images) if output_type == "pil" else images, tokens)


def read_pictures(pictures: Pictures) -> list[Image.Image]:
    """Pictures as RGB, transparent pixels white, each upright by its EXIF tag.

    A picture is an image of PIL, a file, or uint8: (3, H, W) in torch, (H, W, 3) in NumPy. Several
    are a list of these or (B, ...). Raises UserError for a file that is no picture, for none at
    all and for anything else.
    """
    return [_read(picture, "white") for picture in _several(pictures, 3, "images")]


def read_masks(masks: Pictures) -> list[Image.Image]:
    """Masks in grey, white where hidden; transparent pixels hide nothing.

    A mask is an image of PIL, a file, or bool or uint8 (H, W); several are a list of these or
    (B, H, W). Raises UserError as `read_pictures` does, and for a mask that has grey pixels but
    none that is white, as one of 0 and 1 has.
    """
    found = [_read_mask(mask) for mask in _several(masks, 2, "masks")]
    for mask in found:
        pixels = np.asarray(mask)
        darkest, lightest = pixels.min(), pixels.max()
        if 0 < lightest < WHITE:
            raise UserError(
                f"A mask has pixels from {darkest} to {lightest}, and hides those from {WHITE} to "
                "255; make what to draw white."
            )
    return found


def fit_picture(picture: Image.Image, height: int, width: int) -> Tensor:
    """A picture as (3, H, W) uint8: of this size as it is, else cropped and resized as in training.

    As much of its middle as has this aspect ratio.
    """
    picture = picture.convert("RGB")
    if picture.size == (width, height):
        return pil_to_tensor(picture)
    return crop_image(picture, "center", 0, (height, width))


def fit_mask(mask: Image.Image, picture: Image.Image, height: int, width: int) -> Tensor:
    """A mask as (H, W) bool, cropped as its picture is; True where any of it is white.

    However small or thin, what lies in the crop is not lost. Raises UserError for a mask of another
    size than its picture.
    """
    if mask.size != picture.size:
        raise UserError(
            f"The mask has {_size(mask)} pixels and its image {_size(picture)}; give both the "
            "same size."
        )
    white = pil_to_tensor(mask)[0] >= WHITE
    if mask.size == (width, height):
        return white
    factor = max(width / mask.width, height / mask.height)
    wide, high = max(1, round(width / factor)), max(1, round(height / factor))
    top, left = (mask.height - high) // 2, (mask.width - wide) // 2
    middle = white[top : top + high, left : left + wide]
    return F.adaptive_max_pool2d(middle[None].float(), (height, width))[0] > 0


def _several(given: Pictures, dims: int, name: str) -> Sequence[Picture]:
    """What is given, one by one; an array of `dims` + 1 dimensions is a batch."""
    if isinstance(given, Tensor | np.ndarray):
        several = [*given] if given.ndim == dims + 1 else [given]
    else:
        several = [given] if isinstance(given, Image.Image | str | Path) else given
    if not isinstance(several, Sequence):
        raise UserError(f"{name} are {several!r}; give pictures in a list.")
    if not several:
        raise UserError(f"{name} is empty; give a picture.")
    return several


def _read(picture: Picture, behind: str) -> Image.Image:
    if isinstance(picture, Tensor | np.ndarray):
        channels = picture.shape[0 if isinstance(picture, Tensor) else -1] if picture.ndim else 0
        if _dtype(picture) != "uint8" or picture.ndim != 3 or channels != 3 or 0 in picture.shape:
            raise UserError(
                f"An image is {_kind(picture)}; give uint8 of shape (3, H, W), in NumPy (H, W, 3), "
                "PIL images or files."
            )
        return Image.fromarray(_numpy(picture))
    if isinstance(picture, Image.Image):
        if 0 in picture.size:
            raise UserError(f"An image has {_size(picture)} pixels; give one that has some.")
        try:
            return upright_rgb(picture, behind)
        except (OSError, ValueError) as error:  # a lazily read file, floating-point pixels
            raise UserError(f"An image cannot be read: {error}; give RGB.") from None
    if not isinstance(picture, str | Path):
        raise UserError(f"{picture!r} is no picture; give PIL images, files, or uint8 pixels.")
    if not Path(picture).is_file():
        raise UserError(f"There is no file {picture}; give a picture that exists.")
    try:
        return read_image(picture, behind=behind)
    except UnreadableImage as error:
        raise UserError(f"{picture} is no picture that can be read: {error.reason}.") from None


def _read_mask(mask: Picture) -> Image.Image:
    if not isinstance(mask, Tensor | np.ndarray):
        return _read(mask, "black").convert("L")
    if _dtype(mask) not in ("bool", "uint8") or mask.ndim != 2 or 0 in mask.shape:
        raise UserError(
            f"A mask is {_kind(mask)}; give bool or uint8 of shape (H, W), PIL images or files, "
            "True or white where to paint."
        )
    plane = _numpy(mask)
    return Image.fromarray(plane * np.uint8(255) if plane.dtype == bool else plane)


def _numpy(array: Array) -> NDArray:
    """A plane (H, W) or a picture, its colours last."""
    if isinstance(array, np.ndarray):
        return array
    return (array.permute(1, 2, 0) if array.ndim == 3 else array).cpu().numpy()


def _to_pil(images: Tensor) -> list[Image.Image]:
    return [Image.fromarray(array) for array in images.permute(0, 2, 3, 1).cpu().numpy()]


def _size(picture: Image.Image) -> str:
    return "{}x{}".format(*picture.size)


def _kind(array: Array) -> str:
    return f"{_dtype(array)} of shape {tuple(array.shape)}"


def _dtype(array: Array) -> str:
    return str(array.dtype).removeprefix("torch.")
