"""Decoding: one short loop reveals the hidden tokens of a grid, step by step of a plan.

Plans are made in `MaskGIL/plans.py`, a predictor turns tokens into logits
(`MaskGIL/predictor.py`). Shapes: B batch, N tokens, M rows, V codebook.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor

from MaskGIL.draw import draw_tokens, temperature_at
from MaskGIL.guidance import PartLogits
from MaskGIL.noise import uniform
from MaskGIL.orders import BLIND, hidden_again, hidden_first, most_confident
from MaskGIL.plans import Step
from MaskGIL.sampling import SamplingConfig

# Index of the step, tokens (B, h, w) behind it, and the log-probability (B, h, w) that each was
# drawn with: 0 for given ones, -inf for hidden ones.
OnStep = Callable[[int, Tensor, Tensor], None]


class Predictor(Protocol):
    """Turns a partly hidden grid into logits; owns network, condition and guidance."""

    def start(self, tokens: Tensor) -> None:
        """Prepare for decoding tokens (B, h, w)."""

    def __call__(self, tokens: Tensor, rows: Tensor, progress: float) -> Tensor | PartLogits:
        """Tokens (B, h, w) and rows (B, M) -> logits (B, M, V), or the same part by part.

        In raster order rows are those that follow the rows of the last call, up to the one which
        is drawn; that alone is answered, (B, 1, V).
        """
        ...


@torch.no_grad()
def decode(
    predictors: Predictor | Mapping[str, Predictor],
    tokens: Tensor,
    plan: Sequence[Step],
    seeds: Tensor,
    *,
    mask_id: int,
    sampling: SamplingConfig,
    on_step: OnStep | None = None,
) -> Tensor:
    """Reveal every hidden token of tokens (B, h, w) int64; given tokens never change.

    `predictors` are those of the kinds of steps that the plan has ("ar", "mar"), or one for all.
    Raster steps have each a position, given or not; masked steps are scaled to the number of
    tokens that an image has hidden when they begin. seeds (B,) int64: image b's noise depends on
    seeds[b], the step and the position alone.
    """
    if not isinstance(predictors, Mapping):
        predictors = dict.fromkeys(("ar", "mar"), predictors)
    num_ar = sum(step.kind == "ar" for step in plan)
    raster, masked = plan[:num_ar], plan[num_ar:]
    assert masked or num_ar == tokens[0].numel()
    canvas = _Canvas(tokens, seeds, mask_id, sampling)
    hidden = (canvas.tokens == mask_id).cpu()  # the only time that the device is waited for
    steps: list[Iterator[None]] = []
    if raster:
        steps.append(_one_by_one(canvas, predictors["ar"], raster, hidden))
    if masked:
        totals = hidden[:, num_ar:].sum(1).tolist()
        steps.append(_many_at_once(canvas, predictors["mar"], masked, totals, num_ar))
    for index, _ in enumerate(chain(*steps)):
        if on_step:
            on_step(index, canvas.grid, canvas.log_probability.view(tokens.shape))
    return canvas.grid


class _Canvas:
    """Tokens (B, N) as they stand, and the log-probability that each was drawn with."""

    def __init__(self, tokens: Tensor, seeds: Tensor, mask_id: int, sampling: SamplingConfig):
        self.shape, self.tokens = tokens.shape, tokens.flatten(1)
        self.seeds, self.mask_id, self.sampling = seeds, mask_id, sampling
        never = torch.full_like(self.tokens, -torch.inf, dtype=torch.float32)
        self.log_probability = torch.where(self.tokens == mask_id, never, 0.0)

    @property
    def grid(self) -> Tensor:
        """The tokens (B, h, w)."""
        return self.tokens.view(self.shape)

    @property
    def hidden(self) -> Tensor:
        """Where nothing is revealed yet: (B, h, w)."""
        return self.grid == self.mask_id

    def draw(
        self, logits: Tensor | PartLogits, index: int, progress: float, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Tokens (B, M) of rows (B, M), not yet written, and their log-probabilities.

        Every part of a token has noise of its own.
        """
        parts = range(len(logits.sizes)) if isinstance(logits, PartLogits) else [0]
        places = [rows + part * self.tokens.shape[1] for part in parts]
        noise = [uniform(self.seeds[:, None], "token", index, place) for place in places]
        return draw_tokens(logits, noise, self.sampling, temperature_at(self.sampling, progress))

    def write(self, rows: Tensor, counts: Tensor, tokens: Tensor, log_probability: Tensor) -> None:
        """Put tokens (B, M) into the first counts (B,) of rows (B, M), none of which comes twice.

        Into new tensors: whoever follows the steps may keep those of earlier ones.
        """
        chosen = torch.arange(rows.shape[1], device=rows.device) < counts[:, None]
        kept, known = self.tokens.gather(1, rows), self.log_probability.gather(1, rows)
        self.tokens = self.tokens.scatter(1, rows, torch.where(chosen, tokens, kept))
        self.log_probability = self.log_probability.scatter(
            1, rows, torch.where(chosen, log_probability, known)
        )

    def hide(self, rows: Tensor, counts: Tensor) -> None:
        """Forget the tokens in the first counts (B,) of rows (B, M)."""
        never = torch.full_like(rows, -torch.inf, dtype=torch.float32)
        self.write(rows, counts, torch.full_like(rows, self.mask_id), never)


