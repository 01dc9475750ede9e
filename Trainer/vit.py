"""Trains a MaskGIL generator: masked tokens in, the hidden ones out.

Stands on cached tokens, or encodes images in every step. Shapes: B images, h x w = N tokens, V
codebook, M counted rows.
"""

from functools import cached_property
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
from MaskGIL.decoding import mar_plan
from MaskGIL.distributed import is_main
from MaskGIL.imagenet import describe_count
from MaskGIL.masking import (
    counted_rows,
    draw_mask,
    hidden_counts,
    mask_tokens,
    masked_loss,
    max_hidden,
)
from MaskGIL.noise import uniform
from MaskGIL.pictures import save_grid
from MaskGIL.pipeline import Pipeline, image_seeds
from MaskGIL.weights import load_network, open_tokenizer, save_weights
from Metrics.sample_and_eval import choose_labels, sample_chunks
from Network import build_network
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
from Trainer.config import RunConfig
from Trainer.content import Content
from Trainer.logger import format_bytes
from Trainer.parallel import whole_on_cpu
from Trainer.throughput import attention_kernel, training_flops
from Trainer.tokens import VALIDATION_IMAGES, cached_tokens, describe_validation
from Trainer.trainer import Trainer
from Trainer.window import Metrics

# Eight classes of ImageNet that DiT and LlamaGen show, so that pictures compare
FAVOURITES = (207, 360, 387, 974, 88, 979, 417, 279)


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
        return load_network(source, network) if source else build_network(network)

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
        """Tokens, labels and rows -> logits of the rows."""
        return RowLogits(self.module)

    def loss(self, objective: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """Masked cross-entropy of tokens (B, h, w), over the counted tokens of all ranks."""
        masking, seed = self.config.masking, self.config.seed
        tokens = batch["tokens"] if "tokens" in batch else self._encode(batch["images"])
        mask = draw_mask(batch["hidden"], seed, batch["samples"], self.num_tokens)  # (B, N)
        masked = mask_tokens(tokens, mask.view_as(tokens), self.module.mask_id)
        labels = self._dropped(batch["labels"], batch["samples"])
        total = batch["hidden_total"][0].float()
        if masking.visible_weight:
            rows, weights = None, torch.where(mask, 1.0, masking.visible_weight).flatten()
            visible = self.num_tokens * self.config.optim.batch - total
            total = total + masking.visible_weight * visible
        else:
            rows, weights = counted_rows(mask, self._bound())
        logits = objective(masked, labels, rows)  # (M, V)
        targets = tokens.flatten() if rows is None else tokens.flatten()[rows]
        loss, accuracy = masked_loss(logits, targets, weights, total, masking.label_smoothing)
        return loss, {"acc": accuracy}

    def validate(self) -> dict[str, float]:
        """Loss without smoothing, and accuracy, on validation tokens under fixed masks."""
        all_tokens, all_labels = self.validation
        sums = torch.zeros(3, device=self.device)
        schedule, count = self.config.masking.schedule, len(all_tokens)
        counts = torch.from_numpy(hidden_counts(schedule, count, self.num_tokens, 0, 0))
        network, batch = RowLogits(self.module), self.chunk
        for start in range(0, count, batch):
            tokens = all_tokens[start : start + batch].to(self.device)
            labels = all_labels[start : start + batch].to(self.device)
            samples = torch.arange(start, start + len(tokens), device=self.device)
            hidden = counts[start : start + batch].to(self.device)
            mask = draw_mask(hidden, 0, samples, self.num_tokens)
            masked = mask_tokens(tokens, mask.view_as(tokens), self.module.mask_id)
            rows = mask.flatten().nonzero()[:, 0]  # waits for the device; training must not
            logits, targets = network(masked, self._known(labels), rows), tokens.flatten()[rows]
            weights = torch.ones_like(rows, dtype=torch.float32)
            loss, accuracy = masked_loss(logits, targets, weights, 1.0, 0.0)
            sums += torch.stack([loss, accuracy, weights.sum()])
        loss, accuracy, hidden = sums.tolist()
        return {"loss": loss / hidden, "acc": accuracy / hidden}

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

    def export(self, folder: Path) -> None:
        """Write last and averaged weights, the tokenizer, class names and sampler settings."""
        outline = self.outline() if self.shards else None
        network, average = whole_on_cpu(self.module, self.ema.tensors, outline)
        if is_main():
            save_weights(
                folder,
                self.tokenizer,
                network=network,
                average=average,
                classes=self.images.classes,
                sampling=self.config.sampling,
            )

    def content(self) -> Content:
        """Tokenizer and images, whatever folder they lie in."""
        return {"tokenizer": self.tokenizer.fingerprint, **super().content()}

    def flops_per_image(self) -> float:
        """Operations of a step, with those of the head for the counted rows only."""
        return self._flops

    @cached_property
    def _flops(self) -> float:
        with torch.device("meta"):
            tokens = torch.zeros(self.part, *self.config.network.grid, dtype=torch.int64)
            rows = torch.zeros(self._bound(), dtype=torch.int64)
            inputs = (tokens, tokens[:, 0, 0], None if self.config.masking.visible_weight else rows)
        return training_flops(RowLogits(self.outline()), inputs) / self.part

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
        if weight := self.config.masking.visible_weight:
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
            self.module, self.tokenizer, self.images.classes, self.config.sampling, dtype=self.dtype
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


class RowLogits(nn.Module):
    """What DDP and compile wrap: the network, its head only where the loss looks."""

    def __init__(self, network: GPT):
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor, labels: Tensor, rows: Tensor | None) -> Tensor:
        """Tokens (B, h, w), labels (B,), flat rows (M,) or None for all -> logits (M, V)."""
        hidden = self.network.hidden_at_once(tokens, labels).flatten(0, 1)
        return self.network.head(hidden if rows is None else hidden.index_select(0, rows))


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
    mar_plan(side * side, sampling.num_steps, sampling.schedule, sampling.order)  # or it raises


def shown_classes(num_classes: int) -> list[int]:
    """Classes of the sample grid: up to 64 images, rows of eight."""
    if num_classes > max(FAVOURITES):
        return [label for label in FAVOURITES for _ in range(8)]
    each = max(1, 64 // max(1, num_classes))
    return [label for label in range(max(1, num_classes)) for _ in range(each)][:64]
