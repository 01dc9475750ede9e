"""What a run would take: sizes on the meta device, then one real batch and one real step.

Nothing is written, whatever is read comes from the data of the run. Weights of others that it asks
for by name are fetched, as a real step needs them.
"""

import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from MaskGIL.cache_index import is_converted
from MaskGIL.cached_rows import CachedRows
from MaskGIL.data.buckets import read_shapes
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
from Trainer.objective import RowLogits, example_inputs, flops_per_image
from Trainer.parallel import is_sharded
from Trainer.study import cells_of
from Trainer.throughput import training_flops
from Trainer.tokens import SPLITS, cache_folder, describe_cache, open_split, shaped
from Trainer.trainer import Trainer
from Trainer.vit import GeneratorTrainer
from Trainer.vqgan import TokenizerTrainer
from Trainer.window import Window


def dry_run(config: RunConfig) -> None:
    """Print what the job of `config` would take. Raises UserError as the job itself would."""
    if config.job == "study":
        cells = list(cells_of(config))
        _say("study", f"{len(cells)} runs, of which the first is {cells[0].name}:")
        config = cells[0].config
    if config.job == "cache":
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
    flops = model.flops(outline, share // parts)
    _say("FLOPs per image", f"{flops / 1e9:.2f} G in training (forward and backward)")
    at_once = f"{share // parts} images at once{', sharded' if shards else ''}"
    _say("memory", f"{format_bytes(memory)} predicted at {at_once}, {format_bytes(available)} free "
         f"on {device}")  # fmt: skip
    _say("precision", precision)
    _say("steps", f"{config.loop.steps:,} of {config.optim.batch} images")
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(config, Path(folder))
        if fits:  # else building the module would already be too much
            trainer.prepare()
        started = time.monotonic()
        batch = trainer.dataset()[0]
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in batch.items())
        _say("one batch", f"{shapes} in {time.monotonic() - started:.2f} s")
        if not fits:
            _say("one step", "not made: it does not fit; raise loop.accumulation")
            return
        seconds = _time_step(trainer, batch)
        total = format_seconds(seconds * config.loop.steps)
        online = trainer.config.data.tokens != config.data.tokens
        how = " with its images encoded, as there is no cache yet" if online else ""
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

    def flops(self, module: RowLogits, count: int) -> float:
        """Operations of a step for one of `count` images; the module is on the meta device."""
        return flops_per_image(self.config, module, count)

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

    def flops(self, module: Reconstruction, count: int) -> float:
        """Operations of a step for one of `count` images; the module is on the meta device."""
        with torch.device("meta"):
            return training_flops(module, self.inputs(count)) / count

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


def _time_step(trainer: Trainer, batch: dict[str, Tensor]) -> float:
    """Seconds of a step behind the first one, which warms up."""
    objective, window = trainer.trained, Window()
    trainer.train_step(objective, batch, window)
    window.means()  # waits for the device: the first step may still be running there
    started = time.monotonic()
    trainer.train_step(objective, batch, window)
    window.means()
    return time.monotonic() - started
