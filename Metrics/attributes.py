"""What pictures of drawn scenes have of their prompts, beside chance and beside what can be had.

The ceiling is the same reading of the prompts' true drawings, as the tokenizer draws them: a
generator of its tokens cannot do better. N pictures, B of a batch, H height, W width.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from MaskGIL.data.scenes import Scenes
from Metrics.intervals import interval_of_rate
from Metrics.prompt_score import Facts, read_facts, score_prompts
from Metrics.samples import BATCH


class Attribute(NamedTuple):
    """The rate of an attribute among the pictures whose prompts ask for it, and its interval.

    The interval is of pictures of different prompts: of several a prompt it is too narrow.
    `chance` is the mean over all ways of giving each picture the prompt of another, `shuffled` the
    rate in one of them; None where the ceiling was asked less than twice.
    """

    rate: float
    low: float
    high: float
    asked: int
    chance: float
    shuffled: float
    ceiling: float | None


def read_back(
    facts: Sequence[Facts], texts: Sequence[str], ceiling: Sequence[Facts]
) -> dict[str, Attribute]:
    """The attributes of N pictures with these facts and prompts, by name.

    `ceiling` are the facts of the true drawings of the first prompts. Each picture is shuffled by
    taking the prompt of the next one: prompts come in a random order.
    """
    found = score_prompts(facts, texts)
    shuffled = score_prompts(facts, [*texts[1:], *texts[:1]])
    best = score_prompts(ceiling, texts[: len(ceiling)])
    return {
        name: Attribute(
            score.right,
            *interval_of_rate(score.right, score.asked),
            score.asked,
            score.chance,
            shuffled[name].right,
            best[name].right if name in best else None,
        )
        for name, score in found.items()
    }


def facts_of(images: Tensor) -> list[Facts]:
    """What each of images (B, 3, H, W) uint8 has, by the oracle."""
    return read_facts(images.permute(0, 2, 3, 1).cpu())


class Drawings:
    """The true drawings of some rows (N,) of drawn scenes, in batches; `labels` (N,) are -1."""

    def __init__(self, scenes: Scenes, rows: NDArray[np.int64]) -> None:
        self._scenes, self._rows = scenes, rows
        self.labels = np.full(len(rows), -1)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Tensor]:
        """Images (B, 3, H, W) uint8."""
        for start in range(0, len(self), BATCH):
            rows = self._rows[start : start + BATCH].tolist()
            pixels = np.stack([np.asarray(self._scenes.image(row)) for row in rows])
            yield torch.from_numpy(pixels).permute(0, 3, 1, 2)
