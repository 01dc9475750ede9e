"""Trains a MaskGIL generator: hidden tokens from all others (MAR), or the next from those before.

Stands on cached tokens, or encodes images in every step. Shapes: B images, h x w = N tokens, V
codebook, M counted rows.
"""

import math
from functools import cached_property
from itertools import count
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from MaskGIL.cached_rows import CachedRows
from MaskGIL.data import Images, Split
from MaskGIL.data.crops import show_size, to_uint8
from MaskGIL.data.sampler import spread
from MaskGIL.device import autocast
from MaskGIL.imagenet import describe_count
from MaskGIL.initial import begin_network, describe_beginning
from MaskGIL.masking import masked_loss, max_hidden
from MaskGIL.noise import uniform
from MaskGIL.pictures import save_grid
from MaskGIL.pipeline import Pipeline, image_seeds
from MaskGIL.plans import OBJECTIVES
from MaskGIL.weights import open_tokenizer, save_weights
from Metrics.labels import choose_labels
from Metrics.sample_and_eval import sample_chunks
from Network import build_network
from Network.condition import Captions
from Network.gpt import GPT
from Network.whitening import Whitening
from Trainer.agreement import check_network
from Trainer.batches import Batch
from Trainer.caption_source import describe_captions
from Trainer.checkpoint import Snapshot
from Trainer.content import Content
from Trainer.generator_data import GeneratorData
from Trainer.logger import format_bytes
from Trainer.objective import (
    RowLogits,
    flops_by_grid,
    grids_of,
    masked_question,
    mode_of,
    network_of,
    next_question,
)
from Trainer.optim import EMA
from Trainer.throughput import attention_kernel
from Trainer.tokens import describe_validation
from Trainer.trainer import Trainer
from Trainer.validation import BITS, VALIDATIONS, Group, block_sizes, pieces
from Trainer.window import Metrics

# Eight classes of ImageNet that DiT and LlamaGen show, so that pictures compare
FAVOURITES = (207, 360, 387, 974, 88, 979, 417, 279)
AIMS = {
    "ar": "ar: every token from those before it",
    "both": "both: by chance hidden tokens from all others, or every token from those before it",
}


