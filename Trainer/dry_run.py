"""What a run would take: sizes on the meta device, then one real batch and one real step.

Nothing is written, whatever is read comes from the data of the run. Weights of others that it asks
for by name are fetched, as a real step needs them.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from MaskGIL.cache_index import is_converted
from MaskGIL.cached_rows import CachedRows
from MaskGIL.data.bucket_shapes import read_shapes
from MaskGIL.device import choose_device
from MaskGIL.distributed import is_main, world_size
from MaskGIL.masking import masked_loss
from MaskGIL.plans import OBJECTIVES
from MaskGIL.weights import open_tokenizer
from Network import build_network, build_tokenizer
from Trainer.adversary import build_discriminator
from Trainer.agreement import check_bucket
from Trainer.autoencoding import Reconstructed, Reconstruction, pixel_loss
from Trainer.caption_source import has_captions
from Trainer.config import RunConfig
from Trainer.footprint import Way, fewest_fitting, footprint
from Trainer.generator_data import has_cache
from Trainer.logger import format_bytes, format_seconds
from Trainer.memory import divisors, free_memory
from Trainer.objective import RowLogits, example_inputs, flops_by_grid
from Trainer.parallel import is_sharded
from Trainer.study import describe
from Trainer.throughput import training_flops
from Trainer.tokens import SPLITS, cache_folder, describe_cache, open_split, shaped
from Trainer.trainer import Trainer
from Trainer.vit import GeneratorTrainer
from Trainer.vqgan import TokenizerTrainer
from Trainer.window import Window

LONG = 5.0  # seconds of a step, beside which warming up is little


def dry_run(config: RunConfig) -> None:
    """Print what the job of `config` would take. Raises UserError as the job itself would."""
    if config.job == "study":
        for line in describe(config):
            if is_main():
                print(line, flush=True)
    elif config.job == "cache":
        _foretell_cache(config)
    else:
        _foretell_training(config)


def _foretell_cache(config: RunConfig) -> None:
    """Print the size of both splits, and whether they are there already."""
    tokenizer = open_tokenizer(config.tokenizer)
    _say("tokenizer", f"{tokenizer.name}, {tokenizer.codebook_size:,} codes")
    for shape in read_shapes(config.data.buckets):
        check_bucket(shape, tokenizer.stride)
    for split in SPLITS:
        for images in shaped(config, open_split(config, split), split):
            _say(f"cache of {split}", describe_cache(config, images, tokenizer, split))
    _say("state", "complete: nothing to do" if has_cache(config) else "to be written")


def _foretell_training(config: RunConfig) -> None:
    """Print sizes, memory, FLOPs and time of a run; read one batch and make one step if it fits."""
    device, kind = choose_device(config.device), _kind(config)
    model = Tokenizer(config) if config.job == "tokenizer" else Generator(config)
    with torch.device("meta"):
        outline: Any = model.build()
    parameters = sum(p.numel() for p in outline.parameters())
    share, available = config.optim.batch // world_size(), free_memory(device)
    dtype, shards = kind.precision(config, device), _shards(config, outline, device)

    def needed(parts: int) -> int:
        way = Way(device, dtype, parts, world_size(), shards, config.loop.checkpoint_blocks)
        return footprint(model.build, partial(model.loss_of, share // parts), way).total

    choices = [config.loop.accumulation] if config.loop.accumulation else divisors(share)
    parts = fewest_fitting(choices, needed, available)
    memory = needed(parts)
    config = replace(config, loop=replace(config.loop, accumulation=parts))
    fits = memory <= available
    precision = str(dtype).removeprefix("torch.")
    _say("parameters", f"{parameters:,}")
    at_once = f"{share // parts} images at once{', sharded' if shards else ''}"
    _say("memory", f"{format_bytes(memory)} predicted at {at_once}, {format_bytes(available)} free "
         f"on {device}")  # fmt: skip
    _say("precision", precision)
    _say("steps", f"{config.loop.steps:,} of {config.optim.batch} images")
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(config, Path(folder))
        flops, shares = model.flops(outline, share // parts), _shares(trainer)
        usual = float(np.dot(flops, shares))
        _say("FLOPs per image", f"{usual / 1e9:.2f} G in training (forward and backward)"
             f"{_by_shape(config, shares)}")  # fmt: skip
        if fits:  # else building the module would already be too much
            trainer.prepare()
        started = time.monotonic()
        batch = trainer.dataset()[0]
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in batch.items())
        _say("one batch", f"{shapes} in {time.monotonic() - started:.2f} s")
        if not fits:
            more_parts = "not made: it does not fit; raise loop.accumulation"
            one_image = "not made: it does not fit; choose a smaller network"
            _say("one step", more_parts if parts < share else one_image)
            return
        dear = flops[_shape_of(trainer)] / usual  # beside a usual step
        seconds = _time_step(trainer, batch)
        total = format_seconds(seconds / dear * config.loop.steps)
        online = trainer.config.data.tokens != config.data.tokens
        how = " with its images encoded, as there is no cache yet" if online else ""
        how += f", of {dear:.2f} times the usual FLOPs" if len(flops) > 1 else ""
        _say("one step", f"{seconds:.2f} s{how}, so the run takes about {total}")


class Generator:
    """A step of a generator, on whatever device the caller makes tensors."""

    def __init__(self, config: RunConfig):
        self.config = config

    def build(self) -> RowLogits:
        """What DDP would wrap."""
        return RowLogits(build_network(self.config.network))

    def inputs(self, count: int) -> tuple:
        """Those of the objective for `count` images, in the dearest of its modes."""
        return example_inputs(self.config, OBJECTIVES[self.config.objective][-1], count)

    def flops(self, module: RowLogits, count: int) -> list[float]:
        """Operations of a step for one of `count` images, for each shape of them.

        The module is on the meta device.
        """
        return flops_by_grid(self.config, module, count)

    def loss_of(self, count: int, module: nn.Module) -> Tensor:
        """Cross-entropy of the counted rows of `count` images."""
        inputs = self.inputs(count)
        logits = module(*inputs)  # (M, V)
        targets = inputs[0].flatten()[: len(logits)]
        weights = torch.ones_like(targets, dtype=torch.float32)
        smoothing = self.config.masking.label_smoothing
        return masked_loss(logits, targets, weights, 1.0, smoothing)[0]


class Tokenizer:
    """A step of a tokenizer, on whatever device the caller makes tensors."""

    def __init__(self, config: RunConfig):
        self.config = config

    def build(self) -> Reconstruction:
        """What DDP would wrap."""
        return Reconstruction(
            build_tokenizer(self.config.tokenizer),
            build_discriminator(self.config.adversary, self.config.data.image_size),
        )

    def inputs(self, count: int) -> tuple:
        """`count` images, and whether there is a discriminator to judge them."""
        size = self.config.data.image_size
        return torch.zeros(count, 3, size, size), bool(self.config.adversary.weight)

    def flops(self, module: Reconstruction, count: int) -> list[float]:
        """Operations of a step for one of `count` images, which all have one shape.

        The module is on the meta device.
        """
        with torch.device("meta"):
            return [training_flops(module, self.inputs(count)) / count]

    def loss_of(self, count: int, module: nn.Module) -> Tensor:
        """Pixel error, quantiser losses and logits of `count` images; LPIPS is not counted."""
        inputs = self.inputs(count)
        outputs: Reconstructed = module(*inputs)
        pixels = pixel_loss(outputs.images - inputs[0], self.config.reconstruction)
        judged = [logits.mean() for logits in outputs.verdicts or ()]
        return pixels + sum(outputs.losses.values()) + sum(judged)


def _shards(config: RunConfig, outline: nn.Module, device: torch.device) -> bool:
    return is_sharded(config.loop.parallel, None if config.job == "tokenizer" else outline, device)


def _say(name: str, fact: str) -> None:
    if is_main():
        print(f"{name:16s} {fact}", flush=True)


def _trainer(config: RunConfig, folder: Path) -> Trainer:
    """The trainer of the run, with a folder of its own, without a cache unless there is one."""
    data = config.data
    if config.job != "tokenizer":
        cache = str(cache_folder(config, "train").parent)
        found = has_cache(config) or is_converted(Path(cache) / "train")
        data = replace(data, cache=cache) if found else replace(data, tokens="online")
    config = replace(config, out_dir=str(folder), data=data)
    trainer = _kind(config)(config)
    if isinstance(trainer, GeneratorTrainer) and isinstance(trainer.images, CachedRows):
        trainer.source.shaped["val"] = [trainer.images]  # the cache of the others would be written
    if isinstance(trainer, GeneratorTrainer) and not has_captions(trainer.config):
        trainer.source.leave_captions_unread()
    return trainer


def _kind(config: RunConfig) -> type[Trainer]:
    return TokenizerTrainer if config.job == "tokenizer" else GeneratorTrainer


def _shares(trainer: Trainer) -> list[float]:
    """Of the steps of a run, by the shape of their images: as many as there are pictures for."""
    return trainer.source.order.shares.tolist() if isinstance(trainer, GeneratorTrainer) else [1.0]


def _shape_of(trainer: Trainer) -> int:
    """Which of those shapes the first step has."""
    return trainer.source.order(0)[0] if isinstance(trainer, GeneratorTrainer) else 0


def _by_shape(config: RunConfig, shares: Sequence[float]) -> str:
    told = [f"{share:.0%} {shape}" for share, shape in zip(shares, config.data.buckets)]
    return f", by the pictures there are: {', '.join(told)}" if told else ""


def _time_step(trainer: Trainer, batch: dict[str, Tensor]) -> float:
    """Seconds of a step behind the first one, which warms up; of that if it is long on a CPU."""
    objective, window, seconds = trainer.trained, Window(), 0.0
    for _ in range(2):
        started = time.monotonic()
        trainer.train_step(objective, batch, window)
        window.means()  # waits for the device: the step may still be running there
        seconds = time.monotonic() - started
        if trainer.device.type == "cpu" and seconds > LONG:
            break
    return seconds
