"""Our training step on a card: seconds, memory and model FLOPs utilisation (MFU) by batch.

Forward, loss, backward, clip, AdamW and EMA in bf16, in three ways: "eager"; "compile", which is
loop.compile=true; "graphs", compiled as a whole with CUDA graphs. FLOPs are those of the eager step
as PyTorch's counter sees them, with the head on gathered rows; `share_of_peak` is the MFU against
peak=TFLOPS, the dense bf16 peak on the card's data sheet (989 for an H100 SXM).
A batch that does not fit is recorded as such.
"""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any, Literal

import torch
from networks import NETWORKS
from paired import Case, Way, command, count_flops, in_turns, matmul_way, spread, write
from torch import nn
from train import OPTIM, Batch, Step, loss_of_rows

from MaskGIL.config import require_at_least, to_dict
from MaskGIL.device import DTYPES, choose_device
from Network import NetworkConfig, build_network
from Network.config import setting
from Trainer.blocks import compile_blocks, plain
from Trainer.optim import EMA, build_optimizer
from Trainer.vit import RowLogits

SIZES = {**NETWORKS, **{size: NetworkConfig(size=size) for size in ("L", "XL", "XXL")}}


def block_by_block(objective: nn.Module) -> nn.Module:
    """Compile as the trainer does."""
    assert compile_blocks(objective)
    return objective


COMPILERS: dict[str, Callable[[nn.Module], Any]] = {
    "eager": lambda objective: objective,
    "compile": block_by_block,
    "graphs": partial(torch.compile, dynamic=False, mode="reduce-overhead"),
}
How = Literal["eager", "compile", "graphs"]


@dataclass(frozen=True)
class MFUBenchmark:
    """What to measure."""

    sizes: tuple[Literal["demo", "B", "L", "XL", "XXL"], ...] = setting(("B", "L"), "networks")
    images: tuple[int, ...] = setting((32, 128, 256), "images of a step")
    ways: tuple[How, ...] = setting(("eager", "compile", "graphs"), "how the network is run")
    precision: Literal["bf16", "fp32"] = setting("bf16", "precision")
    peak: float = setting(
        0.0, "dense TFLOP/s of the card in it; 0: no MFU, the measured peak alone"
    )
    rounds: int = setting(5, "how often every way has its turn")
    seconds: float = setting(2.0, "least duration of a turn")
    device: str = setting("auto", "auto, cuda or cpu")

    def __post_init__(self):
        require_at_least("peak", self.peak, 0)
        require_at_least("rounds", self.rounds, 1)


def main(config: MFUBenchmark) -> None:
    device = choose_device(config.device)
    cases: dict[str, Case] = {}
    for size in config.sizes:
        for images in config.images:
            try:
                case = measured(config, SIZES[size], images, device)
            except torch.OutOfMemoryError:
                case = {"ours": {"does not fit": True}}
            cases[f"{size} {images}"] = case
            if device.type == "cuda":
                torch.cuda.empty_cache()  # of the case before, whose networks are gone
    write("mfu", "seconds of one optimiser step with EMA", to_dict(config), cases)


def measured(
    config: MFUBenchmark, network: NetworkConfig, images: int, device: torch.device
) -> Case:
    """Time every way on the same batch, with one network, and tell what it reaches."""
    dtype, batch = DTYPES[config.precision], Batch(network, images, device)
    torch.manual_seed(0)
    module = build_network(network).to(device).train()
    nn.init.normal_(module.output.weight, std=0.02)
    step = Step(
        *(module, lambda: loss_of_rows(RowLogits(module), batch)),
        *(build_optimizer(module, OPTIM), EMA(module, OPTIM.ema)),
    )
    flops = count_flops(partial(step, dtype))  # a compiled step would hide its operations
    ways: dict[str, Way] = {}
    for how in config.ways:
        objective = COMPILERS[how](RowLogits(module))
        own = replace(step, loss=partial(loss_of_rows, objective, batch))
        blocks = nullcontext if how == "compile" else partial(plain, module)  # of one network
        ways[how] = partial(marked, own, dtype, blocks)
    memory = {name: peak_memory(way, device) for name, way in ways.items()}
    matmul = matmul_way(dtype, device)
    times = in_turns({**ways, "matmul": matmul}, config.rounds, config.seconds, device)
    peak = count_flops(matmul) / min(times.pop("matmul"))
    case: Case = {}
    for name, seconds in times.items():
        spent = median(seconds)
        case[name] = {
            "seconds": spread(seconds),
            "images_per_second": round(images / spent, 1),
            "share_of_matmul_peak": round(flops / spent / peak, 3),
            "share_of_peak": round(flops / spent / config.peak / 1e12, 3) if config.peak else None,
            "gigabytes": memory[name],
        }
    case["matmul"] = {"gigaflops_per_second": round(peak / 1e9, 1)}
    case["step"] = {"gigaflops_counted": round(flops / 1e9, 2)}
    return case


def marked(
    step: Step, dtype: torch.dtype, blocks: Callable[[], AbstractContextManager[None]]
) -> None:
    """Make a step; tensors of the last one may be overwritten by a graph of this one."""
    torch.compiler.cudagraph_mark_step_begin()
    with blocks():
        step(dtype)


def peak_memory(way: Way, device: torch.device) -> float | None:
    """Gigabytes that a step needs at most, compiled before; None where nothing counts them."""
    way()
    way()
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    way()
    return round(torch.cuda.max_memory_allocated(device) / 1e9, 2)


if __name__ == "__main__":
    sys.exit(command(main, MFUBenchmark, "mfu", __doc__ or ""))
