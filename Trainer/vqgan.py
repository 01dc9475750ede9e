"""Trains a tokenizer: pixels, LPIPS, its quantiser's losses, a discriminator; revives dead codes.

Shapes: B images, H x W pixels, C code width, h x w tokens, K codes.
"""

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from MaskGIL.data.crops import num_crops, to_float, to_uint8
from MaskGIL.data.sampler import Sampler, spread
from MaskGIL.device import decoder_dtype
from MaskGIL.distributed import (
    all_gather,
    all_reduce,
    chunks,
    first_rank_first,
    summed,
    world_size,
)
from MaskGIL.imagenet import describe_count
from MaskGIL.noise import random_bits
from MaskGIL.pictures import save_grid
from MaskGIL.weights import save_weights
from Metrics.codebook import usage
from Metrics.perceptual import VGG, open_perceptual
from Metrics.pretrained import file_sha256
from Network import build_tokenizer
from Network.config import UserError
from Network.Taming.quantiser import VectorQuantiser, flat_latents
from Network.tokenizer.vq import VQTokenizer
from Trainer import adversary
from Trainer.autoencoding import Reconstructed, Reconstruction, pixel_loss
from Trainer.batches import Batch, ImageBatches, bad_files, center_crops
from Trainer.checkpoint import Snapshot
from Trainer.config import RunConfig
from Trainer.content import Content
from Trainer.fine_tuning import begin_from
from Trainer.trainer import Trainer
from Trainer.window import Metrics

VALIDATION_IMAGES = 512


