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

from MaskGIL.data import open_images
from MaskGIL.device import choose_device, choose_precision
from MaskGIL.distributed import is_main, world_size
from MaskGIL.weights import open_tokenizer
from Network import build_network, build_tokenizer
from Trainer.config import RunConfig
from Trainer.logger import format_bytes, format_seconds
from Trainer.tokens import SPLITS, cache_folder, describe_cache, has_cache
from Trainer.trainer import Trainer, Window
from Trainer.vit import GeneratorTrainer, RowLogits
from Trainer.vqgan import Reconstruction, TokenizerTrainer

STATE_BYTES = 20  # per parameter, in float32: weight, gradient, two moments, average


def dry_run(config: RunConfig) -> None:
    """Print what the job of `config` would take. Raises UserError as the job itself would."""
    if config.job == "cache":
        _foretell_cache(config)
    else:
        _foretell_training(config)


def _foretell_cache(config: RunConfig) -> None:
    """Print the size of both splits, and whether they are there already."""
    tokenizer = open_tokenizer(config.tokenizer)
    _say("tokenizer", f"{tokenizer.name}, {tokenizer.codebook_size:,} codes")
    for split in SPLITS:
        images = open_images(config.data, split)
        _say(f"cache of {split}", describe_cache(config, images, tokenizer, split))
    _say("state", "complete: nothing to do" if has_cache(config) else "to be written")


def _foretell_training(config: RunConfig) -> None:
    """Print sizes, memory, FLOPs and time of a run; read one batch and make one step if it fits."""
    device = choose_device(config.device)
    module, inputs = _on_meta(config)
    parameters = sum(p.numel() for p in module.parameters())
    flops = 3 * count_flops(module, inputs(1))  # the backward pass is twice the forward one
    images = config.optim.batch // world_size() // config.loop.accumulation
    needed = STATE_BYTES * parameters + saved_bytes(module, inputs(images))
    available = free_memory(device)
    precision = str(choose_precision(config.precision, device)).removeprefix("torch.")
    _say("parameters", f"{parameters:,}")
    _say("FLOPs per image", f"{flops / 1e9:.2f} G in training (forward and backward)")
    _say("memory", f"{format_bytes(needed)} predicted at {images} images in float32, "
         f"{format_bytes(available)} free on {device}")  # fmt: skip
    _say("precision", precision)
    _say("steps", f"{config.loop.steps:,} of {config.optim.batch} images")
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(config, Path(folder))
        started = time.monotonic()
        batch = trainer.dataset()[0]
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in batch.items())
        _say("one batch", f"{shapes} in {time.monotonic() - started:.2f} s")
        if needed > available:
            _say("one step", "not made: it does not fit; raise loop.accumulation")
            return
        seconds = _time_step(trainer, batch)
        total = format_seconds(seconds * config.loop.steps)
        _say("one step", f"{seconds:.2f} s, so the run takes about {total}")


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


def _say(name: str, fact: str) -> None:
    if is_main():
        print(f"{name:16s} {fact}", flush=True)


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
        cache = str(cache_folder(config, "train").parent)
        data = replace(data, cache=cache) if has_cache(config) else replace(data, tokens="online")
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
