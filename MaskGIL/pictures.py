"""Pictures that people look at: grids of images, strips and animations of a decoding."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

MASKED_GREY = 128


def save_grid(images: Tensor, path: Path, columns: int, enlarge: int = 1) -> None:
    """Write images (B, 3, H, W) uint8 as a PNG grid, each pixel `enlarge` times as large."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grid_of(images, columns, enlarge)).save(path)


def save_images(images: Tensor, folder: Path) -> None:
    """Write images (B, 3, H, W) uint8 as PNG files of their own: 00.png, 01.png, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, pixels in enumerate(images.permute(0, 2, 3, 1).cpu().numpy()):
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")


def grid_of(images: Tensor, columns: int, enlarge: int = 1) -> NDArray[np.uint8]:
    """Images (B, 3, H, W) uint8 as one picture (height, width, 3), white between them."""
    images = images.cpu().repeat_interleave(enlarge, 2).repeat_interleave(enlarge, 3)
    grid = make_grid(images, nrow=columns, padding=2, pad_value=255)
    return grid.permute(1, 2, 0).numpy()


def grey_out(images: Tensor, hidden: Tensor) -> Tensor:
    """Images (B, 3, H, W) uint8 with grey where tokens are hidden (B, h, w)."""
    size = images.shape[-2:]
    covered = F.interpolate(hidden[:, None].float(), size=size, mode="nearest") > 0.5
    return torch.where(covered, MASKED_GREY, images)


def save_strip(frames: Sequence[Tensor], path: Path, enlarge: int = 1) -> None:
    """Write a decoding as a PNG: a row per image, a column per frame (B, 3, H, W) uint8."""
    images = torch.stack(list(frames), 1).flatten(0, 1)  # (B steps, 3, H, W)
    save_grid(images, path, columns=len(frames), enlarge=enlarge)


def save_gif(frames: Sequence[Tensor], path: Path, columns: int, enlarge: int = 1) -> None:
    """Write a decoding as an animation of grids; the last frame stays for a second."""
    pictures = [Image.fromarray(grid_of(frame, columns, enlarge)) for frame in frames]
    durations = [180] * (len(pictures) - 1) + [1000]  # milliseconds
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, loop=0)
