"""What a run would take: sizes on the meta device, then one real batch and one real step.

Nothing is written, whatever is read comes from the data of the run.
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from MaskGIL.device import choose_device, choose_precision
from MaskGIL.distributed import world_size
from Network import build_network, build_tokenizer
from Trainer.config import RunConfig
from Trainer.logger import format_bytes, format_seconds
from Trainer.tokens import cache_folder
from Trainer.trainer import Trainer, Window
from Trainer.vit import GeneratorTrainer, RowLogits
from Trainer.vqgan import Reconstruction, TokenizerTrainer

STATE_BYTES = 20  # per parameter, in float32: weight, gradient, two moments, average


def dry_run(config: RunConfig) -> None:
    """Print sizes, memory, FLOPs and time of a run; read one batch and make one step if it fits."""
    device = choose_device(config.device)
    module, inputs = _on_meta(config)
    parameters = sum(p.numel() for p in module.parameters())
    flops = 3 * count_flops(module, inputs(1))  # the backward pass is twice the forward one
    images = config.optim.batch // world_size() // config.loop.accumulation
    needed = STATE_BYTES * parameters + saved_bytes(module, inputs(images))
    available = free_memory(device)
    precision = str(choose_precision(config.precision, device)).removeprefix("torch.")
    print(f"parameters       {parameters:,}")
    print(f"FLOPs per image  {flops / 1e9:.2f} G in training (forward and backward)")
    print(f"memory           {format_bytes(needed)} predicted at {images} images in float32, "
          f"{format_bytes(available)} free on {device}")  # fmt: skip
    print(f"precision        {precision}")
    print(f"steps            {config.loop.steps:,} of {config.optim.batch} images", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(config, Path(folder))
        started = time.monotonic()
        batch = trainer.dataset()[0]
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in batch.items())
        print(f"one batch        {shapes} in {time.monotonic() - started:.2f} s", flush=True)
        if needed > available:
            print("one step         not made: it does not fit; raise loop.accumulation")
            return
        seconds = _time_step(trainer, batch)
        total = format_seconds(seconds * config.loop.steps)
        print(f"one step         {seconds:.2f} s, so the run takes about {total}")


def count_flops(module: nn.Module, inputs: tuple) -> int:
    """Floating-point operations of a forward pass, a multiplication and an addition being two."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    return counter.get_total_flops()


def saved_bytes(module: nn.Module, inputs: tuple) -> int:
    """Bytes of the tensors that the backward pass of `module` keeps, each storage once."""
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
        module(*inputs)
    return sum(kept.values())


def free_memory(device: torch.device) -> int:
    """Bytes that are free on the device, or on the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 8 << 30  # unknown: assume a small machine


def _on_meta(config: RunConfig) -> tuple[nn.Module, Callable[[int], tuple]]:
    """What DDP would wrap, and its inputs for a number of images, on the meta device."""
    with torch.device("meta"):
        if config.job == "tokenizer":
            size = config.data.image_size
            tokenizer = Reconstruction(build_tokenizer(config.tokenizer))
            return tokenizer, lambda count: (torch.empty(count, 3, size, size, device="meta"),)
        network = RowLogits(build_network(config.network))

    def inputs(count: int) -> tuple:
        tokens = torch.empty(count, *config.network.grid, dtype=torch.int64, device="meta")
        return tokens, tokens[:, 0, 0], None

    return network, inputs


def _trainer(config: RunConfig, folder: Path) -> Trainer:
    """The trainer of the run, with a folder of its own, without a cache unless there is one."""
    data = config.data
    if config.job != "tokenizer":
        cached = all((cache_folder(config, s) / "index.json").exists() for s in ("train", "val"))
        cache = str(cache_folder(config, "train").parent)
        data = replace(data, cache=cache) if cached else replace(data, tokens="online")
    config = replace(config, out_dir=str(folder), data=data)
    return (TokenizerTrainer if config.job == "tokenizer" else GeneratorTrainer)(config)


def _time_step(trainer: Trainer, batch: dict[str, Tensor]) -> float:
    """Seconds of a step behind the first one, which warms up."""
    objective, window = trainer.objective(), Window()
    trainer.train_step(objective, batch, window)
    started = time.monotonic()
    trainer.train_step(objective, batch, window)
    window.means()  # waits for the device
    return time.monotonic() - started
