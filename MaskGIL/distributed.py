"""Processes: started by torchrun or alone, and what they tell each other.

The only place that reads or writes the environment of the process group. Plain `python main.py`
equals torchrun with one process.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

PATIENCE = timedelta(hours=2)  # ranks that encode a large data set finish at different times
STEP_PATIENCE = timedelta(minutes=30)  # in training they only wait for a score, or a compilation


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the other ranks, with nccl on CUDA and gloo elsewhere; alone this does nothing.

    Nor does it within such a block: there they have met.

    It is left behind success only: an error ends the process, and the other ranks would lose the
    connection, and complain about that, before the error is told (`command.py`).
    """
    if world_size() == 1 or dist.is_initialized():
        yield
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    yield
    dist.destroy_process_group()


def rank() -> int:
    """The number of this process, 0 when alone."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """The number of this process on its machine: the index of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world_size() -> int:
    """How many processes work together on this machine: they share its memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def world_size() -> int:
    """How many processes work together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process prints and writes."""
    return rank() == 0


def barrier() -> None:
    """Wait for all ranks."""
    if world_size() > 1:
        dist.barrier()


@contextmanager
def first_rank_first() -> Iterator[None]:
    """Let the first rank of each machine through this block, then the others.

    Every rank must come here, or none. An error ends the rank, so that nobody waits for it long.
    Where no group was joined nobody waits.
    """
    waits = local_rank() > 0
    if waits and dist.is_initialized():
        dist.barrier()
    yield
    if not waits and dist.is_initialized():
        dist.barrier()


def all_reduce(tensor: Tensor) -> Tensor:
    """Sum a tensor over ranks, in place; returns it."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def summed(tensor: Tensor, device: torch.device) -> Tensor:
    """The sum over ranks, which compute on `device`, of a tensor on the CPU, where it stays.

    It may be float64, which not every device knows.
    """
    return all_reduce(tensor.to(device) if device.type == "cuda" else tensor).cpu()


def all_gather(tensor: Tensor) -> Tensor:
    """Concatenate equally shaped tensors of all ranks along the first dimension."""
    if world_size() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor)
    return torch.cat(parts)


def all_gather_texts(text: str) -> list[str]:
    """What each rank says, in their order."""
    if world_size() == 1:
        return [text]
    texts = [""] * world_size()
    dist.all_gather_object(texts, text)
    return texts


def gather(value: T) -> list[T]:
    """What each rank has, in their order, on the main rank; nothing on the others.

    Values of any kind, which travel pickled.
    """
    if world_size() == 1:
        return [value]
    found: list = [None] * world_size()
    dist.gather_object(value, found if is_main() else None)
    return found if is_main() else []


def lose_patience() -> None:
    """From now on a rank that does not answer ends the job within STEP_PATIENCE."""
    if world_size() == 1:
        return
    public, of_before = "set_timeout", "_set_pg_timeout"  # torch 2.11 has the second one only
    name = public if hasattr(dist.distributed_c10d, public) else of_before
    getattr(dist.distributed_c10d, name)(STEP_PATIENCE)


def chunks(count: int, size: int) -> list[range]:
    """This rank's share of range(count), in chunks of `size` dealt out in turn.

    The chunks are the same for any number of ranks; only who takes which differs.
    """
    starts = range(0, count, size)[rank() :: world_size()]
    return [range(start, min(start + size, count)) for start in starts]
