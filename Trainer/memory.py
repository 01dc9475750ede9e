"""How many parts a step is computed in: as few as the memory of the device holds.

On a GPU by trying. A CPU's system ends a process that asks for too much, so there the tensors that
one image keeps for the backward pass are counted first.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from MaskGIL.distributed import all_reduce
from Network.config import UserError

MEMINFO = Path("/proc/meminfo")  # of Linux
_SIGNS = ("out of memory", "ALLOC_FAILED")


def fewest_parts(
    share: int, trial: Callable[[int], None], device: torch.device, image_bytes: int = 0
) -> int:
    """The least divisor of `share` with which `trial(parts)` stays within memory on every rank.

    What would take more than is free at `image_bytes` an image is not tried. Raises UserError if a
    single image at a time is too much.
    """
    available = free_memory(device)
    for parts in divisors(share):
        too_much = share // parts * image_bytes > available or _runs_out(trial, parts)
        if all_reduce(torch.tensor(too_much, device=device, dtype=torch.int64)) == 0:
            return parts
    raise UserError(
        f"Even one image at a time does not fit into the memory of {device}; choose a smaller "
        "network or data.image_size."
    )


def divisors(number: int) -> list[int]:
    """What divides a number, in ascending order."""
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def saved_bytes(module: nn.Module, compute: Callable[[], object]) -> int:
    """Bytes of the tensors that `compute` keeps for its backward pass, each storage once.

    The parameters of `module` are not counted.
    """
    kept: dict[int, int] = {}
    alive: list[Tensor] = []
    own = {p.untyped_storage()._cdata for p in module.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own and storage._cdata not in kept:
            kept[storage._cdata] = storage.nbytes()
            alive.append(tensor)  # or its address might be used again
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        compute()
    return sum(kept.values())


def free_memory(device: torch.device) -> int:
    """Bytes that are free on the device, or on the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if MEMINFO.exists():
        for line in MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):  # with what the page cache can give back
                return int(line.split()[1]) * 1024
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 8 << 30  # unknown: assume a small machine


def placeholders(tensors: Sequence[Tensor], times: int) -> list[Tensor]:
    """Memory for `times` copies of `tensors`: what the first step will ask for."""
    return [torch.empty_like(tensor) for tensor in tensors for _ in range(times)]


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
