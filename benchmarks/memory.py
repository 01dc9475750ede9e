"""What the dry run foretells of memory, beside what a step really takes on this machine.

Each case is a process of its own that makes two steps as the trainer does and asks the system for
the most memory that it ever held, less what it held before the network was built (on Linux).
"""

import json
import resource
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from paired import command, write

from MaskGIL.config import load_config, to_dict
from MaskGIL.device import DTYPES, autocast
from Network.config import NetworkConfig, setting
from Trainer.blocks import recompute
from Trainer.config import RunConfig
from Trainer.dry_run import Generator
from Trainer.footprint import Way, footprint
from Trainer.optim import EMA, build_optimizer, gradient_norm

CPU = torch.device("cpu")


@dataclass(frozen=True)
class MemoryBenchmark:
    """What to measure."""

    sizes: tuple[Literal["B", "L", "XL"], ...] = setting(("B", "L"), "networks")
    images: tuple[int, ...] = setting((4, 8), "images at once")
    precision: tuple[Literal["fp32", "bf16"], ...] = setting(("fp32",), "precisions")
    recomputed: tuple[float, ...] = setting((0.0,), "shares of the blocks that are computed again")
    one: str = setting("", "measure one case in this process and print it: SIZE,IMAGES,...")


def main(config: MemoryBenchmark) -> None:
    if config.one:
        size, images, precision, share = config.one.split(":")
        print(json.dumps(measure(size, int(images), precision, float(share))))
        return
    cases = {}
    for size in config.sizes:
        for precision in config.precision:
            for share in config.recomputed:
                for images in config.images:
                    one = f"one={size}:{images}:{precision}:{share}"
                    again = [sys.executable, str(Path(__file__)), one]
                    done = subprocess.run(again, check=True, capture_output=True, text=True)
                    name = f"{size} {precision}, {images} images, {share:g} of the blocks again"
                    cases[name] = {"bytes": json.loads(done.stdout.splitlines()[-1])}
                    print(name, cases[name]["bytes"], flush=True)
    write("memory", "predicted and measured bytes of a training step", to_dict(config), cases)


def measure(size: str, images: int, precision: str, share: float) -> dict[str, float]:
    """Predicted and measured bytes of two steps, and their ratio."""
    config = load_config(RunConfig, None, [])
    config = replace(config, network=NetworkConfig(size=size), optim=replace(config.optim, ema=0.9))
    config = replace(config, optim=replace(config.optim, batch=images))
    model, dtype = Generator(config), DTYPES[precision]
    way = Way(CPU, dtype, recomputed=share)
    predicted = footprint(model.build, partial(model.loss_of, images), way).total
    _step(_smallest(config), dtype, share)  # libraries and kernels load with their first use
    before = _held()
    _step(config, dtype, share)
    measured = _most() - before
    return {
        "predicted": predicted,
        "measured": measured,
        "before": before,
        "ratio": round(predicted / measured, 3),
    }


def _step(config: RunConfig, dtype: torch.dtype, share: float) -> None:
    """Two steps as the trainer makes them."""
    model = Generator(config)
    module = model.build()
    recompute(module, share)
    ema, optimizer = EMA(module, config.optim.ema), build_optimizer(module, config.optim)
    for step in range(2):
        with autocast(CPU, dtype):
            loss = model.loss_of(config.optim.batch, module)
        loss.backward()
        gradient_norm(module.parameters(), config.optim.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(module, step)


def _smallest(config: RunConfig) -> RunConfig:
    """The same run with the smallest network."""
    network = NetworkConfig(depth=1, width=16, heads=1, codebook_size=16, num_classes=10)
    return replace(config, network=network, optim=replace(config.optim, batch=2))


def _most() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes, on Linux


def _held() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


if __name__ == "__main__":
    sys.exit(command(main, MemoryBenchmark, "memory", __doc__ or ""))
