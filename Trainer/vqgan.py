"""Trains a tokenizer: reconstruction, the quantiser's own losses, and revival of dead codes.

Perceptual and adversarial terms belong to a later version. Shapes: B images, H x W pixels, C code
width, h x w tokens, K codes.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from MaskGIL.data import Images, open_images
from MaskGIL.data.crops import num_crops, to_float, to_uint8
from MaskGIL.data.folders import BadFiles
from MaskGIL.data.sampler import Sampler
from MaskGIL.distributed import all_gather, all_reduce, world_size
from MaskGIL.noise import random_bits
from MaskGIL.pictures import save_grid
from MaskGIL.weights import save_weights
from Network import build_tokenizer
from Network.config import UserError
from Network.tokenizer.vq import VQTokenizer
from Trainer.batches import Batch, ImageBatches, readable_crop
from Trainer.trainer import Metrics, Trainer

VALIDATION_IMAGES = 512


class TokenizerTrainer(Trainer):
    """A run that trains a tokenizer on images."""

    module: VQTokenizer

    def build(self) -> nn.Module:
        """Open the images and build the tokenizer."""
        config = self.config
        self.images = open_images(config.data, "train")
        self.validation = open_images(config.data, "val")
        tokenizer = build_tokenizer(config.tokenizer)
        if config.data.image_size % tokenizer.stride:
            raise UserError(
                f"data.image_size={config.data.image_size} is not divisible by the tokenizer's "
                f"stride {tokenizer.stride}."
            )
        # Tokens per code: in the last whole window between two revivals, and in this one
        self.histograms = torch.zeros(2, config.tokenizer.codebook_size, device=self.device)
        self.extra = {"histograms": self.histograms}
        self.latents: list[Tensor] = []  # (B h w, C) of each part of the step
        return tokenizer

    def dataset(self) -> Dataset[Batch]:
        """Images of the training split."""
        data, bad = self.config.data, self._bad(self.images)
        crops = num_crops(data.crops)
        batch, seed = self.config.optim.batch, self.config.seed
        sampler = Sampler(self.images.labels, batch, seed, data.balance, crops)
        return ImageBatches(self.images, sampler, self.share, data.crops, data.image_size, bad)

    def objective(self) -> nn.Module:
        """Images -> reconstruction, latents, tokens, quantiser losses."""
        return Reconstruction(self.module)

    def loss(self, objective: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """Pixel error and quantiser losses of images (B, 3, H, W) uint8."""
        images = to_float(batch["images"])
        reconstruction, latents, tokens, losses = objective(images)
        weights, parts = self.config.reconstruction, world_size() * self.config.loop.accumulation
        error = reconstruction.float() - images
        pixels = weights.l1 * error.abs().mean() + weights.l2 * error.square().mean()
        loss = (pixels + sum(losses.values())) / parts
        self.histograms[1] += self._counts(tokens)
        self.latents.append(latents.detach().float().movedim(1, -1).flatten(0, -2))
        metrics = {"l1": error.detach().abs().mean() / parts}
        return loss, metrics | {name: term.detach() / parts for name, term in losses.items()}

    def gauges(self) -> dict[str, float]:
        """Share of codes in use, and their perplexity, in the latest window between revivals."""
        return usage(all_reduce(self.histograms[0].clone()))

    @torch.no_grad()
    def behind_step(self) -> None:
        """Give codes that nobody has used since the last revival a latent of the latest batch."""
        latents, self.latents = torch.cat(self.latents), []  # (B h w, C)
        config = self.config.reconstruction
        every = config.revive_every or self.config.loop.log_every
        if self.step > 1 and self.step % every:
            return
        if config.revive_every and self.step <= config.revive_until * self.config.loop.steps:
            counts = all_reduce(self.histograms[1].clone())
            # The first step replaces the whole codebook: its random start knows nothing of images
            dead = torch.ones_like(counts) if self.step == 1 else counts == 0
            self._revive(dead.nonzero()[:, 0], all_gather(latents))
        self.histograms[0] = self.histograms[1]
        self.histograms[1] = 0

    def _revive(self, codes: Tensor, latents: Tensor) -> None:
        seed = torch.tensor(self.config.seed, device=codes.device)
        picks = random_bits(seed, "revival", self.step, codes) % len(latents)
        weight = self.module.quantize.embedding.weight
        weight[codes] = latents[picks]
        self.ema.tensors["quantize.embedding.weight"][codes] = latents[picks]
        for moment in ("exp_avg", "exp_avg_sq"):
            self.optimizer.state[weight][moment][codes] = 0

    def validate(self) -> dict[str, float]:
        """PSNR in dB over validation images, and usage of the codes there."""
        histogram, ratios = torch.zeros_like(self.histograms[0]), []
        for images in self._validation_images(VALIDATION_IMAGES).split(64):
            images = images.to(self.device)
            reconstruction, tokens, _ = self.module(images)
            error = (reconstruction.float().clamp(-1, 1) - images).square().mean((1, 2, 3))
            ratios.append(10 * torch.log10(4 / error))  # the range of a pixel is 2
            histogram += self._counts(tokens)
        return {"psnr": torch.cat(ratios).mean().item(), **usage(histogram)}

    def picture(self, path: Path) -> None:
        """Validation images above their reconstructions."""
        images = self._validation_images(16).to(self.device)
        reconstruction = self.module(images)[0].float()
        save_grid(to_uint8(torch.cat([images, reconstruction])), path, columns=len(images))

    def export(self, folder: Path) -> None:
        """Write the averaged tokenizer."""
        with self.averaged():
            save_weights(folder, self.module)

    def facts(self) -> dict[str, str]:
        """Tokenizer and data in a few words."""
        tokenizer, data = self.config.tokenizer, self.config.data
        side = data.image_size // self.module.stride
        return {
            "tokenizer": f"{self.module.name}, {tokenizer.codebook_size} codes, "
            f"{data.image_size}x{data.image_size} pixels -> {side}x{side} tokens",
            "data": f"{len(self.images):,} training and {len(self.validation):,} validation images",
        }

    def _counts(self, tokens: Tensor) -> Tensor:
        return torch.bincount(tokens.flatten(), minlength=self.config.tokenizer.codebook_size)

    def _validation_images(self, count: int) -> Tensor:
        """Evenly spread over the validation rows: (count, 3, H, W) in [-1, 1]."""
        count = min(count, len(self.validation))
        rows = torch.linspace(0, len(self.validation) - 1, count).long().tolist()
        size = self.config.data.image_size
        found = [
            readable_crop(self.validation, row, "center", 0, size, self._bad(self.validation))[0]
            for row in rows
        ]
        return to_float(torch.stack(found))

    def _bad(self, images: Images) -> BadFiles:
        data = self.config.data
        return BadFiles(Path(self.config.out_dir) / "bad_files.txt", len(images), data.max_bad)


class Reconstruction(nn.Module):
    """What DDP wraps: the tokenizer with its latents."""

    def __init__(self, tokenizer: VQTokenizer):
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Images (B, 3, H, W) -> reconstruction, latents (B, C, h, w), tokens, loss terms."""
        latents = self.tokenizer.latents(images)
        codes, tokens, losses = self.tokenizer.quantise(latents)
        return self.tokenizer.pixels(codes), latents, tokens, losses


def usage(histogram: Tensor) -> dict[str, float]:
    """Of counts per code (K,): the share of codes in use, and exp(entropy), the perplexity."""
    shares = histogram / histogram.sum().clamp(min=1)
    entropy = -torch.special.xlogy(shares, shares).sum()
    return {"usage": (histogram > 0).float().mean().item(), "ppl": entropy.exp().item()}