class TokenizerTrainer(Trainer):
    """A run that trains a tokenizer on images."""

    module: Reconstruction
    _vgg = VGG._replace(key="reconstruction.vgg", is_needed=True)

    @classmethod
    def precision(cls, config: RunConfig, device: torch.device) -> torch.dtype:
        """Never fp16: a decoder is in every step."""
        return decoder_dtype(super().precision(config, device))

    def open(self) -> None:
        """Look for the weights of LPIPS. Raises UserError where there are none."""
        config = self.config.reconstruction
        self.vgg = self._vgg.find(config.vgg) if config.perceptual else None
        if config.perceptual and config.vgg != "download" and not self.vgg:
            raise UserError(
                f"reconstruction.perceptual={config.perceptual:g} needs the weights of VGG-16 "
                "(528 MB): reconstruction.vgg=download, or reconstruction.vgg=FILE."
            )

    def content(self) -> Content:
        """The images, and whose VGG sees them: the released one unless a file is another."""
        content = super().content()
        if self.config.reconstruction.perceptual:
            digest = file_sha256(self.vgg) if self.vgg else self._vgg.start
            is_released = digest.startswith(self._vgg.start)
            content["VGG-16 of LPIPS"] = "released" if is_released else digest
        return content

    def build(self) -> nn.Module:
        """Build tokenizer and discriminator.

        Raises UserError for images that the grid does not divide, or too small to be judged, for
        keys that do not fit each other, and for weights to begin with that do not fit.
        """
        config = self.config
        module = Reconstruction(
            build_tokenizer(config.tokenizer),
            adversary.build_discriminator(config.adversary, config.data.image_size),
        )
        tokenizer = module.tokenizer
        check_tokenizer(config, tokenizer)
        if not self.newest:  # a run that was begun with such keys may end with them
            refuse_useless(config)
        if self.begun_with:
            begin_from(tokenizer, self.begun_with)
        if config.reconstruction.perceptual:
            with first_rank_first():
                weights = self._vgg.open(config.reconstruction.vgg)
            assert weights is not None
            self.perceptual = open_perceptual(weights, self.device)
        # Tokens per code: in the last whole window between two revivals, and in this one
        self.histograms = torch.zeros(2, tokenizer.codebook_size, device=self.device)
        self.extra = {"histograms": self.histograms}
        self.counts = torch.zeros_like(self.histograms[0])  # of the step, which may not be taken
        self.latents: list[Tensor] = []  # (B h w, C) of each part of the step
        self.logits: list[Tensor] = []  # means (2,) of each part of the step
        return module

    @property
    def tokenizer(self) -> VQTokenizer:
        """What is trained for users."""
        return self.module.tokenizer

    def learners(self) -> list[nn.Module]:
        """The tokenizer and its discriminator, whose gradients are clipped apart."""
        return list(self.module.children())

    def dataset(self) -> Dataset[Batch]:
        """Images of the training split."""
        data, bad = self.config.data, bad_files(self.config, self.images)
        crops = num_crops(data.crops)
        batch, seed = self.config.optim.batch, self.config.seed
        sampler = Sampler(self.images.labels, batch, seed, data.balance, crops)
        return ImageBatches(self.images, sampler, self.share, data.crops, data.image_size, bad)

    def objective(self) -> nn.Module:
        """Images -> what the tokenizer makes of them, and the discriminator of both."""
        return self.module

    def loss(self, objective: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """All terms for images (B, 3, H, W) uint8. One backward pass teaches both networks.

        What the discriminator learns from does not reach the tokenizer, and the other way round.
        """
        config, images = self.config, to_float(batch["images"])
        contest = bool(config.adversary.weight) and self.step >= config.adversary.start
        made: Reconstructed = objective(images, contest)
        error = made.images.float() - images
        terms = {"pixels": pixel_loss(error, config.reconstruction)}
        metrics = {"l1": error.detach().abs().mean()}
        if config.reconstruction.perceptual:
            distance = self.perceptual(made.images, images).mean()
            terms["perceptual"] = config.reconstruction.perceptual * distance
            metrics["lpips"] = distance.detach()
        seen = torch.stack([*terms.values()]).sum()
        metrics |= {name: term.detach() for name, term in made.losses.items()}
        terms |= made.losses
        if made.verdicts:
            terms |= self._contested(seen, made.verdicts, metrics)
        elif self.module.discriminator:  # it waits, but DDP asks for a gradient of everything
            weights = [p.sum() for p in self.module.discriminator.parameters()]
            terms["waiting"] = 0 * torch.stack(weights).sum()
        self.made = made
        parts = world_size() * self.accumulation
        loss = torch.stack([*terms.values()]).sum() / parts
        return loss, {name: value / parts for name, value in metrics.items()}

    def _contested(
        self, seen: Tensor, found: adversary.Verdicts, metrics: Metrics
    ) -> dict[str, Tensor]:
        """Terms of the contest; `seen` is the loss of what is seen without a discriminator."""
        config, weight = self.config.adversary, self.config.adversary.weight
        fooled = adversary.tokenizer_term(config.tokenizer_loss, found.heard)
        metrics["adversarial"] = fooled.detach()
        if config.adaptive:
            last = self.tokenizer.decoder.get_parameter("conv_out.weight")
            factor = adversary.adaptive_weight(seen, fooled, last)
            metrics["adaptive"] = factor
            weight = weight * factor
        told = adversary.discriminator_term(config.discriminator_loss, found.real, found.drawn)
        metrics["discriminator"] = told.detach()
        terms = {"adversarial": weight * fooled, "discriminator": told}
        if config.lecam:
            lecam = adversary.lecam_term(self.module.means, found.real, found.drawn)
            metrics["lecam"] = lecam.detach()
            terms["lecam"] = config.lecam * lecam
        return terms

    def behind_part(self) -> None:
        """Count the codes of the part, and keep its latents and logits as far as they count."""
        self.counts += self._counts(self.made.tokens)
        if self.config.reconstruction.revive_every:
            self.latents.append(flat_latents(self.made.latents.detach().float()))
        if self.made.verdicts:
            self.logits.append(adversary.logit_means(self.made.verdicts))

    def gauges(self) -> dict[str, float]:
        """Share of codes in use, and their perplexity, in the latest window between revivals."""
        return self._usage(all_reduce(self.histograms[0].clone()))

    @torch.no_grad()
    def behind_step(self, skip: Tensor) -> None:
        """Give codes that nobody has used since the last revival a latent of the latest batch."""
        if self.logits:
            means = self.module.means
            moved = adversary.moved_means(means, self.logits)
            means.copy_(torch.where(skip > 0, means, moved))
        self.histograms[1] += (1 - skip) * self.counts
        self.counts.zero_()
        latents, self.latents, self.logits = self.latents, [], []
        config = self.config.reconstruction
        every = config.revive_every or self.config.loop.log_every
        begins = self.guard.skipped == self.step - 1  # none of the steps before was taken
        if not begins and self.step % every:
            return
        if config.revive_every and self.step <= config.revive_until * self.config.loop.steps:
            counts = all_reduce(self.histograms[1].clone())
            # The first step that is taken replaces the whole codebook: its random start knows
            # nothing of images
            random = begins and not self.config.init_from
            dead = torch.ones_like(counts) if random else counts == 0
            dead = dead * (1 - skip)  # latents of a step that was not taken may be nan
            self._revive(dead.nonzero()[:, 0], all_gather(torch.cat(latents)))
        self.histograms[0] = self.histograms[1]
        self.histograms[1] = 0

    def _revive(self, codes: Tensor, latents: Tensor) -> None:
        seed = torch.full((), self.config.seed, device=codes.device)
        picks = random_bits(seed, "revival", self.step, codes) % len(latents)
        assert isinstance(self.tokenizer.quantize, VectorQuantiser)
        weight = self.tokenizer.quantize.embedding.weight
        weight[codes] = latents[picks]
        self.ema.tensors["tokenizer.quantize.embedding.weight"][codes] = latents[picks]
        for moment in ("exp_avg", "exp_avg_sq"):
            self.optimizer.state[weight][moment][codes] = 0

    def validate(self) -> dict[str, float]:
        """PSNR in dB over validation images, and usage of the codes there."""
        histogram = torch.zeros_like(self.histograms[0])
        ratios = torch.zeros(2, dtype=torch.float64)  # their sum and number
        for rows in chunks(len(self.validation), self.chunk):  # of this rank
            images = to_float(self.validation[rows.start : rows.stop].to(self.device))
            tokens = self.tokenizer.encode(images)
            error = (self.tokenizer.decode(tokens).float() - images).square().mean((1, 2, 3))
            found = 10 * torch.log10(4 / error).cpu().double()  # the range of a pixel is 2
            ratios += torch.stack([found.sum(), torch.tensor(len(found)).double()])
            histogram += self._counts(tokens)
        decibels, count = summed(ratios, self.device).tolist()
        return {"psnr": decibels / count, **usage(all_reduce(histogram), self.tokenizer.num_bits)}

    def picture(self, path: Path) -> None:
        """Validation images above their reconstructions."""
        rows = spread(len(self.validation), 16)
        images = to_float(self.validation[rows].to(self.device))
        reconstruction = self.tokenizer(images)[0].float()
        save_grid(to_uint8(torch.cat([images, reconstruction])), path, columns=len(images))

    def score(self) -> dict[str, float]:
        """Distance of reconstructed validation images to these themselves."""
        images = (to_float(crops.to(self.device)) for crops in self.scorer.crops(self.chunk))
        return self.scorer.score(to_uint8(self.tokenizer(part)[0].float()) for part in images)

    def export(self, folder: Path, snapshot: Snapshot) -> None:
        """Write the averaged tokenizer."""
        with torch.device("meta"):  # draws no random numbers, which the steps beside need
            tokenizer = build_tokenizer(self.tokenizer.config)
        mine = "tokenizer."
        average = snapshot["ema.safetensors"].items()
        state = {name[len(mine) :]: t for name, t in average if name.startswith(mine)}
        tokenizer.load_state_dict(state, assign=True)
        tokenizer.name = self.tokenizer.name
        save_weights(folder, tokenizer)

    def facts(self) -> dict[str, str]:
        """Tokenizer and data in a few words."""
        data, side = self.config.data, self.config.data.image_size // self.tokenizer.stride
        facts = {
            "tokenizer": f"{self.tokenizer.name}, {_parameters(self.tokenizer)}, "
            f"{self.tokenizer.codebook_size:,} codes, "
            f"{data.image_size}x{data.image_size} pixels -> {side}x{side} tokens",
            "data": f"{describe_count(self.images, 'train')}; "
            f"{describe_count(self.validation_images, 'val')} validate",
        }
        if self.config.reconstruction.perceptual:
            facts["perceptual"] = self.perceptual.name
        if self.module.discriminator:
            start = self.config.adversary.start
            told = f"{_parameters(self.module.discriminator)}, from step {start:,}"
            facts["adversary"] = told
        return facts

    def _usage(self, histogram: Tensor) -> dict[str, float]:
        return usage(histogram, self.tokenizer.num_bits)

    def _counts(self, tokens: Tensor) -> Tensor:
        flat = tokens.flatten()  # bincount would wait for the device to learn the largest token
        counts = torch.zeros_like(self.histograms[0])
        return counts.scatter_add_(0, flat, torch.ones_like(flat, dtype=counts.dtype))

    @cached_property
    def validation(self) -> Tensor:
        """Crops (n, 3, H, W) uint8 of up to VALIDATION_IMAGES images, evenly spread."""
        images = self.validation_images
        return center_crops(self.config, images, spread(len(images), VALIDATION_IMAGES))[0]


def check_tokenizer(config: RunConfig, tokenizer: VQTokenizer) -> None:
    """Raise UserError for keys of a run that do not fit its tokenizer."""
    if config.data.image_size % tokenizer.stride:
        raise UserError(
            f"data.image_size={config.data.image_size} is not divisible by the tokenizer's "
            f"stride {tokenizer.stride}."
        )
    if config.data.image_size < (smallest := tokenizer.smallest_side):
        raise UserError(
            f"data.image_size={config.data.image_size} is one token of {tokenizer.name}, which "
            f"cannot draw an image of one; use {smallest} or more."
        )
    is_looked_up = isinstance(tokenizer.quantize, VectorQuantiser)
    if config.reconstruction.revive_every and not is_looked_up:
        raise UserError(
            f"The codes of {tokenizer.name} cannot die: use reconstruction.revive_every=0."
        )
    if config.tokenizer.weights:
        raise UserError(
            f"tokenizer.weights={config.tokenizer.weights} is what a generator reads; to train a "
            "tokenizer further use init_from= instead."
        )
    if config.adversary.weight and config.adversary.adaptive and config.loop.compile:
        raise UserError(
            "adversary.adaptive=true looks at gradients twice, which a compiled network does not "
            "allow: use loop.compile=false."
        )


def refuse_useless(config: RunConfig) -> None:
    """Raise UserError for keys that would change nothing."""
    if config.tokenizer.name:
        raise UserError(
            f"tokenizer.name={config.tokenizer.name} is what a generator reads, and the loss "
            "weights beside it would do nothing; to train such a tokenizer use its recipe, "
            f"MaskGIL/configs/tokenizers/{config.tokenizer.name}.yaml, and to train its weights "
            f"further init_from={config.tokenizer.name} with it."
        )
    adversary.refuse_useless(config.adversary)


def _parameters(module: nn.Module) -> str:
    return f"{sum(p.numel() for p in module.parameters()) / 1e6:.1f}M parameters"
