"""The blocks of a network in training: computed again instead of kept, compiled one by one.

A network lists them as its `blocks` and knows nothing of it; names in state dicts stay as they are.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from Network.config import UserError


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The blocks of a network, or of the network inside an objective; none of other modules."""
    for part in module.modules():
        if isinstance(blocks := getattr(part, "blocks", None), nn.ModuleList):
            return list(blocks)
    return []


def recompute(network: nn.Module, share: float) -> None:
    """Let a share of the blocks, evenly spread, compute again what their backward pass needs.

    Such a block keeps its input only (Chen et al., 2016). Raises UserError for a network without
    blocks.
    """
    blocks = blocks_of(network)
    if share and not blocks:
        raise UserError(
            f"loop.checkpoint_blocks={share:g} asks for blocks, which only generators have; "
            "use loop.checkpoint_blocks=0."
        )
    for index, block in enumerate(blocks):
        if int((index + 1) * share) > int(index * share):
            _trained_forward(block).again = True


def compile_blocks(module: nn.Module) -> bool:
    """Compile each block by itself, for its shapes in training; False where there is none.

    Buckets and modes are known and come again and again, so there may be as many graphs of a block
    as PyTorch allows of all functions: by default it would go the plain way behind the eighth.
    """
    blocks = blocks_of(module)
    limits: Any = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, limits.accumulated_recompile_limit)
    for block in blocks:
        _trained_forward(block).compile()
    return bool(blocks)


@contextmanager
def plain(module: nn.Module) -> Iterator[None]:
    """Let all blocks go the plain way in here, as they do where no gradient is wanted.

    Hooks within a compiled block would have it compiled anew, or not be called.
    """
    forwards = [b.forward for b in blocks_of(module) if isinstance(b.forward, _TrainedForward)]
    for forward in forwards:
        forward.is_plain = True
    try:
        yield
    finally:
        for forward in forwards:
            forward.is_plain = False


class _TrainedForward:
    """Stands for the forward of a block: compiled or computed again where gradients are wanted.

    Decoding and validation, whose shapes change from call to call, go the plain way.
    """

    def __init__(self, plain: Callable[..., Any]):
        self.plain = self.inner = plain
        self.again = self.is_plain = False

    def compile(self) -> None:
        self.inner = torch.compile(self.plain, dynamic=False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.is_plain or not torch.is_grad_enabled():
            return self.plain(*args, **kwargs)
        if self.again:
            return checkpoint(self.inner, *args, use_reentrant=False, **kwargs)
        return self.inner(*args, **kwargs)


def _trained_forward(block: nn.Module) -> _TrainedForward:
    if not isinstance(block.forward, _TrainedForward):
        block.forward = _TrainedForward(block.forward)
    return block.forward
