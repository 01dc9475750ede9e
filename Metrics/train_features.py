"""Trains the feature network on drawn scenes: `python -m Metrics.train_features steps=1200`.

It reads the largest object, the number of objects, the background, and how much the picture was
blurred, quantised in blocks and made noisy. About five minutes on one core; the same seed and
torch version give the same bytes. B batch, N pictures.
"""

import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from MaskGIL.command import Flags, run_command
from MaskGIL.data.shapes import BACKGROUNDS, COLOURS, SHAPES, SIZES, Scene, Shapes, draw
from MaskGIL.durable import save_tensors
from Metrics.features import INPUT_SIZE, WEIGHTS, FeatureNetwork
from Network.config import UserError, setting

PROGRAM = "python -m Metrics.train_features"


@dataclass(frozen=True)
class FeatureTraining:
    """How the feature network is trained."""

    steps: int = setting(1200, "optimiser steps")
    batch: int = setting(64, "pictures of a step")
    lr: float = setting(
        3e-3, "highest learning rate of AdamW: a tenth of warm-up, then half a cosine"
    )
    num_images: int = setting(12288, "scenes drawn; each comes again, degraded otherwise")
    seed: int = setting(0, "seed of the scenes, the weights and the degradations")
    out: str = setting(str(WEIGHTS), "file to write")


# What is read off a scene: one of a few names each, and then numbers (`_draw`).
CHOICES: dict[str, tuple[Callable[[Scene], str | int], list]] = {
    "shape": (lambda scene: scene.objects[0].shape, list(SHAPES)),
    "colour": (lambda scene: scene.objects[0].colour, list(COLOURS)),
    "count": (lambda scene: len(scene.objects), list(SIZES)),
    "background": (lambda scene: scene.background.kind, list(BACKGROUNDS)),
}
NUMBERS = ("row", "column", "size", "blur", "blocks", "noise")
MOST_BLUR, MOST_BLOCKS, MOST_NOISE = 2.5, 1.6, 0.15  # pixels; parts of the range of a pixel


def main(config: FeatureTraining, flags: Flags) -> None:
    """Train, print the accuracies on unseen scenes, write the weights and print their sha256."""
    out = Path(config.out)
    if not out.parent.is_dir():
        raise UserError(f"out={out}: there is no folder {out.parent}; create it first.")
    if flags.dry_run:
        print(f"{config.steps} steps of {config.batch} pictures, then {out} is written")
        return
    torch.set_num_threads(1)  # sums in one order: the same bytes on any machine of this kind
    torch.manual_seed(config.seed)  # for the first weights alone
    network = FeatureNetwork()
    heads = nn.Linear(network.width, sum(_widths()))
    _train(network, heads, config)
    for name, value in _held_out(network.eval(), heads, config.seed).items():
        print(f"{name:12s} {value:.3f}")
    print(f"{_save(network, out)}  {out}")


