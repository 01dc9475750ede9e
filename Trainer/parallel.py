"""How a module is spread over ranks: alone, replicated by DDP, or sharded by FSDP2.

Networks know nothing of it: FSDP2 gathers one of their `blocks` after the other.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from MaskGIL.distributed import all_reduce, is_main, world_size
from Network.config import UserError
from Trainer.blocks import blocks_of, compile_blocks
from Trainer.config import Parallel

# Per parameter, in float32: weight, two moments, average; its gradient, which lies in DDP's buckets
STATE_BYTES, GRADIENT_BYTES = 16, 4
Kind = TypeVar("Kind", bound=nn.Module)
_FROM_MAIN = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


def is_sharded(parallel: Parallel, outline: nn.Module | None, device: torch.device) -> bool:
    """Whether FSDP2 shards what `outline` is on the meta device; None is always replicated.

    `auto` shards if a replica would crowd the smallest card. A single process has nobody to share
    with. Raises UserError for a module that cannot be sharded.
    """
    if outline is None:
        if parallel == "fsdp":
            raise UserError("loop.parallel=fsdp shards generators only; use loop.parallel=ddp.")
        return False
    if world_size() == 1 or parallel != "auto" or device.type != "cuda":
        return world_size() > 1 and parallel == "fsdp"
    memory = torch.cuda.get_device_properties(device).total_memory
    vote = crowds(sum(p.numel() for p in outline.parameters()), memory)
    return all_reduce(torch.tensor(vote, device=device, dtype=torch.int64)).item() > 0


def crowds(parameters: int, memory: float) -> bool:
    """Whether a replica of so many parameters under DDP takes more than half of `memory` bytes."""
    return (STATE_BYTES + GRADIENT_BYTES) * parameters > memory / 2


def shard(
    objective: nn.Module, network: nn.Module, device: torch.device, dtype: torch.dtype
) -> None:
    """Shard `objective` and the `network` in it, which has its weights on rank 0 alone.

    No rank ever has more on its device than its share and one tensor. Masters, and so gradients,
    moments and averages, are float32. In bf16 on CUDA the products take bf16 copies, and gradients
    are added up over ranks in float32; hidden states stay as wide as without sharding.
    """
    state = network.state_dict() if is_main() else {}
    assert network.state_dict().keys() >= {name for name, _ in network.named_buffers()}
    # Keys and values are views, which nobody changes in place
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
    objective.to("meta")
    mesh = init_device_mesh(device.type, (world_size(),))
    for module in (*blocks_of(network), objective):
        fully_shard(module, mesh=mesh, mp_policy=_policy(device, dtype))
    objective.to_empty(device=device)
    set_model_state_dict(network, state, options=_FROM_MAIN)


def parallelise(objective: nn.Module, device: torch.device, compile: bool) -> nn.Module:
    """Compile if asked, blocks one by one; then DDP averages gradients over the ranks.

    What is sharded averages them already.
    """
    if compile and not compile_blocks(objective):
        objective = cast(nn.Module, torch.compile(objective))
    if world_size() == 1 or isinstance(objective, FSDPModule):
        return objective
    device_ids = [device] if device.type == "cuda" else None
    return DistributedDataParallel(objective, device_ids=device_ids, gradient_as_bucket_view=True)


def accumulating(module: nn.Module, last: bool) -> AbstractContextManager:
    """Copies exchange gradients with the last part of a step only.

    Where ranks share, they do with every part: a whole gradient would take what sharding spares.
    """
    if last or not isinstance(module, DistributedDataParallel):
        return nullcontext()
    return module.no_sync()


def forget_gradient(optimizer: Optimizer, shards: bool) -> None:
    """Give the memory of the gradient free; under DDP set it to 0, since its buckets stay."""
    optimizer.zero_grad(set_to_none=shards or world_size() == 1)


@contextmanager
def holding(
    module: nn.Module, tensors: Mapping[str, Tensor], outline: nn.Module | None
) -> Iterator[nn.Module]:
    """A module that holds whole `tensors` meanwhile, in evaluation mode and without gradients.

    It is `module` itself; but if that is sharded, `outline` tells of which kind, and each rank
    gets a whole one for itself: every rank must come, and inside no rank waits for another.
    """
    if outline is not None:
        device = next(iter(tensors.values())).device
        with torch.no_grad():
            yield gather_into(outline.to_empty(device=device), tensors).eval()
        return
    current = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    module.load_state_dict(tensors)
    module.eval()
    try:
        with torch.no_grad():
            yield module
    finally:
        module.load_state_dict(current)


@torch.no_grad()
def gather_into(module: Kind, tensors: Mapping[str, Tensor]) -> Kind:
    """Copy `tensors`, of which a rank may have its part only, into a module; returns it."""
    for name, tensor in module.state_dict().items():
        tensor.copy_(whole(tensors[name]))
    return module


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor; it shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """A tensor with the parts of all ranks, each of which must come here."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def fill_in(tensor: Tensor, value: Tensor) -> None:
    """Copy a whole `value`, which every rank has, into a tensor of which a rank has its part."""
    if isinstance(tensor, DTensor):
        value = distribute_tensor(
            value.to(tensor.device), tensor.device_mesh, tensor.placements, src_data_rank=None
        )
    tensor.copy_(value)


def _policy(device: torch.device, dtype: torch.dtype) -> MixedPrecisionPolicy:
    if device.type != "cuda" or dtype != torch.bfloat16:
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(
        param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
