"""Masking: schedules, how many tokens of each image are hidden, which ones, and the loss on them.

A schedule maps progress in [0, 1] to the share of tokens still hidden. Training draws the progress
of each image from it, sampling walks along it: one table serves both. `mask` is True where hidden.
Shapes: B batch, N tokens, V codebook, M counted rows.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from MaskGIL.cross_entropy import cross_entropy
from MaskGIL.noise import STREAMS, seed_of, uniform
from Network.head import split_parts

Schedule = Callable[[float, int], float]

# progress, num_tokens -> hidden share; 1 at progress 0 (exp: all but one token), 0 at progress 1.
# root, square, linear, cosine, exp: MaskGIT (Chang et al., 2022), appendix; arccos: Halton-MaskGIT
# and MaskGIL.
SCHEDULES: dict[str, Schedule] = {
    "root": lambda progress, num_tokens: 1 - math.sqrt(progress),
    "linear": lambda progress, num_tokens: 1 - progress,
    "square": lambda progress, num_tokens: 1 - progress**2,
    "cosine": lambda progress, num_tokens: math.cos(math.pi / 2 * progress),
    "arccos": lambda progress, num_tokens: math.acos(progress) / (math.pi / 2),
    "exp": lambda progress, num_tokens: 1 - num_tokens ** (progress - 1),
}

_SHIFTS = 1024  # the random shift of a batch is one of so many: then its row bound is exact


def hidden_counts(schedule: str, batch: int, num_tokens: int, seed: int, step: int) -> np.ndarray:
    """How many tokens are hidden in each image of the global batch of `step`: (batch,) in [1, N].

    Image j has progress frac(van der Corput(j) + shift(seed, step)): uniform over steps for each
    image, and evenly spread inside any run of images of one step.
    """
    shift = seed_of(seed, STREAMS["ratio"], step) % _SHIFTS / _SHIFTS
    progress = (van_der_corput(batch) + shift) % 1.0
    return _counts(schedule, progress, num_tokens)


@lru_cache
def max_hidden(schedule: str, batch: int, micro_batch: int, num_tokens: int) -> int:
    """The most tokens that any micro-batch of any step hides: a static bound, and a tight one.

    `micro_batch` consecutive images of the global batch form a micro-batch.
    """
    levels = np.arange(_SHIFTS) / _SHIFTS
    sequence = van_der_corput(batch)
    bound = 0
    for start in range(0, batch, micro_batch):
        progress = (sequence[start : start + micro_batch, None] + levels) % 1.0
        bound = max(bound, int(_counts(schedule, progress, num_tokens).sum(0).max()))
    return bound


def van_der_corput(length: int) -> np.ndarray:
    """The first `length` points of the base-2 van der Corput sequence, in [0, 1)."""
    index = np.arange(length, dtype=np.uint64)
    points = np.zeros(length)
    for bit in range(max(1, int(length).bit_length())):
        points += (index >> np.uint64(bit) & np.uint64(1)).astype(float) / 2 ** (bit + 1)
    return points


def draw_mask(counts: Tensor, seed: int, sample_indices: Tensor, num_tokens: int) -> Tensor:
    """Hide counts (B,) positions of each image, drawn by (seed, sample index): bool (B, N)."""
    device = counts.device
    scores = uniform(
        torch.full((), seed, device=device),
        "mask",
        sample_indices[:, None],
        torch.arange(num_tokens, device=device),
    )
    return scores.argsort(dim=1, stable=True).argsort(1) < counts[:, None]


def mask_tokens(tokens: Tensor, mask: Tensor, mask_id: int) -> Tensor:
    """Replace tokens (B, ...) by `mask_id` where mask (B, ...) is True."""
    return tokens.masked_fill(mask, mask_id)


def counted_rows(mask: Tensor, bound: int) -> tuple[Tensor, Tensor]:
    """Flat positions of hidden tokens, padded to `bound`: (bound,) int64, and weights 1 or 0.

    More than `bound` must not be hidden; `max_hidden` is such a bound. To check it here would wait
    for the device.
    """
    flat = mask.flatten()
    rows = flat.to(torch.uint8).argsort(descending=True, stable=True)[:bound]  # hidden ones first
    return rows, flat[rows].float()


def masked_loss(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor,
    total: float | Tensor,
    label_smoothing: float,
    sizes: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of logits (M, V) against targets (M,), weighted by weights (M,).

    Divided by `total`, the weight counted over all ranks and micro-batches, so that their sums add
    up to the mean. Returns the loss and the (equally divided) share of right guesses. `sizes` as
    `row_losses` has them.
    """
    losses, right = row_losses(logits, targets, label_smoothing, sizes)
    return (losses * weights).sum() / total, (right * weights).sum() / total


def row_losses(
    logits: Tensor, targets: Tensor, label_smoothing: float, sizes: Sequence[int] = ()
) -> tuple[Tensor, Tensor]:
    """Cross-entropy (M,) of logits (M, V) against targets (M,), and 1 where the guess is right.

    Where tokens are predicted in parts, of `sizes` codes each, the logits of the parts stand beside
    each other; the losses of the parts add up, and a guess is right if all of its parts are.
    """
    sizes = list(sizes) or [logits.shape[-1]]
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    parts = wide.split(sizes, -1) if len(sizes) > 1 else [wide]  # or its gradient is copied
    losses, right = [], []
    for part, target in zip(parts, split_parts(targets, sizes)):
        losses.append(cross_entropy(part, target, label_smoothing))
        right.append(part.detach().max(-1).indices == target)  # on a CPU twice as fast as argmax
    if len(sizes) == 1:
        return losses[0], right[0].float()
    return torch.stack(losses).sum(0), torch.stack(right).all(0).float()


def _counts(schedule: str, progress: np.ndarray, num_tokens: int) -> np.ndarray:
    hidden_share = np.vectorize(SCHEDULES[schedule], otypes=[float])(progress, num_tokens)
    return np.clip(np.rint(hidden_share * num_tokens), 1, num_tokens).astype(np.int64)
