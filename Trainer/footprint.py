"""What memory a step takes, told before it is made: it is gone through on tensors without memory.

Fake tensors (PyTorch's FakeTensorMode) choose kernels and precision as real ones on their device,
so the peak counts what autograd keeps, gradients as they appear, and what comes and goes between.
"""

import weakref
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from MaskGIL.device import autocast
from Network import rotary
from Trainer.blocks import blocks_of, recompute
from Trainer.parallel import GRADIENT_BYTES, STATE_BYTES

# glibc holds 1.11 to 1.17 bytes per byte of tensors in steps of B and L, and 1.01 where each tensor
# is mapped by itself (benchmarks/memory.py)
ALLOCATORS = {"cpu": 1.125}


@dataclass(frozen=True)
class Way:
    """How a step is computed: where, how wide, in how many parts, by how many ranks."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    parts: int = 1
    ranks: int = 1
    shards: bool = False
    recomputed: float = 0.0  # share of the blocks


@dataclass(frozen=True)
class Footprint:
    """Bytes on one device: what stays between steps, and the most that a step adds to it."""

    state: int
    step: int
    allocator: float = 1.0  # what is held for a byte in use

    @property
    def total(self) -> int:
        """The peak of what the allocator holds."""
        return int((self.state + self.step) * self.allocator)


def footprint(
    build: Callable[[], nn.Module], loss_of: Callable[[nn.Module], Tensor], way: Way
) -> Footprint:
    """The memory of one rank in a step of `loss_of(build())`, whose inputs are of one part.

    Both are called with fake tensors. Weights, two moments and the average stay, in float32; so
    do gradients, if they wait for those of other parts or lie in DDP's buckets. Not counted: the
    libraries, and what an allocator cannot use again.
    """
    waits = way.parts > 1 or way.ranks > 1
    copied = way.shards and way.device.type == "cuda" and way.dtype == torch.bfloat16
    with _fake(way.device):
        module = build()
        recompute(module, way.recomputed)
        parameters = list(module.parameters())
        count = sum(p.numel() for p in parameters)
        if copied:
            module.to(torch.bfloat16)
        for parameter in parameters:
            if way.shards:  # a block's gradient is handed on as soon as it is there
                parameter.register_post_accumulate_grad_hook(_forget)
            elif waits:
                parameter.grad = torch.empty_like(parameter)
        with Peak() as peak:
            with autocast(way.device, way.dtype):
                loss = loss_of(module)
            loss.backward()
    if way.shards:
        return _sharded(module, count, peak.bytes, way)
    allocator = ALLOCATORS.get(way.device.type, 1.0)
    return Footprint(STATE_BYTES * count, peak.bytes + GRADIENT_BYTES * count * waits, allocator)


class Peak(TorchDispatchMode):
    """Counts the bytes of tensors that are made and freed inside; `bytes` is the most at once."""

    def __init__(self):
        super().__init__()
        self.bytes = self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Let an operation run, and look at the memory of its results."""
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):  # what is unknown yet was there before
                self._watch(leaf.untyped_storage(), 0)
        results = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(results):
            if isinstance(leaf, Tensor):
                self._watch(leaf.untyped_storage(), leaf.untyped_storage().nbytes())
        return results

    def _watch(self, storage: torch.UntypedStorage, count: int) -> None:
        address = storage._cdata
        if address not in self._known:
            self._known.add(address)
            self._now += count
            self.bytes = max(self.bytes, self._now)
            weakref.finalize(storage, self._free, address, count)

    def _free(self, address: int, count: int) -> None:
        self._known.discard(address)
        self._now -= count


def fewest_fitting(shares: Sequence[int], total: Callable[[int], int], available: int) -> int:
    """The least number of parts, of ascending `shares`, whose `total(parts)` fits; else the last.

    More parts never take more memory, so few are tried.
    """
    return shares[min(bisect_left(shares, True, key=lambda n: total(n) <= available),
                      len(shares) - 1)]  # fmt: skip


@contextmanager
def _fake(device: torch.device) -> Iterator[None]:
    """Tensors without memory; rotary tables, which are remembered, are not mixed with real ones."""
    remembered = [table for table in vars(rotary).values() if hasattr(table, "cache_clear")]
    try:
        for table in remembered:
            table.cache_clear()
        with FakeTensorMode(), torch.device(device):
            yield
    finally:
        for table in remembered:
            table.cache_clear()


def _forget(parameter: Tensor) -> None:
    parameter.grad = None


def _sharded(module: nn.Module, count: int, activations: int, way: Way) -> Footprint:
    """Shares of weights, gradients, moments and average; beside them what FSDP2 gathers.

    That is the root, which stays, and two blocks, with gradients of both, of which those of two
    blocks also wait in float32 to be added up.
    """
    width = next(module.parameters()).element_size()
    sizes = [sum(p.numel() for p in block.parameters()) for block in blocks_of(module)]
    root, block = count - sum(sizes), max(sizes)
    gathered = 2 * width * (root + 2 * block) + GRADIENT_BYTES * 2 * block
    own = GRADIENT_BYTES * count // way.ranks
    return Footprint(STATE_BYTES * count // way.ranks, own + gathered + activations)
