"""What each size needs on common cards, reckoned and not measured: a table in Markdown.

Memory is that of the dry run (Trainer/footprint.py) in bf16, attention with PyTorch's fused kernel.
The most images at once, up to `images`, that take at most 90 % of the memory; blocks are computed
again only where nothing else fits or fewer than 16 images do. Hours are the operations of all steps
over `mfu` of a card's peak, where each of several shapes is taken to have equally many pictures;
blocks that are computed again cost one more forward pass. `recipes` are reckoned instead, each with
its own network, batch and steps.
"""

import sys
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
import torch.nn.functional as F
from paired import command

from MaskGIL.config import load_config
from Network import attention
from Network.config import NetworkConfig, setting
from Trainer.config import RunConfig
from Trainer.dry_run import Generator
from Trainer.footprint import Way, footprint
from Trainer.logger import format_bytes
from Trainer.parallel import crowds
from Trainer.throughput import PEAKS

CPU = torch.device("cpu")
ROOM = 0.9  # of a card's memory; the rest is for libraries and what an allocator cannot use again


class Machine(NamedTuple):
    """Cards of one kind."""

    cards: int
    gigabytes: int
    tflops: float


MACHINES = {
    "1x8 GB": Machine(1, 8, 40.6),  # RTX 3070, NVIDIA's white paper of GA102
    "1x24 GB": Machine(1, 24, PEAKS["RTX 4090"]),
    "1x80 GB": Machine(1, 80, PEAKS["A100"]),
    "8x80 GB": Machine(8, 80, PEAKS["A100"]),
}


@dataclass(frozen=True)
class Plan:
    """What to reckon."""

    sizes: tuple[str, ...] = setting(("B", "L", "XL", "XXL", "3B"), "networks")
    recipes: tuple[str, ...] = setting((), "YAML files, a,b, in place of sizes, batch and steps")
    batch: int = setting(2048, "images per step")
    steps: int = setting(200_000, "steps of the recipe")
    mfu: float = setting(0.4, "share of the peak that is assumed")
    images: int = setting(128, "most images at once")
    machines: tuple[str, ...] = setting(tuple(MACHINES), "those of the table, a,b")


def main(plan: Plan) -> None:
    print(f"| size | {' | '.join(plan.machines)} |\n|{'---|' * (len(plan.machines) + 1)}")
    for run, config in runs(plan).items():
        cells = [describe(config, MACHINES[name], plan) for name in plan.machines]
        print(f"| {run} | {' | '.join(cells)} |", flush=True)


def runs(plan: Plan) -> dict[str, RunConfig]:
    """What is to be reckoned, by name."""
    if plan.recipes:
        return {Path(file).stem: load_config(RunConfig, file, []) for file in plan.recipes}
    config = load_config(RunConfig, None, [])
    optim, loop = replace(config.optim, batch=plan.batch), replace(config.loop, steps=plan.steps)
    config = replace(config, optim=optim, loop=loop)
    return {size: replace(config, network=NetworkConfig(size=size)) for size in plan.sizes}


def describe(config: RunConfig, machine: Machine, plan: Plan) -> str:
    """Images at once, share of the blocks that are computed again, ddp or fsdp, hours."""
    model, memory = Generator(config), machine.gigabytes * 10**9
    with torch.device("meta"):
        module = model.build()
        count = sum(p.numel() for p in module.parameters())
        flops = fmean(model.flops(module, 64))
    shards = machine.cards > 1 and crowds(count, memory)
    best = (0, 0.0, 0)
    for share in (0.0, 1.0):
        constant, each = held(config, machine.cards, share, shards)
        images = min(plan.images, config.optim.batch // machine.cards)
        while images and constant + each * images > ROOM * memory:
            images //= 2
        if images > 2 * best[0]:
            best = (images, share, constant + each * images)
        if images >= 16:
            break
    images, share, bytes_ = best
    if not images:
        return f"no: {format_bytes(constant + each)} for one image"
    done = config.loop.steps * config.optim.batch * flops * (1 + share / 3)
    hours = done / (machine.cards * machine.tflops * 1e12 * plan.mfu) / 3600
    again = ", all blocks again" if share else ""
    kind = f", {'fsdp' if shards else 'ddp'}" if machine.cards > 1 else ""
    return f"{images} images{again}{kind}, {format_bytes(bytes_)}, {hours:,.0f} h"


@lru_cache
def held(config: RunConfig, cards: int, share: float, shards: bool) -> tuple[int, int]:
    """Bytes on one card whatever the images, and what each adds: from 8 images and 16.

    As on a CPU, but without its detour around fused attention.
    """
    model, each_card = Generator(config), config.optim.batch // cards
    detour, attention.attend = attention.attend, fused
    try:
        eight, sixteen = (
            footprint(
                model.build,
                partial(model.loss_of, images),
                Way(CPU, torch.bfloat16, each_card // images, cards, shards, share),
            )
            for images in (8, 16)
        )
    finally:
        attention.attend = detour
    each = (sixteen.step - eight.step) // 8
    return eight.state + eight.step - 8 * each, each


def fused(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    causal: bool = False,
) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, is_causal=causal)


if __name__ == "__main__":
    sys.exit(command(main, Plan, "plan", __doc__ or ""))
