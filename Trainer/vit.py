"""Trains a MaskGIL generator: hidden tokens from all others (MAR), or the next from those before.

Stands on cached tokens, or encodes images in every step. Shapes: B images, h x w = N tokens, V
codebook, M counted rows.
"""

from functools import cached_property
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from MaskGIL.cache import TokenCache, encode_crops
from MaskGIL.cached_rows import CachedRows
from MaskGIL.data import Images, Split
from MaskGIL.data.crops import num_crops, to_uint8
from MaskGIL.data.sampler import Sampler, spread
from MaskGIL.imagenet import describe_count
from MaskGIL.initial import begin_network, describe_beginning
from MaskGIL.masking import masked_loss, max_hidden
from MaskGIL.noise import uniform
from MaskGIL.pictures import save_grid
from MaskGIL.pipeline import Pipeline, image_seeds
from MaskGIL.plans import OBJECTIVES, make_plan
from MaskGIL.weights import open_tokenizer, save_weights
from Metrics.labels import choose_labels
from Metrics.sample_and_eval import sample_chunks
from Network import build_network, network_class
from Network.config import UserError
from Network.gpt import GPT
from Network.tokenizer.vq import VQTokenizer
from Trainer.batches import (
    Batch,
    ImageBatches,
    MaskedBatches,
    TokenBatches,
    bad_files,
    center_crops,
)
from Trainer.checkpoint import Snapshot
from Trainer.config import RunConfig
from Trainer.content import Content
from Trainer.logger import format_bytes
from Trainer.objective import RowLogits, flops_per_image, masked_question, mode_of, next_question
from Trainer.throughput import attention_kernel
from Trainer.tokens import VALIDATION_IMAGES, cached_tokens, describe_validation
from Trainer.trainer import Trainer
from Trainer.validation import VALIDATIONS
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
        if isinstance(self.images, CachedRows):  # validation images may be of another origin
            self.images.check_classes(self.validation_images.classes)
        height, width = self.config.network.grid
        self.num_tokens = height * width

    def build(self) -> nn.Module:
        """Build the network. Raises UserError for weights to begin with that do not fit."""
        network, source = self.config.network, self.begun_with
        if not source:
            return build_network(network)
        begun, fresh = begin_network(network, source, self.config.init_skip)
        self.begun_with = describe_beginning(source, fresh)
        return begun

    def outline(self) -> GPT:
        """The network without memory."""
        with torch.device("meta"):
            return build_network(self.config.network)

    def dataset(self) -> Dataset[Batch]:
        """Tokens or images of the training split, and how many tokens to hide."""
        config, data = self.config, self.config.data
        cache = self.caches.get("train")
        labels = cache.labels if cache else self.images.labels
        batch, crops = config.optim.batch, cache.num_crops if cache else num_crops(data.crops)
        sampler = Sampler(labels, batch, config.seed, data.balance, crops)
        if cache:
            source = TokenBatches(cache, sampler, self.share)
        else:
            bad, size = bad_files(config, self.images), data.image_size
            source = ImageBatches(self.images, sampler, self.share, data.crops, size, bad)
        schedule = config.masking.schedule
        return MaskedBatches(source, schedule, batch, self.num_tokens, config.seed, self.share)

    def objective(self) -> nn.Module:
        """Tokens, labels, rows, targets and order -> logits of the rows."""
        return RowLogits(self.module)

    def loss(self, objective: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """Cross-entropy of tokens (B, h, w), over the counted tokens of all ranks."""
        masking, config = self.config.masking, self.config
        tokens = batch["tokens"] if "tokens" in batch else self._encode(batch["images"])
        labels = self._dropped(batch["labels"], batch["samples"])
        if (mode := self.mode()) == "ar":
            asked, total = next_question(tokens), self.num_tokens * config.optim.batch
        else:
            asked = masked_question(
                tokens,
                batch["hidden"],
                batch["samples"],
                seed=config.seed,
                mask_id=self.module.mask_id,
                bound=self._bound(),
                visible_weight=masking.visible_weight,
            )
            total = batch["hidden_total"][0].float()
            visible = self.num_tokens * config.optim.batch - total
            total = total + masking.visible_weight * visible
        logits = objective(asked.tokens, labels, asked.rows, tokens, asked.causal)  # (M, V)
        targets = tokens.flatten() if asked.rows is None else tokens.flatten()[asked.rows]
        sizes, smoothing = self.module.config.part_sizes, masking.label_smoothing
        loss, right = masked_loss(logits, targets, asked.weights, total, smoothing, sizes)
        if config.objective == "both":
            return loss, {f"{mode}_loss": loss.detach(), f"{mode}_acc": right}
        return loss, {"acc": right}

    def mode(self) -> str:
        """What this step asks for: "mar" or "ar", the same on all ranks and in all parts."""
        return mode_of(self.config.objective, self.config.seed, self.step)

    def dearest_step(self) -> int:
        """One in raster order, where that is learned: it computes every row."""
        config, last = self.config, super().dearest_step()
        dearest = OBJECTIVES[config.objective][-1]
        modes = ((s, mode_of(config.objective, config.seed, s)) for s in count(last))
        return next(step for step, mode in modes if mode == dearest)

    def validate(self) -> dict[str, float]:
        """Loss without smoothing, and accuracy, on validation tokens in every mode it learns."""
        tokens, labels = self.validation
        values: dict[str, float] = {}
        for mode in OBJECTIVES[self.config.objective]:
            values |= VALIDATIONS[mode](
                RowLogits(self.module),
                tokens,
                self._known(labels),
                schedule=self.config.masking.schedule,
                chunk=self.chunk,
            )
        return values

    def picture(self, path: Path) -> None:
        """A grid of samples: fixed classes, fixed seeds."""
        labels = torch.tensor(shown_classes(self.config.network.num_classes), device=self.device)
        pipe, seeds = (
            self._pipeline(),
            image_seeds(0, torch.arange(len(labels), device=self.device)),
        )
        drawn = [  # no more at once than a step takes, for which there is memory
            to_uint8(pipe.pixels(pipe.sample_tokens(*piece)))
            for piece in zip(labels.split(self.part), seeds.split(self.part))
        ]
        save_grid(torch.cat(drawn), path, columns=8)

    def score(self) -> dict[str, float]:
        """Distance of samples to validation images, in their class proportions."""
        pipe, scorer = self._pipeline(), self.scorer
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
        )

    def content(self) -> Content:
        """Tokenizer and images, whatever folder they lie in."""
        return {"tokenizer": self.tokenizer.fingerprint, **super().content()}

    def flops_per_image(self) -> float:
        """Operations of a step, with those of the head for the counted rows only."""
        return self._flops

    @cached_property
    def _flops(self) -> float:
        return flops_per_image(self.config, RowLogits(self.outline()), self.part)

    def facts(self) -> dict[str, str]:
        """Network and data in a few words."""
        network, batch = self.module.config, self.config.optim.batch
        parameters = sum(p.numel() for p in self.module.parameters())
        height, width = network.grid
        size = f"{network.depth} blocks, width {network.width}, {network.heads} heads"
        source = "encoded in every step"
        if cache := self.caches.get("train"):
            source = f"cached as {format_bytes(cache.num_bytes)}"
        classes = self.images.classes
        facts = {
            "network": f"{parameters / 1e6:.1f}M parameters: {size}",
            "tokens": f"{height}x{width} of {network.codebook_size} codes, "
            f"{batch * height * width:,} per step",
            "data": f"{describe_count(self.images, 'train')} of {len(classes)} classes, {source}; "
            f"{describe_validation(self.validation_images, self.images)} validate",
            "attention": attention_kernel(network, self.device, self.dtype),
        }
        if self.config.objective != "mar":
            facts["objective"] = AIMS[self.config.objective]
        weight = self.config.masking.visible_weight
        if weight and self.config.objective != "ar":
            facts["loss"] = f"of all tokens, visible ones count {weight:g}: every row is computed"
        return facts

    @cached_property
    def caches(self) -> dict[Split, TokenCache]:
        """The cache of each split, written first if it is missing; none where tokens are online."""
        if self.config.data.tokens != "cache":
            return {}
        splits: dict[Split, Images] = {"train": self.images, "val": self.validation_images}
        return {
            split: cached_tokens(self.config, images, self.tokenizer, split)
            for split, images in splits.items()
        }

    @cached_property
    def validation(self) -> tuple[Tensor, Tensor]:
        """Tokens (n, h, w) and labels (n,) of up to VALIDATION_IMAGES images, evenly spread."""
        if cache := self.caches.get("val"):
            rows = np.flatnonzero(cache.labels >= 0)
            rows = rows[spread(len(rows), VALIDATION_IMAGES)]
            return cache.tokens(rows, np.zeros_like(rows)), torch.from_numpy(cache.labels[rows])
        images = self.validation_images
        rows = spread(len(images), VALIDATION_IMAGES)
        crops, labels = center_crops(self.config, images, rows)
        tokens = torch.cat([self._encode(part.to(self.device)) for part in crops.split(64)])
        return tokens.cpu(), labels

    def _pipeline(self) -> Pipeline:
        return Pipeline(
            self.module,
            self.tokenizer,
            self.images.classes,
            self.config.sampling,
            dtype=self.dtype,
            objective=self.config.objective,
        )

    def _encode(self, images: Tensor) -> Tensor:
        return encode_crops(self.tokenizer, images, self.config.data.cache_precision)

    def _bound(self) -> int:
        """The most tokens that a part of any step hides."""
        batch = self.config.optim.batch
        return max_hidden(self.config.masking.schedule, batch, self.part, self.num_tokens)

    def _known(self, labels: Tensor) -> Tensor:
        """Labels of a conditional network; an unconditional one knows the null label only."""
        return labels.clamp(max=self.module.null_label)

    def _dropped(self, labels: Tensor, samples: Tensor) -> Tensor:
        seed = torch.full((), self.config.seed, device=labels.device)
        drop = uniform(seed, "class drop", samples, 0) < self.config.masking.class_drop
        return torch.where(drop, self.module.null_label, self._known(labels))


