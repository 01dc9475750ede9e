"""How a module is spread over ranks: replicated by DDP, or plain when alone."""

from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from MaskGIL.distributed import world_size


def parallelise(module: nn.Module, device: torch.device, compile: bool) -> nn.Module:
    """Compile the module if asked, then let DDP average its gradients over the ranks."""
    if compile:
        module = cast(nn.Module, torch.compile(module))
    if world_size() == 1:
        return module
    device_ids = [device] if device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=device_ids)


def accumulating(module: nn.Module, last: bool) -> AbstractContextManager:
    """Gradients stay on their rank until the last part of a step."""
    if last or not isinstance(module, DistributedDataParallel):
        return nullcontext()
    return module.no_sync()
