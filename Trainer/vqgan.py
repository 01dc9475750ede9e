"""Trains a tokenizer: reconstruction, the quantiser's own losses, and revival of dead codes.

Perceptual and adversarial terms belong to a later version. Shapes: B images, H x W pixels, C code
width, h x w tokens, K codes.
"""

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from MaskGIL.data.crops import num_crops, to_float, to_uint8
from MaskGIL.data.sampler import Sampler, spread
from MaskGIL.device import decoder_dtype
from MaskGIL.distributed import all_gather, all_reduce, world_size
from MaskGIL.imagenet import describe_count
from MaskGIL.noise import random_bits
from MaskGIL.pictures import save_grid
from MaskGIL.weights import save_weights
from Network import build_tokenizer
from Network.config import UserError
from Network.Taming.quantiser import VectorQuantiser
from Network.tokenizer.vq import VQTokenizer
from Trainer.batches import Batch, ImageBatches, bad_files, center_crops
from Trainer.config import ReconstructionConfig, RunConfig
from Trainer.trainer import Trainer
from Trainer.window import Metrics

VALIDATION_IMAGES = 512


class TokenizerTrainer(Trainer):
    """A run that trains a tokenizer on images."""

    module: VQTokenizer

    @classmethod
    def precision(cls, config: RunConfig, device: torch.device) -> torch.dtype:
        """Never fp16: a decoder is in every step."""
        return decoder_dtype(super().precision(config, device))

    def build(self) -> nn.Module:
        """Build the tokenizer. Raises UserError for images that its grid does not divide."""
        config = self.config
        tokenizer = build_tokenizer(config.tokenizer)
        if config.data.image_size % tokenizer.stride:
            raise UserError(
                f"data.image_size={config.data.image_size} is not divisible by the tokenizer's "
                f"stride {tokenizer.stride}."
            )
        is_looked_up = isinstance(tokenizer.quantize, VectorQuantiser)
        if config.reconstruction.revive_every and not is_looked_up:
            raise UserError(
                f"The codes of {tokenizer.name} cannot die: use reconstruction.revive_every=0."
            )
        # Tokens per code: in the last whole window between two revivals, and in this one
        self.histograms = torch.zeros(2, tokenizer.codebook_size, device=self.device)
        self.extra = {"histograms": self.histograms}
        self.latents: list[Tensor] = []  # (B h w, C) of each part of the step
        return tokenizer

    def dataset(self) -> Dataset[Batch]:
        """Images of the training split."""
        data, bad = self.config.data, bad_files(self.config, self.images)
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
        parts = world_size() * self.accumulation
        error = reconstruction.float() - images
        pixels = pixel_loss(error, self.config.reconstruction)
        loss = (pixels + sum(losses.values())) / parts
        self.coded = tokens, latents.detach().float().movedim(1, -1).flatten(0, -2)
        metrics = {"l1": error.detach().abs().mean() / parts}
        return loss, metrics | {name: term.detach() / parts for name, term in losses.items()}

    def behind_part(self) -> None:
        """Count the codes of the part, and keep its latents."""
        tokens, latents = self.coded
        self.histograms[1] += self._counts(tokens)
        self.latents.append(latents)

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
        seed = torch.full((), self.config.seed, device=codes.device)
        picks = random_bits(seed, "revival", self.step, codes) % len(latents)
        assert isinstance(self.module.quantize, VectorQuantiser)
        weight = self.module.quantize.embedding.weight
        weight[codes] = latents[picks]
        self.ema.tensors["quantize.embedding.weight"][codes] = latents[picks]
        for moment in ("exp_avg", "exp_avg_sq"):
            self.optimizer.state[weight][moment][codes] = 0

    def validate(self) -> dict[str, float]:
        """PSNR in dB over validation images, and usage of the codes there."""
        histogram, ratios = torch.zeros_like(self.histograms[0]), []
        for crops in self.validation.split(self.chunk):
            images = to_float(crops.to(self.device))
            reconstruction, tokens, _ = self.module(images)
            error = (reconstruction.float().clamp(-1, 1) - images).square().mean((1, 2, 3))
            ratios.append(10 * torch.log10(4 / error))  # the range of a pixel is 2
            histogram += self._counts(tokens)
        return {"psnr": torch.cat(ratios).mean().item(), **usage(histogram)}

    def picture(self, path: Path) -> None:
        """Validation images above their reconstructions."""
        rows = spread(len(self.validation), 16)
        images = to_float(self.validation[rows].to(self.device))
        reconstruction = self.module(images)[0].float()
        save_grid(to_uint8(torch.cat([images, reconstruction])), path, columns=len(images))

    def score(self) -> dict[str, float]:
        """Distance of reconstructed validation images to these themselves."""
        images = (to_float(crops.to(self.device)) for crops in self.scorer.crops(self.chunk))
        return self.scorer.score(to_uint8(self.module(part)[0].float()) for part in images)

    def export(self, folder: Path) -> None:
        """Write the averaged tokenizer."""
        with self.averaged():
            save_weights(folder, self.module)

    def facts(self) -> dict[str, str]:
        """Tokenizer and data in a few words."""
        tokenizer, data = self.config.tokenizer, self.config.data
        side = data.image_size // self.module.stride
        parameters = sum(p.numel() for p in self.module.parameters())
        return {
            "tokenizer": f"{self.module.name}, {parameters / 1e6:.1f}M parameters, "
            f"{tokenizer.codebook_size} codes, "
            f"{data.image_size}x{data.image_size} pixels -> {side}x{side} tokens",
            "data": f"{describe_count(self.images, 'train')}; "
            f"{describe_count(self.validation_images, 'val')} validate",
        }

    def _counts(self, tokens: Tensor) -> Tensor:
        flat = tokens.flatten()  # bincount would wait for the device to learn the largest token
        counts = torch.zeros_like(self.histograms[0])
        return counts.scatter_add_(0, flat, torch.ones_like(flat, dtype=counts.dtype))

    @cached_property
    def validation(self) -> Tensor:
        """Crops (n, 3, H, W) uint8 of up to VALIDATION_IMAGES images, evenly spread."""
        images = self.validation_images
        return center_crops(self.config, images, spread(len(images), VALIDATION_IMAGES))[0]


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


def pixel_loss(error: Tensor, config: ReconstructionConfig) -> Tensor:
    """Weighted mean of absolute and squared error (B, 3, H, W), of pixels in [-1, 1]."""
    return config.l1 * error.abs().mean() + config.l2 * error.square().mean()


def usage(histogram: Tensor) -> dict[str, float]:
    """Of counts per code (K,): the share of codes in use, and exp(entropy), the perplexity."""
    shares = histogram / histogram.sum().clamp(min=1)
    entropy = -torch.special.xlogy(shares, shares).sum()
    return {"usage": (histogram > 0).float().mean().item(), "ppl": entropy.exp().item()}