class GeneratorTrainer(Trainer):
    """A run that trains a generator on tokens."""

    module: GPT

    def open(self) -> None:
        """Open the tokenizer, and check that it, the images and the network fit."""
        self.tokenizer = open_tokenizer(self.config.tokenizer).to(self.device)
        check_network(self.config, self.tokenizer, len(self.images.classes))
        splits: dict[Split, Images] = {"train": self.images, "val": self.validation_images}
        self.source = GeneratorData(self.config, splits, self.tokenizer)
        if isinstance(self.images, CachedRows):  # validation images may be of another origin
            self.images.check_classes(self.validation_images.classes)

    def build(self) -> nn.Module:
        """Build the network. Raises UserError for weights to begin with that do not fit."""
        network, source = network_of(self.config), self.begun_with
        if not source:
            return build_network(network)
        begun, fresh = begin_network(network, source, self.config.init_skip)
        self.begun_with = describe_beginning(source, fresh)
        return begun

    def outline(self) -> GPT:
        """The network without memory."""
        with torch.device("meta"):
            return build_network(network_of(self.config))

    def prepare(self) -> None:
        """Also measure the features of captions, unless the weights to begin with know theirs."""
        super().prepare()
        for part in self.module.modules():
            if isinstance(part, Whitening) and not (self.newest or part.is_measured):
                part.measure(self.source.caption_features())
                self.ema = EMA(self.module, self.config.optim.ema)  # of the statistics too

    def dataset(self) -> Dataset[Batch]:
        """Tokens or images of the training split, captions, and how many tokens to hide."""
        return self.source.batches(self.share)

    def objective(self) -> nn.Module:
        """Tokens, labels, rows, targets and order -> logits of the rows."""
        return RowLogits(self.module)

    def loss(self, objective: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """Cross-entropy of tokens (B, h, w), over the counted tokens of all ranks."""
        masking, config = self.config.masking, self.config
        tokens = batch["tokens"] if "tokens" in batch else self.source.encode(batch["images"])
        num_tokens, condition = tokens[0].numel(), self.condition(batch)
        if (mode := self.mode()) == "ar":
            asked, total = next_question(tokens), num_tokens * config.optim.batch
        else:
            asked = masked_question(
                tokens,
                batch["hidden"],
                batch["samples"],
                seed=config.seed,
                mask_id=self.module.mask_id,
                bound=max_hidden(masking.schedule, config.optim.batch, self.part, num_tokens),
                visible_weight=masking.visible_weight,
            )
            total = batch["hidden_total"][0].float()
            visible = num_tokens * config.optim.batch - total
            total = total + masking.visible_weight * visible
        logits = objective(asked.tokens, condition, asked.rows, tokens, asked.causal)  # (M, V)
        targets = tokens.flatten() if asked.rows is None else tokens.flatten()[asked.rows]
        sizes, smoothing = self.module.config.part_sizes, masking.label_smoothing
        loss, right = masked_loss(logits, targets, asked.weights, total, smoothing, sizes)
        if config.objective == "both":
            return loss, {f"{mode}_loss": loss.detach(), f"{mode}_acc": right}
        return loss, {"acc": right}

    def condition(self, batch: Batch) -> Tensor | Captions:
        """What the images of a batch are conditioned on: a share of them, drawn, on nothing."""
        if self.source.captions:
            return Captions(batch["features"], batch["padding"], batch["dropped"])
        labels, samples = batch["labels"], batch["samples"]
        seed = torch.full((), self.config.seed, device=labels.device)
        drop = uniform(seed, "class drop", samples, 0) < self.config.masking.class_drop
        return self._known(torch.where(drop, self.module.null_label, labels))

    def mode(self) -> str:
        """What this step asks for: "mar" or "ar", the same on all ranks and in all parts."""
        return mode_of(self.config.objective, self.config.seed, self.step)

    def dearest_step(self) -> int:
        """One in raster order, where that is learned, of the largest grid: it has most rows."""
        config, last = self.config, super().dearest_step()
        grids = grids_of(config)
        dearest = OBJECTIVES[config.objective][-1], grids.index(max(grids, key=math.prod))
        order = self.source.order
        for step in count(last):
            if (mode_of(config.objective, config.seed, step), order(step)[0]) == dearest:
                return step
        raise AssertionError  # each kind comes again and again

    def validate(self) -> dict[str, float]:
        """Loss without smoothing, and accuracy, on validation tokens in every mode it learns."""
        values: dict[str, float] = {}
        for mode in OBJECTIVES[self.config.objective]:
            values |= VALIDATIONS[mode](
                RowLogits(self.module),
                self._validation,
                schedule=self.config.masking.schedule,
                chunk=self.chunk,
            )
        return values

    def bits(self) -> dict[str, float]:
        """Bits of a validation image in every mode it learns, with the averaged weights."""
        with self.averaged(), autocast(self.device, self.dtype):
            network = RowLogits(self.module)
            return {
                mode: BITS[mode](network, self._validation, self.chunk)
                for mode in OBJECTIVES[self.config.objective]
            }

    def block_sizes(self) -> list[float]:
        """Root mean squares behind each block, none where the network has no such blocks."""
        with self.averaged(), autocast(self.device, self.dtype):
            if not isinstance(self.module, GPT):
                return []
            mode = OBJECTIVES[self.config.objective][0]
            return block_sizes(RowLogits(self.module), self._validation[0], mode, self.chunk)

    def picture(self, path: Path) -> None:
        """A grid of samples: fixed classes or captions, fixed seeds."""
        shown, pipe = self.shown, self._pipeline()
        seeds = image_seeds(0, torch.arange(len(shown), device=self.device))
        drawn = [  # no more at once than a step takes, for which there is memory
            to_uint8(pipe.pixels(pipe.sample_tokens(shown[piece], seeds[piece])))
            for piece in pieces(len(shown), self.part)
        ]
        save_grid(torch.cat(drawn), path, columns=8)

    def score(self) -> dict[str, float]:
        """Distance of samples to validation images, of their captions or class proportions."""
        pipe, scorer = self._pipeline(), self.scorer
        if self.source.captions:
            captions = self.source.said("val", scorer.rows)
            images = sample_chunks(pipe, captions, 0, self.chunk)
            return scorer.score(pictures for _, pictures in images)
        proportions = "data" if self.config.network.num_classes else "balanced"
        labels = choose_labels(pipe, [proportions], len(scorer), 0, scorer)
        return scorer.score(images for _, images in sample_chunks(pipe, labels, 0, self.chunk))

    def export(self, folder: Path, snapshot: Snapshot) -> None:
        """Write last and averaged weights, the tokenizer, class names and sampler settings."""
        save_weights(
            folder,
            self.tokenizer,
            network=self.module,
            last=snapshot["model.safetensors"],
            average=snapshot["ema.safetensors"],
            classes=self.images.classes,
            sampling=self.config.sampling,
            objective=self.config.objective,
            text=self.source.text_origin(),
        )

    def content(self) -> Content:
        """Tokenizer and images, whatever folder they lie in."""
        return {**self.source.content(), **super().content()}

    def flops_per_image(self) -> float:
        """Operations of a step, with those of the head for the counted rows only."""
        return self._flops

    @cached_property
    def _flops(self) -> float:
        each = flops_by_grid(self.config, RowLogits(self.outline()), self.part)
        return float(self.source.order.shares @ each)

    def facts(self) -> dict[str, str]:
        """Network and data in a few words."""
        network, batch = self.module.config, self.config.optim.batch
        parameters = sum(p.numel() for p in self.module.parameters())
        size = f"{network.depth} blocks, width {network.width}, {network.heads} heads"
        source, grids = "encoded in every step", grids_of(self.config)
        if caches := self.source.caches.get("train"):
            source = f"cached as {format_bytes(sum(cache.num_bytes for cache in caches))}"
        counts = [batch * height * width for height, width in grids]
        of_step = " or ".join(f"{count:,}" for count in sorted(set(counts)))
        classes = len(self.images.classes)
        of_classes = f" of {classes} classes" if classes else ""
        facts = {
            "network": f"{parameters / 1e6:.1f}M parameters: {size}",
            "tokens": f"{', '.join(map(show_size, grids))} of {network.codebook_size} codes, "
            f"{of_step} per step",
            "data": f"{describe_count(self.images, 'train')}{of_classes}, {source}; "
            f"{describe_validation(self.validation_images, self.images)} validate",
            "attention": attention_kernel(network, self.device, self.dtype),
        }
        if captions := self.source.captions:
            facts["captions"] = describe_captions(captions.facts, self.source.features["train"])
        if self.config.objective != "mar":
            facts["objective"] = AIMS[self.config.objective]
        weight = self.config.masking.visible_weight
        if weight and self.config.objective != "ar":
            facts["loss"] = f"of all tokens, visible ones count {weight:g}: every row is computed"
        return facts

    @cached_property
    def shown(self) -> Tensor | Captions:
        """The conditions of the sample grid, on the device: classes, or validation captions."""
        if self.source.captions:
            rows = spread(len(self.validation_images), 64)
            return self.source.said("val", rows)[:].to(self.device)
        return torch.tensor(shown_classes(self.config.network.num_classes), device=self.device)

    @property
    def _validation(self) -> list[Group]:
        return [
            (tokens, self._known(given) if isinstance(given, Tensor) else given)
            for tokens, given in self.source.validation
        ]

    def _pipeline(self) -> Pipeline:
        return Pipeline(
            self.module,
            self.tokenizer,
            self.images.classes,
            self.config.sampling,
            dtype=self.dtype,
            objective=self.config.objective,
        )

    def _known(self, labels: Tensor) -> Tensor:
        """As they are for a conditional network; an unconditional one knows the null label only."""
        return labels.clamp(max=self.module.null_label)


def shown_classes(num_classes: int) -> list[int]:
    """Classes of the sample grid: up to 64 images, rows of eight."""
    if num_classes > max(FAVOURITES):
        return [label for label in FAVOURITES for _ in range(8)]
    each = max(1, 64 // max(1, num_classes))
    return [label for label in range(max(1, num_classes)) for _ in range(each)][:64]
