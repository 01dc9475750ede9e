"""How many parts a step is computed in: as few as the memory of the device holds, by trying."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from MaskGIL.distributed import all_reduce
from Network.config import UserError

_SIGNS = ("out of memory", "ALLOC_FAILED")


def fewest_parts(share: int, trial: Callable[[int], None], device: torch.device) -> int:
    """The least divisor of `share` with which `trial(parts)` stays within memory on every rank.

    Raises UserError if a single image at a time is too much.
    """
    for parts in (number for number in range(1, share + 1) if share % number == 0):
        if all_reduce(torch.tensor(_runs_out(trial, parts), device=device, dtype=torch.int64)) == 0:
            return parts
    raise UserError(
        f"Even one image at a time does not fit into the memory of {device}; choose a smaller "
        "network or data.image_size."
    )


def _runs_out(trial: Callable[[int], None], parts: int) -> bool:
    try:
        trial(parts)
    except RuntimeError as error:  # CUDA has a class of its own for it; its libraries and MPS not
        if not any(sign in str(error) for sign in _SIGNS):
            raise
        return True
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # else the pieces of one trial stand in the way of the next
    return False


def placeholders(tensors: Sequence[Tensor], times: int) -> list[Tensor]:
    """Memory for `times` copies of `tensors`: what the first step will ask for."""
    return [torch.empty_like(tensor) for tensor in tensors for _ in range(times)]