def degrade(images: Tensor, random: Generator) -> tuple[Tensor, Tensor]:
    """Blur, quantise in 8x8 blocks, add noise: each to every other picture, by a random amount.

    images (B, 3, H, W) uint8 -> the same, and amounts (B, 3) in [0, 1] of the three.
    """
    amounts = torch.rand(len(images), 3, generator=random)
    amounts = amounts * (torch.rand(len(images), 3, generator=random) < 0.5)
    blur_by, blocks_by, noise_by = amounts[:, :, None, None, None].unbind(1)  # (B, 1, 1, 1)
    x = images.float() / 255
    x = blur(x, blur_by * MOST_BLUR)
    x = _quantise_blocks(x, blocks_by * MOST_BLOCKS)
    x = x + torch.randn(x.shape, generator=random) * noise_by * MOST_NOISE
    return (x.clamp(0, 1) * 255 + 0.5).to(torch.uint8), amounts


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur images (B, 3, H, W) by Gaussians of sigma (B, 1, 1, 1) pixels, weights summing to 1."""

    def along(length: int) -> Tensor:
        pixel = torch.arange(length)
        distance = (pixel[:, None] - pixel).square()  # (length, length)
        kernel = torch.exp(-distance / (2 * sigma.square() + 1e-6))
        return kernel / kernel.sum(-1, keepdim=True)  # (B, 1, length, length)

    return along(images.shape[2]) @ images @ along(images.shape[3]).mT


def _quantise_blocks(images: Tensor, step: Tensor) -> Tensor:
    """Round the 8x8 cosine coefficients to multiples of step (B, 1, 1, 1), coarser where finer."""
    order, place = torch.arange(8)[:, None], torch.arange(8) + 0.5
    cosines = torch.cos(torch.pi / 8 * order * place) / 2  # (8, 8), orthonormal
    cosines[0] *= 0.5**0.5
    step = (step * (1 + order + order.T) / 8 + 1e-4)[:, :, None, :, None, :]  # (B, 1, 1, 8, 1, 8)
    blocks = images.unflatten(3, (-1, 8)).unflatten(2, (-1, 8))  # (B, 3, H/8, 8, W/8, 8)
    blocks = torch.einsum("ir,bchrwd,jd->bchiwj", cosines, blocks, cosines)
    blocks = (blocks / step).round() * step
    return torch.einsum("ir,bchiwj,jd->bchrwd", cosines, blocks, cosines).reshape(images.shape)


# ---------------------------------------------------------------------------------- training
def _train(network: FeatureNetwork, heads: nn.Linear, config: FeatureTraining) -> None:
    images, choices, places = _draw("train", config.num_images, config.seed)
    random = Generator().manual_seed(config.seed)
    parameters = [*network.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.lr, config.steps, pct_start=0.1, cycle_momentum=False
    )
    for step in range(config.steps):
        rows = torch.randint(config.num_images, (config.batch,), generator=random)
        degraded, amounts = degrade(images[rows], random)
        *logits, numbers = heads(network(degraded)).split(_widths(), 1)
        true_numbers = torch.cat([places[rows], amounts], 1)  # (B, 6)
        loss = 40 * F.mse_loss(numbers, true_numbers)  # at first as large as that of two choices
        for part, true in zip(logits, choices[rows].unbind(1)):
            loss = loss + F.cross_entropy(part, true)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step:5d}/{config.steps} | loss {loss.item():.3f}", flush=True)


@torch.inference_mode()
def _held_out(network: FeatureNetwork, heads: nn.Linear, seed: int) -> dict[str, float]:
    """Accuracy of each choice, R^2 of each number, on degraded pictures of unseen scenes."""
    images, choices, places = _draw("val", 1024, seed)
    degraded, amounts = degrade(images, Generator().manual_seed(seed + 1))
    outputs = torch.cat([heads(network(part)) for part in degraded.split(64)])
    *logits, numbers = outputs.split(_widths(), 1)
    true = torch.cat([places, amounts], 1)  # (N, 6)
    right = [(part.argmax(1) == c).float().mean() for part, c in zip(logits, choices.unbind(1))]
    explained = 1 - (numbers - true).square().mean(0) / true.var(0)
    return dict(zip([*CHOICES, *NUMBERS], torch.stack([*right, *explained]).tolist()))


def _widths() -> list[int]:
    """Outputs of the heads: logits of each choice, then the numbers."""
    return [*(len(names) for _, names in CHOICES.values()), len(NUMBERS)]


def _draw(split: Literal["train", "val"], num_images: int, seed: int) -> tuple[Tensor, ...]:
    """Pictures (N, 3, 64, 64) uint8 of 1 to 3 objects, choices (N, 4) int64, places (N, 3).

    A place is the row, column and size of the largest object.
    """
    shapes = Shapes(split, num_images, (INPUT_SIZE, INPUT_SIZE), max(SIZES), seed)
    scenes = [shapes.scene(index) for index in range(num_images)]
    images = np.stack([draw(scene, INPUT_SIZE, INPUT_SIZE) for scene in scenes])
    choices = [[names.index(read(scene)) for read, names in CHOICES.values()] for scene in scenes]
    main_objects = [scene.objects[0] for scene in scenes]
    places = [(item.row, item.column, item.size) for item in main_objects]
    return torch.from_numpy(images).movedim(-1, 1), torch.tensor(choices), torch.tensor(places)


def _save(network: FeatureNetwork, out: Path) -> str:
    """Write the weights under a temporary name, rename, and give the sha256 of the file."""
    partial = out.with_name(f"{out.name}.partial")
    save_tensors(network.state_dict(), partial, {"name": network.name})
    os.replace(partial, out)
    return hashlib.sha256(out.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(run_command(main, FeatureTraining, sys.argv[1:], program=PROGRAM, about=__doc__ or ""))
