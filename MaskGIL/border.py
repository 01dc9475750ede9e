"""The border of a pipeline: pictures and masks come in as users have them, images go out.

Shapes: B images, H x W pixels, h x w tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from MaskGIL.data.crops import crop_image
from MaskGIL.data.folders import UnreadableImage, read_image, to_rgb
from Network.config import UserError

Picture = Image.Image | str | Path
Pictures = Picture | Sequence[Picture] | Tensor
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
    """Pictures (PIL, a file, a list of these, or uint8 (3, H, W) or (B, 3, H, W)) as RGB.

    Raises UserError for a file that is no picture, for none at all and for another tensor.
    """
    if isinstance(pictures, Tensor):
        if pictures.dtype != torch.uint8 or pictures.shape[-3:-2] != (3,):
            raise UserError(
                f"images are {_kind(pictures)}; give uint8 of shape (3, H, W) or (B, 3, H, W), "
                "PIL images or files."
            )
        return _to_pil(pictures.reshape(-1, *pictures.shape[-3:]))
    several = [pictures] if isinstance(pictures, Picture) else pictures
    if not several:
        raise UserError("images is empty; give a picture.")
    return [_read(picture) for picture in several]


def read_masks(masks: Pictures) -> list[Image.Image]:
    """Masks (as `read_pictures` has it, or bool (H, W) or (B, H, W)) in grey, white where hidden.

    Raises UserError as `read_pictures` does.
    """
    if not isinstance(masks, Tensor):
        return [mask.convert("L") for mask in read_pictures(masks)]
    if masks.dtype != torch.bool or masks.dim() not in (2, 3):
        raise UserError(
            f"masks are {_kind(masks)}; give bool of shape (H, W) or (B, H, W), PIL images or "
            "files, True or white where to paint."
        )
    planes = masks.reshape(-1, *masks.shape[-2:])
    return [Image.fromarray(plane.byte().mul(255).cpu().numpy()) for plane in planes]


def fit_picture(picture: Image.Image, height: int, width: int) -> Tensor:
    """A picture as (3, H, W) uint8: of this size as it is, else cropped and resized as in training.

    Raises UserError for another size if the generator's is no square, as crops are.
    """
    picture = picture.convert("RGB")
    if picture.size == (width, height):
        return pil_to_tensor(picture)
    if height != width:
        raise UserError(
            f"This generator draws {width}x{height} pixels and an image has {_size(picture)}; "
            "crop or resize it."
        )
    return crop_image(picture, "center", 0, height)


def fit_mask(mask: Image.Image, picture: Image.Image, height: int, width: int) -> Tensor:
    """A mask as (H, W) bool, cropped and resized as its picture is; True where it is white.

    Raises UserError for a mask of another size than its picture.
    """
    if mask.size != picture.size:
        raise UserError(
            f"The mask has {_size(mask)} pixels and its image {_size(picture)}; give both the "
            "same size."
        )
    return fit_picture(mask, height, width)[0] >= WHITE


def _read(picture: Picture) -> Image.Image:
    if isinstance(picture, Image.Image):
        return to_rgb(picture)
    if not Path(picture).is_file():
        raise UserError(f"There is no file {picture}; give a picture that exists.")
    try:
        return read_image(picture)
    except UnreadableImage as error:
        raise UserError(f"{picture} is no picture that can be read: {error.reason}.") from None


def _to_pil(images: Tensor) -> list[Image.Image]:
    return [Image.fromarray(array) for array in images.permute(0, 2, 3, 1).cpu().numpy()]


def _size(picture: Image.Image) -> str:
    return "{}x{}".format(*picture.size)


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
