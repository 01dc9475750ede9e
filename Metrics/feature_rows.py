"""Features that can be counted on: one finite row an image, as wide as others, and enough of them.

N images, D feature width.
"""

import numpy as np
import torch
from torch import Tensor

from Network.config import UserError

Array = Tensor | np.ndarray  # reference statistics come from .npz files, ours from tensors


def finite_rows(name: str, values: Array) -> Tensor:
    """Values (N, D) as float64; one row (D,) becomes (1, D).

    Raises UserError, naming them, for feature maps and for values that are not finite.
    """
    rows = torch.atleast_2d(torch.as_tensor(values).detach())
    rows = rows.cpu() if rows.device.type == "mps" else rows  # which has no float64
    if rows.ndim != 2:
        raise UserError(
            f"{name.capitalize()} have shape {tuple(rows.shape)}: flatten them to one row an image."
        )
    if not rows.isfinite().all():
        raise UserError(
            f"{name.capitalize()} hold NaN or infinity: look at the weights and images behind them."
        )
    return rows.to(torch.float64)


def check_widths(name1: str, values1: Tensor, name2: str, values2: Tensor) -> None:
    """Raise UserError, naming both, unless values (..., D) have one width."""
    width1, width2 = values1.shape[-1], values2.shape[-1]
    if width1 != width2:
        raise UserError(
            f"{name1.capitalize()} and {name2} have widths {width1} and {width2}: "
            "take both from the same layer of the same network."
        )


def check_count(what: str, needed: int, count: int) -> None:
    """Raise UserError if there are fewer images than what is measured needs."""
    if count < needed:
        raise UserError(
            f"{what}: at least {needed} images are needed, got {count}; raise num_images."
        )
