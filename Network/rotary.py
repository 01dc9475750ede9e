"""Rotary positions: a table with one row per token, and the rotation itself.

A row holds (cos, sin) of an angle for every pair of channels; a zero row multiplies its token by
zero. Pairs are neighbours (2k, 2k + 1), as in LlamaGen, so its weights load without reordering.
Source: RoFormer (Su et al., 2021), axial in two dimensions as in LlamaGen.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

BASE = 10000.0


def as_trained(frequencies: Tensor, stretch: float) -> Tensor:
    """Positions go on as they begin: those beyond training turn further than it has shown."""
    return frequencies


def linear(frequencies: Tensor, stretch: float) -> Tensor:
    """Positions are divided by the stretch (position interpolation, Chen et al., 2023)."""
    return frequencies / stretch


def ntk(frequencies: Tensor, stretch: float) -> Tensor:
    """The base grows by stretch^(d / (d - 2)), d = 2 n: VisionNTK of FiT (Lu et al., 2024).

    So frequency i of n is divided by stretch^(i / (n - 1)): the fastest keeps its pace and tells
    neighbours apart as before, the slowest turns no further than it did in training.
    """
    return frequencies * stretch ** -torch.linspace(0, 1, len(frequencies))


# Frequencies (n,), the fastest first, of an axis `stretch` >= 1 times as long as in training
INTERPOLATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "none": as_trained,
    "linear": linear,
    "ntk": ntk,
}


def grid_angles(
    grid: tuple[int, int], head_dim: int, positions: str, longest: tuple[int, int], base: float
) -> Tensor:
    """Angles (h * w, head_dim / 2) of a grid in row-major order.

    The first half of the pairs turns with the row, the second half with the column:
    position * base^(-2 i / (head_dim / 2)) for i = 0 .. head_dim / 4 - 1. An axis beyond the
    `longest` of training has its frequencies by the row `positions` of INTERPOLATIONS.
    """
    half, (height, width) = head_dim // 2, grid
    frequencies = base ** (-torch.arange(0, half, 2, dtype=torch.float32) / half)
    by_row, by_column = (
        torch.arange(side).float()[:, None]
        * INTERPOLATIONS[positions](frequencies, max(1.0, side / trained))
        for side, trained in zip(grid, longest)
    )  # (h, D/4), (w, D/4)
    rows = by_row[:, None].expand(height, width, -1)
    columns = by_column[None].expand(height, width, -1)
    return torch.cat([rows, columns], -1).flatten(0, 1)  # (h w, D/2)


@torch.compiler.assume_constant_result  # else each compiled step would compute it anew
def rotary_table(
    height: int,
    width: int,
    head_dim: int,
    device: torch.device,
    positions: str = "none",
    longest: tuple[int, int] = (1, 1),
    base: float = BASE,
) -> Tensor:
    """Table (height * width, head_dim / 2, 2) of the image tokens on `device`.

    `longest` are the sides up to which nothing is interpolated, whatever `positions` says. Raises
    ValueError unless head_dim is a multiple of 4.
    """
    return _remembered_table((height, width), head_dim, device, positions, longest, base)


def condition_table(layout: str, num_tokens: int, head_dim: int, device: torch.device) -> Tensor:
    """Table (num_tokens, head_dim / 2, 2) of the condition tokens.

    `grid2d` leaves them at angle 0; `llamagen` multiplies their queries and keys by zero, a
    quirk that its published weights were trained with. For `published`, see `published_table`.
    """
    cosine = {"grid2d": 1.0, "llamagen": 0.0}[layout]
    cosines = torch.full((num_tokens, head_dim // 2), cosine, device=device)
    return torch.stack([cosines, torch.zeros_like(cosines)], -1)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def published_table(num_tokens: int, head_dim: int, device: torch.device) -> Tensor:
    """Table (num_tokens + 1, head_dim / 2, 2) of the published MaskGIL: one dimension.

    The class token stands last, but the zero row, which was meant for it, first: image token 0 is
    multiplied by zero, token i has the angle of position i - 1.
    """
    frequencies = BASE ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = torch.arange(num_tokens).float()[:, None] * frequencies  # (N, D/2)
    table = _waves(angles)
    return torch.cat([torch.zeros_like(table[:1]), table]).to(device)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate x (B, N, H, head_dim) by table (N, head_dim / 2, 2) or (B, N, head_dim / 2, 2).

    Computed in float32 or wider.
    """
    table = table.unsqueeze(-3)  # one row for all heads
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    pairs = x.unflatten(-1, (-1, 2))  # (B, N, H, D/2, 2)
    if torch.compiler.is_compiling():  # the compiler fuses real arithmetic, not complex
        real, imaginary = pairs.unbind(-1)
        cosine, sine = table.unbind(-1)
        turned = [real * cosine - imaginary * sine, real * sine + imaginary * cosine]
        return torch.stack(turned, -1).flatten(-2)
    turned = torch.view_as_complex(pairs) * torch.view_as_complex(table)  # one pass over memory
    return torch.view_as_real(turned).flatten(-2)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # a table remembered from inference must serve training too
def _remembered_table(
    grid: tuple[int, int],
    head_dim: int,
    device: torch.device,
    positions: str,
    longest: tuple[int, int],
    base: float,
) -> Tensor:
    if head_dim % 4:
        raise ValueError(f"head_dim must be a multiple of 4 for two dimensions, not {head_dim}")
    angles = grid_angles(grid, head_dim, positions, longest, base)
    return _waves(angles).to(device)


def _waves(angles: Tensor) -> Tensor:
    """Cosines and sines (..., 2) of angles (...)."""
    return torch.view_as_real(torch.polar(torch.ones_like(angles), angles))
