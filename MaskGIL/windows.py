"""A canvas larger than the grid of a network, filled outward from what is known in its middle.

The network sees its own grid of tokens alone, so learned positions fit too: windows of that size
move by half a side and so overlap with what is known by at least a half. Shapes: B images, h x w
tokens of the grid, H x W of the canvas.
"""

from collections.abc import Callable, Iterator
from itertools import count
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from MaskGIL.decoding import OnStep
from MaskGIL.noise import random_bits

# Partly hidden tokens (B, h, w), seeds (B,) and whom to tell of steps -> tokens (B, h, w)
Fill = Callable[[Tensor, Tensor, OnStep | None], Tensor]


class Margins(NamedTuple):
    """What a canvas has beyond the sides of its middle, in pixels or tokens."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0

    def pad(self, planes: Tensor, value: float) -> Tensor:
        """Planes (..., h, w) -> (..., top + h + bottom, left + w + right), `value` around them."""
        return F.pad(planes, self, value=value)


class Window(NamedTuple):
    """A part of the canvas: how many moves down and right of the middle, and its corner."""

    moves: tuple[int, int]
    row: int
    column: int


def fill_outward(
    tokens: Tensor,
    margins: Margins,
    seeds: Tensor,
    mask_id: int,
    fill: Fill,
    on_step: OnStep | None = None,
) -> Tensor:
    """Tokens (B, h, w) -> (B, H, W), those of the margins filled window by window.

    seeds (B,) int64: the noise of a window follows from seed and moves, not from the canvas.
    `on_step` sees the canvas behind each step; the steps of all windows are counted on.
    """
    height, width = tokens.shape[1:]
    canvas, steps = margins.pad(tokens, mask_id), count()
    confidence = margins.pad(torch.zeros_like(tokens, dtype=torch.float32), -torch.inf)
    for moves, row, column in windows((height, width), margins):
        place = (slice(None), slice(row, row + height), slice(column, column + width))
        view, known = canvas[place], confidence[place]
        hidden = view == mask_id
        if not hidden.any():
            continue

        def show(
            _: int, drawn: Tensor, sure: Tensor, view=view, known=known, hidden=hidden
        ) -> None:
            view.copy_(drawn)
            known.copy_(torch.where(hidden, sure, known))
            assert on_step
            on_step(next(steps), canvas.clone(), confidence.clone())

        noise = random_bits(seeds, "window", *moves)
        view.copy_(fill(view.clone(), noise, show if on_step else None))
    return canvas


def num_windows(grid: tuple[int, int], margins: Margins) -> int:
    """Of them so many have something to fill in: all but the middle."""
    return sum(1 for _ in windows(grid, margins)) - 1


def windows(grid: tuple[int, int], margins: Margins) -> Iterator[Window]:
    """Windows of a grid (h, w) that cover the canvas, those nearest to the middle first.

    So what is above, below or beside a window towards the middle is filled before it.
    """
    rows = _corners(grid[0], margins.top, margins.bottom)
    columns = _corners(grid[1], margins.left, margins.right)
    every = [(down, right) for down in rows for right in columns]
    for down, right in sorted(every, key=lambda moves: abs(moves[0]) + abs(moves[1])):
        yield Window((down, right), rows[down], columns[right])


def _corners(side: int, before: int, after: int) -> dict[int, int]:
    """{moves: corner} along one axis; the last move on either side is shorter where it must be."""
    move = max(1, side // 2)
    backward = {-n: max(0, before - n * move) for n in range(1, -(-before // move) + 1)}
    forward = {n: before + min(n * move, after) for n in range(1, -(-after // move) + 1)}
    return {0: before, **backward, **forward}
