"""How many parts a step is computed in: as few as the memory of the device holds.

By trying. A CPU's system ends a process that asks for too much, so there what a step will take is
counted first.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from MaskGIL.device import is_out_of_memory
from MaskGIL.distributed import all_reduce, local_world_size, world_size
from MaskGIL.values import amount
from Network.config import UserError
from Trainer.guard import put_back, remember
from Trainer.parallel import local

if TYPE_CHECKING:
    from Trainer.trainer import Trainer

MEMINFO = Path("/proc/meminfo")  # of Linux
SPARE = 0.05  # of the memory, for what an allocator cannot use again


def fit_into_memory(trainer: "Trainer", before: Mapping[str, int]) -> None:
    """Cut a step into as few parts as fit, by computing one part without taking the step.

    A run that goes on keeps its parts, {"parts", "ranks"} of `before`, if the ranks are as many and
    they fit: with others sums are rounded, and dropout is drawn, otherwise. Raises UserError if
    even the smallest does not fit.
    """
    module, step = trainer.module, trainer.dearest_step()
    batch = trainer.data[step]
    buffers = remember(module)  # as those of a batch norm, which count

    def loss_of(images: int) -> Tensor:
        with trainer.as_in(step, images):
            return trainer.part_loss(trainer.trained, batch, 0)[0]

    module.train()
    share = trainer.share.stop - trainer.share.start
    copies = 0 if trainer.optimizer.state else 2  # moments
    first = before["parts"] if before.get("ranks") == world_size() else 1
    parts = fewest_parts(share, loss_of, module, copies, trainer.device, trainer.shards, first)
    trainer.cut(parts)
    put_back(buffers)
    told = f"{amount(trainer.part, 'image')} at once, {amount(parts, 'part')} a step: "
    if before == {"parts": parts, "ranks": world_size()}:
        told += "as before"
    else:
        told += "as many as fit"
        if before:
            was = f"{before['parts']} on {amount(before['ranks'], 'rank')}"
            told += f"; before, {was}, sums were rounded otherwise"
    trainer.log.line(f"memory     {told}")


def fewest_parts(
    share: int,
    loss_of: Callable[[int], Tensor],
    module: nn.Module,
    copies: int,
    device: torch.device,
    shards: bool = False,
    first: int = 1,
) -> int:
    """The least number of equal parts of a rank's `share` of images that fits on every rank.

    It is `first` if that fits, though fewer might.

    `loss_of(images)` is computed with its gradient, beside `copies` of what `module` learns, and
    leaves nothing behind. Where ranks share the module (`shards`) only one image and two are tried
    and the others reckoned: a rank that runs out would leave the others waiting for it. Raises
    UserError if a single image at a time is too much.
    """
    available, constant, each = free_memory(device), 0, 0
    if device.type == "cpu":
        constant, each = step_bytes(module, loss_of, copies, share)
    elif shards:
        constant, each = measured_bytes(module, loss_of, copies, share, device)
        available = int(available * (1 - SPARE))
    for parts in dict.fromkeys([first, *divisors(share)]):
        images = share // parts
        # Gradients wait for those of the other parts, or lie in DDP's buckets
        waiting = copies + (parts > 1 or world_size() > 1)
        too_much = constant + each * images > available
        too_much = too_much or (not shards and _runs_out(loss_of, images, module, waiting))
        if all_reduce(torch.tensor(too_much, device=device, dtype=torch.int64)) == 0:
            return parts
    raise UserError(
        f"Even one image at a time does not fit into the memory of {device}; choose a smaller "
        "network or data.image_size, or a larger loop.checkpoint_blocks for a generator."
    )


def divisors(number: int) -> list[int]:
    """What divides a number, in ascending order."""
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def step_bytes(
    module: nn.Module, loss_of: Callable[[int], Tensor], copies: int, share: int
) -> tuple[int, int]:
    """What a part of a step takes whatever its size, and what each of its images adds, in bytes.

    The first is the gradient, `copies` as large as that, and what is kept once for the backward
    pass, as weights cast to bf16 are. Computes up to two images.
    """
    one, two = (saved_bytes(module, partial(loss_of, images)) for images in (1, min(2, share)))
    each = two - one
    own = sum(local(parameter).nbytes for parameter in _learnt(module))
    return (copies + 1) * own + one - each, each


def measured_bytes(
    module: nn.Module,
    loss_of: Callable[[int], Tensor],
    copies: int,
    share: int,
    device: torch.device,
) -> tuple[int, int]:
    """The same two numbers as `step_bytes`, as CUDA measures the peaks of one image and of two."""
    peaks = []
    for images in (1, min(2, share)):
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        loss_of(images).backward()
        peaks.append(torch.cuda.max_memory_allocated(device) - before)
        module.zero_grad(set_to_none=True)
    each = peaks[1] - peaks[0]
    own = sum(local(parameter).nbytes for parameter in _learnt(module))
    return copies * own + peaks[0] - each, each


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
    """Bytes that are free on the device, or this rank's share of those of the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return _free_on_machine() // local_world_size()


def placeholders(tensors: Sequence[Tensor], times: int) -> list[Tensor]:
    """Memory for `times` copies of `tensors`: what the first step will ask for."""
    return [torch.empty_like(tensor) for tensor in tensors for _ in range(times)]


def _free_on_machine() -> int:
    if MEMINFO.exists():
        for line in MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):  # with what the page cache can give back
                return int(line.split()[1]) * 1024
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 8 << 30  # unknown: assume a small machine


def _runs_out(
    loss_of: Callable[[int], Tensor], images: int, module: nn.Module, copies: int
) -> bool:
    held: list[Tensor] = []
    try:
        held += placeholders(_learnt(module), copies)
        loss_of(images).backward()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return True
    finally:
        held.clear()
        module.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # else the pieces of one trial stand in the way of the next
    return False


def _learnt(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