def _one_by_one(
    canvas: _Canvas, predictor: Predictor, steps: Sequence[Step], hidden: Tensor
) -> Iterator[None]:
    """Fill in the first positions in raster order; hidden (B, N) is on the CPU."""
    predictor.start(canvas.grid)
    places = torch.arange(len(steps), device=canvas.tokens.device).expand(len(hidden), -1)
    wanted, asked = hidden.any(0).tolist(), 0
    for index, step in enumerate(steps):
        if wanted[index]:
            logits = predictor(canvas.grid, places[:, asked : index + 1], step.progress)
            asked, row = index + 1, places[:, index : index + 1]
            counts = canvas.hidden.flatten(1)[:, index].long()  # 1 or, if the token is given, 0
            canvas.write(row, counts, *canvas.draw(logits, index, step.progress, row))
        yield


def _many_at_once(
    canvas: _Canvas, predictor: Predictor, steps: Sequence[Step], totals: list[int], first: int
) -> Iterator[None]:
    """Fill in what is hidden, totals[b] tokens of image b; the steps count from `first`."""
    predictor.start(canvas.grid)
    sampling, unknown = canvas.sampling, canvas.hidden
    table = torch.tensor([_amounts(total, steps, sampling.remask) for total in totals])
    most = table.amax(0).tolist()  # in any image: plain numbers, for which no device is waited
    table = table.to(canvas.tokens.device)  # (B, steps, 3)
    for place, step in enumerate(steps):
        index, (num_hidden, num_new, num_again) = first + place, most[place]
        if num_new:
            drawn = _drawn(canvas, predictor, step, index, num_hidden, num_new)
            decoded, known = unknown & ~canvas.hidden, canvas.log_probability
            canvas.write(drawn[0], table[:, place, 1], *drawn[1:])
            if num_again:
                again = hidden_again(
                    decoded, num_again, canvas.seeds, index, known, sampling.remask_by
                )
                canvas.hide(again, table[:, place, 2])
        yield


def _drawn(
    canvas: _Canvas, predictor: Predictor, step: Step, index: int, num_hidden: int, num_new: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, their tokens and log-probabilities, (B, num_new) each: those to be revealed first."""
    hidden, seeds = canvas.hidden, canvas.seeds
    if blind := BLIND.get(step.order):
        rows = blind(hidden, num_new, seeds, index)
        logits = predictor(canvas.grid, rows, step.progress)
        return rows, *canvas.draw(logits, index, step.progress, rows)
    rows = hidden_first(hidden, num_hidden)
    logits = predictor(canvas.grid, rows, step.progress)
    tokens, log_probability = canvas.draw(logits, index, step.progress, rows)
    noise = canvas.sampling.noise * (1 - step.progress)
    best = most_confident(hidden, num_new, seeds, index, rows, log_probability, noise)
    return rows.gather(1, best), tokens.gather(1, best), log_probability.gather(1, best)


def _amounts(total: int, steps: Sequence[Step], remask: float) -> list[tuple[int, int, int]]:
    """Of an image that has `total` tokens hidden: hidden before each step, revealed, hidden again.

    The plan is scaled to `total`, rounded. Of the tokens decoded so far a step hides the share
    `remask` again, but no more than are left hidden behind it: ReMDM's cap on its probability
    (Wang et al., 2025, arXiv 2503.00307), in counts. It reveals as many more.
    """
    planned, revealed, hidden = sum(step.count for step in steps), 0, total
    amounts: list[tuple[int, int, int]] = []
    for step in steps:
        revealed += step.count
        left = total - (2 * total * revealed + planned) // (2 * planned)
        again = min(round(remask * (total - hidden)), left)
        amounts.append((hidden, hidden - left + again, again))
        hidden = left
    return amounts
