"""Orders: which hidden positions a masked step reveals first.

A blind order knows the positions before a token is drawn, so the network is asked for those alone;
by confidence every hidden one is drawn, and the likeliest stay. A tie is broken by noise of its own
or by the position, never by the device. Shapes: B batch, N tokens, M rows.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from MaskGIL.noise import uniform

Blind = Callable[[Tensor, int, Tensor, int], Tensor]


def hidden_first(hidden: Tensor, count: int) -> Tensor:
    """Positions (B, count) of hidden (B, h, w): the hidden ones in raster order, then others."""
    return _highest(hidden.flatten(1).to(torch.uint8), count)


def most_confident(
    hidden: Tensor,
    count: int,
    seeds: Tensor,
    index: int,
    rows: Tensor,
    log_probability: Tensor,
    noise: float,
) -> Tensor:
    """Which columns (B, count) of rows (B, M) have the likeliest drawn tokens, hidden ones first.

    By their log p (B, M) plus `noise` times Gumbel noise (MaskGIT, Chang et al., 2022).
    """
    score = log_probability + noise * _gumbel(seeds, "confidence", index, rows)
    return _highest(score.masked_fill(~hidden.flatten(1).gather(1, rows), -torch.inf), count)


def hidden_again(
    decoded: Tensor, count: int, seeds: Tensor, index: int, log_probability: Tensor, by: str
) -> Tensor:
    """Which positions (B, count) of decoded (B, h, w) a step hides again, those at first.

    Drawn without replacement, each with a weight: the same for all, or by confidence exp(-p), where
    log p (B, N) is that at which a token was drawn (ReMDM-conf, Wang et al., 2025).
    """
    place = torch.arange(log_probability.shape[1], device=decoded.device)
    score = REMASK[by](log_probability) + _gumbel(seeds, "remask", index, place)
    return _highest(score.masked_fill(~decoded.flatten(1), -torch.inf), count)


def _random(hidden: Tensor, count: int, seeds: Tensor, index: int) -> Tensor:
    """Every hidden position alike."""
    return _highest(_ties(hidden, seeds, index).masked_fill(~hidden.flatten(1), -1), count)


def _halton(hidden: Tensor, count: int, seeds: Tensor, index: int) -> Tensor:
    """Spread over the grid (Halton-MaskGIT, Besnier et al., 2025).

    Every image begins at a place of the sequence of its own, as theirs do: else all images would
    have the same few positions drawn first, each time without any neighbour.
    """
    num_tokens = hidden[0].numel()
    ranks = _halton_ranks(hidden.shape[1], hidden.shape[2], hidden.device)
    start = (uniform(seeds, "decoding order", 0, 0) * num_tokens).long()
    left = num_tokens - (ranks - start[:, None]) % num_tokens  # (B, N), at least 1
    return _highest(left.masked_fill(~hidden.flatten(1), 0), count)


def _local(hidden: Tensor, count: int, seeds: Tensor, index: int) -> Tensor:
    """Near known positions, and apart from each other.

    Locality-aware parallel decoding (Zhang et al., 2025, arXiv 2507.01957), with its thresholds:
    one position after the other, that with most known neighbours (weighted by 1 / distance, at
    least 1 together) which touches none of this step; if there is none, that farthest from those
    of this step. Chance decides between equals.
    """
    height, width = hidden.shape[1:]
    farthest = height**2 + width**2  # more than any squared distance
    place = torch.arange(height * width, device=hidden.device)
    known, ties = _known_neighbours(hidden), _ties(hidden, seeds, index)
    near = known >= 1
    eager = farthest + 1 + 10 * known + ties  # unequal sums differ by 0.12 at least
    distance = torch.full_like(known, farthest)  # squared, to the nearest one of this step
    barred = (~hidden).flatten(1).float()  # 0 if hidden, 1 if known, 2 once taken
    chosen = []
    for _ in range(count):
        score = torch.where(near & (distance > 2), eager, distance + ties)
        chosen.append(torch.where(barred > 0, -barred, score).argmax(1, keepdim=True))  # (B, 1)
        barred = barred.scatter(1, chosen[-1], 2.0)
        down, right = place // width - chosen[-1] // width, place % width - chosen[-1] % width
        distance = torch.minimum(distance, (down**2 + right**2).float())
    return torch.cat(chosen, 1)


REMASK: dict[str, Callable[[Tensor], Tensor]] = {  # logarithms of the weights
    "random": torch.zeros_like,
    "confidence": lambda log_probability: -log_probability.exp(),
}

# Hidden (B, h, w), count, seeds (B,) and the step -> rows (B, count), the first ones first. Where
# fewer are hidden, others follow; no position comes twice.
BLIND: dict[str, Blind] = {"random": _random, "halton": _halton, "local": _local}
ORDERS = ("confidence", *BLIND)


@lru_cache
def halton_order(height: int, width: int) -> tuple[int, ...]:
    """Positions of a grid in the order in which a Halton sequence first meets them.

    Rows follow base 2, columns base 3, from the point (1/2, 1/3) on, until all are met.
    """
    order: dict[int, None] = {}
    point = 0
    while len(order) < height * width:
        point += 1
        order.setdefault(_cell(point, 2, height) * width + _cell(point, 3, width))
    return tuple(order)


def _cell(point: int, base: int, cells: int) -> int:
    """In which of `cells` equal parts of [0, 1) the radical inverse of `point` lies."""
    inverse, scale = 0, 1
    while point:
        point, digit = divmod(point, base)
        inverse, scale = inverse * base + digit, scale * base
    return inverse * cells // scale


@lru_cache
def _halton_ranks(height: int, width: int, device: torch.device) -> Tensor:
    """When each position has its turn: (N,). It stays on the device: no step waits for a copy."""
    return torch.tensor(halton_order(height, width), device=device).argsort()


def _known_neighbours(hidden: Tensor) -> Tensor:
    """Of hidden (B, h, w): known ones of the eight around, each 1 / its distance, (B, N)."""
    height, width = hidden.shape[1:]
    known = F.pad((~hidden).float(), (1, 1, 1, 1))
    total = torch.zeros_like(known[:, 1:-1, 1:-1])
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            if down or right:
                shifted = known[:, 1 + down :, 1 + right :][:, :height, :width]
                total = total + shifted / math.hypot(down, right)
    return total.flatten(1)


def _gumbel(seeds: Tensor, stream: str, index: int, rows: Tensor) -> Tensor:
    """Gumbel noise of rows (B, M) or (N,).

    The k largest of log weights plus it are k drawn without replacement, each by its weight
    (Plackett-Luce; Yellott, 1977).
    """
    return -torch.log(-torch.log(uniform(seeds[:, None], stream, index, rows)))


def _ties(hidden: Tensor, seeds: Tensor, index: int) -> Tensor:
    place = torch.arange(hidden[0].numel(), device=hidden.device)
    return uniform(seeds[:, None], "decoding order", index, place)


def _highest(scores: Tensor, count: int) -> Tensor:
    """Where scores (B, N) are highest: (B, count); of equal ones the first."""
    return scores.argsort(dim=1, descending=True, stable=True)[:, :count]
