"""What a generator is asked in a step: hidden tokens (MAR), or each token after those before (AR).

Shapes: B images, h x w = N tokens, M rows whose answer counts, V codebook.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from MaskGIL.cache_index import token_grid
from MaskGIL.data.bucket_shapes import read_shapes
from MaskGIL.masking import counted_rows, draw_mask, mask_tokens, max_hidden
from MaskGIL.noise import STREAMS, seed_of
from MaskGIL.plans import OBJECTIVES
from Network.condition import Captions
from Network.config import NetworkConfig
from Network.gpt import GPT
from Network.head import split_parts
from Trainer.config import RunConfig
from Trainer.throughput import example_condition, training_flops


class Question(NamedTuple):
    """What the network sees, in which order it may look, and how much each answer counts."""

    tokens: Tensor  # (B, h, w)
    rows: Tensor | None  # flat positions (M,) of the answers; None: of all B N tokens
    weights: Tensor  # (M,)
    causal: bool


def mode_of(objective: str, seed: int, step: int) -> str:
    """The mode of a step, "mar" or "ar": a coin tossed by (seed, step) where both are learned."""
    modes = OBJECTIVES[objective]
    return modes[seed_of(seed, STREAMS["objective"], step) % len(modes)]


def masked_question(
    tokens: Tensor,
    hidden: Tensor,
    samples: Tensor,
    *,
    seed: int,
    mask_id: int,
    bound: int,
    visible_weight: float,
) -> Question:
    """Of tokens (B, h, w) hide hidden (B,), drawn by (seed, samples (B,)), and ask for those.

    With a `visible_weight` all are asked for. Not more than `bound` may be hidden in all.
    """
    mask = draw_mask(hidden, seed, samples, tokens[0].numel())  # (B, N)
    masked = mask_tokens(tokens, mask.view_as(tokens), mask_id)
    if visible_weight:
        return Question(masked, None, torch.where(mask, 1.0, visible_weight).flatten(), False)
    return Question(masked, *counted_rows(mask, bound), False)


def next_question(tokens: Tensor) -> Question:
    """Ask for each of tokens (B, h, w) after those before it in raster order; all count."""
    return Question(tokens, None, torch.ones(tokens.numel(), device=tokens.device), True)


def example_inputs(
    config: RunConfig, mode: str, images: int, grid: tuple[int, int] | None = None
) -> tuple:
    """Inputs of `RowLogits` as a step in `mode` gives them for a part of so many images.

    On whatever device the caller makes tensors; what stands in them is of no meaning. Without a
    `grid` on the largest one of the run.
    """
    masking, causal = config.masking, mode == "ar"
    grid = grid or max(grids_of(config), key=math.prod)
    tokens = torch.zeros(images, *grid, dtype=torch.int64)
    condition = example_condition(config.network, tokens)
    if causal or masking.visible_weight:
        return tokens, condition, None, None, causal
    bound = max_hidden(masking.schedule, config.optim.batch, images, grid[0] * grid[1])
    return tokens, condition, torch.zeros(bound, dtype=torch.int64), None, causal


def grids_of(config: RunConfig) -> list[tuple[int, int]]:
    """Height and width in tokens of what a run trains on: of its buckets, or of all images."""
    if not (shapes := read_shapes(config.data.buckets)):
        return [config.network.grid]
    stride = config.data.image_size // config.network.grid[0]
    return [token_grid(shape, stride) for shape in shapes]


def network_of(config: RunConfig) -> NetworkConfig:
    """The network of a run, which knows the longest sides of its buckets unless it is told."""
    network = config.network
    if not config.data.buckets or network.longest or network.rotary == "published":
        return network
    heights, widths = zip(network.grid, *grids_of(config))
    return replace(network, longest=(max(heights), max(widths)))


def flops_by_grid(config: RunConfig, module: RowLogits, images: int) -> list[float]:
    """Operations of a step for one of so many images at once, on each of `grids_of`.

    They are the mean of its modes. `module` is on the meta device.
    """
    modes, found = OBJECTIVES[config.objective], []
    for grid in grids_of(config):
        with torch.device("meta"):
            asked = [example_inputs(config, mode, images, grid) for mode in modes]
        total = sum(training_flops(module, inputs) for inputs in asked)
        found.append(total / len(modes) / images)
    return found


class RowLogits(nn.Module):
    """What DDP and compile wrap: the network, its head only where the loss looks."""

    def __init__(self, network: GPT):
        super().__init__()
        self.network = network

    def forward(
        self,
        tokens: Tensor,
        condition: Tensor | Captions,
        rows: Tensor | None = None,
        targets: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Tokens (B, h, w), labels or captions, flat rows (M,) or None for all -> logits (M, V).

        Where tokens are predicted in parts, the logits of the parts stand beside each other; a
        later part is told the earlier ones of `targets` (B, h, w), which are the tokens if None.
        """
        hidden = self.network.hidden_at_once(tokens, condition, causal)  # (B, N, D)
        place = None
        if rows is not None:
            place = rows % hidden.shape[1]
            hidden = hidden.flatten(0, 1).index_select(0, rows)  # (M, D)
        sizes = self.network.config.part_sizes
        if len(sizes) == 1:
            logits = self.network.head(hidden, place)
        else:
            told = (tokens if targets is None else targets).flatten()
            told = told.view(hidden.shape[:-1]) if rows is None else told[rows]
            parts, output = split_parts(told, sizes), self.network.output
            logits = torch.cat(
                [output.part_logits(hidden, parts[:part]) for part in range(len(sizes))], -1
            )
        return logits if rows is not None else logits.flatten(0, 1)
