"""How images came to be: the tokens behind every decoding step, and pictures of them.

Stands on the pipeline.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from MaskGIL.data.crops import to_uint8
from MaskGIL.durable import replace_file
from MaskGIL.pictures import grey_out
from MaskGIL.pipeline import Pipeline
from MaskGIL.predictor import Condition
from MaskGIL.prompting import Texts
from Network.condition import Captions

BATCH = 64


@dataclass(frozen=True)
class History:
    """The decoding of images (B, 3, H, W) uint8.

    tokens (steps, B, h, w) int32 are those behind each step, the mask token where they are hidden;
    confidence (B, h, w) is the log-probability that each of the last ones was drawn with.
    """

    images: Tensor
    tokens: Tensor
    confidence: Tensor

    def first(self, count: int) -> History:
        """That of the first images."""
        return History(self.images[:count], self.tokens[:, :count], self.confidence[:count])

    @staticmethod
    def cat(parts: Sequence[History]) -> History:
        """Join along the batch."""
        return History(
            torch.cat([part.images for part in parts]),
            torch.cat([part.tokens for part in parts], 1),
            torch.cat([part.confidence for part in parts]),
        )


def sample_history(
    pipe: Pipeline,
    condition: Tensor | Texts,
    seeds: Tensor,
    null: Texts | None = None,
    grid: tuple[int, int] | None = None,
) -> Iterator[History]:
    """Sample images of labels (B,) or texts and seeds (B,), and keep what each step had.

    In batches, in order. `null` and `grid` are those of `Pipeline.sample_tokens`.
    """
    for start in range(0, len(seeds), BATCH):
        rows = slice(start, start + BATCH)
        yield _sample(pipe, condition[rows], seeds[rows], null[rows] if null else None, grid)


def spread_steps(num_steps: int, most: int) -> list[int]:
    """At most so many of the steps, evenly spread; the last one is among them."""
    count = min(most, num_steps)
    return [(index + 1) * num_steps // count - 1 for index in range(count)]


def frames(pipe: Pipeline, history: History, steps: Sequence[int]) -> list[Tensor]:
    """Images (B, 3, H, W) uint8 as they stood behind each of `steps`, grey where hidden.

    The decoder sees the last tokens where a step has none, so a step that has no other ones shows
    parts of the last image. Other ones there are where tokens are hidden again.
    """
    return [_frame(pipe, history, step) for step in steps]


def write_tokens(path: Path, history: History, condition: Tensor | Texts, mask_id: int) -> None:
    """Write an npz of tokens (steps, B, h, w), confidence (B, h, w), and mask_id.

    Beside them what the images are of: labels (B,), or prompts (B,).
    """
    if isinstance(condition, Texts):
        named: dict[str, Any] = {"prompts": np.array(condition.texts)}
    else:
        named = {"labels": condition.cpu().numpy()}
    file = io.BytesIO()
    np.savez_compressed(
        file,
        tokens=history.tokens.cpu().numpy(),
        confidence=history.confidence.cpu().numpy(),
        mask_id=np.array(mask_id),
        **named,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, file.getvalue())


def _sample(
    pipe: Pipeline,
    condition: Condition,
    seeds: Tensor,
    null: Captions | None,
    grid: tuple[int, int] | None,
) -> History:
    steps: list[Tensor] = []
    confidences: list[Tensor] = []

    def on_step(step: int, tokens: Tensor, confidence: Tensor) -> None:
        steps.append(tokens.int())
        confidences[:] = [confidence]

    tokens = pipe.sample_tokens(condition, seeds, grid=grid, on_step=on_step, null=null)
    return History(to_uint8(pipe.pixels(tokens)), torch.stack(steps), confidences[-1])


def _frame(pipe: Pipeline, history: History, step: int) -> Tensor:
    last, now = history.tokens[-1], history.tokens[step]
    hidden = now == pipe.network.mask_id
    shown = torch.where(hidden, last, now)
    images, others = history.images.clone(), (shown != last).flatten(1).any(1)
    for some in others.nonzero()[:, 0].split(BATCH):
        images[some] = to_uint8(pipe.pixels(shown[some].long()))
    return grey_out(images, hidden)