def check_network(config: RunConfig, tokenizer: VQTokenizer, num_classes: int) -> None:
    """Raise UserError, naming the value that fits, unless network, tokenizer and data agree."""
    network, sampling = config.network, config.sampling
    side, rest = divmod(config.data.image_size, tokenizer.stride)
    if rest:
        raise UserError(
            f"data.image_size={config.data.image_size} is not divisible by the tokenizer's "
            f"stride {tokenizer.stride}."
        )
    if network.codebook_size != tokenizer.codebook_size:
        raise UserError(
            f"The tokenizer has {tokenizer.codebook_size} codes, network.codebook_size is "
            f"{network.codebook_size}. Use network.codebook_size={tokenizer.codebook_size}."
        )
    if network.grid != (side, side):
        raise UserError(
            f"Images of {config.data.image_size} pixels give {side}x{side} tokens, network.grid is "
            f"{network.grid[0]}x{network.grid[1]}. Use network.grid={side},{side}."
        )
    if network.num_classes not in (0, num_classes):
        raise UserError(
            f"Data has {num_classes} classes, network.num_classes is {network.num_classes}. "
            f"Use network.num_classes={num_classes} or other data."
        )
    if network.caption_width:
        raise UserError(
            "network.caption_width asks for captions, and data have classes alone so far; leave it "
            "out."
        )
    known = network_class(network).objectives
    if config.objective not in known:
        raise UserError(
            f"A network of network.kind={network.kind} learns objective={' or '.join(known)}, not "
            f"{config.objective}."
        )
    make_plan(side * side, sampling, config.objective)  # or it raises


def shown_classes(num_classes: int) -> list[int]:
    """Classes of the sample grid: up to 64 images, rows of eight."""
    if num_classes > max(FAVOURITES):
        return [label for label in FAVOURITES for _ in range(8)]
    each = max(1, 64 // max(1, num_classes))
    return [label for label in range(max(1, num_classes)) for _ in range(each)][:64]
