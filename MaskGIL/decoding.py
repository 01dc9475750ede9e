"""Decoding: a plan says how many tokens each step reveals, one short loop reveals them.

Masked plans (MAR) reveal many tokens a step, a raster plan (AR) one, in raster order. A predictor
turns tokens into logits (`MaskGIL/predictor.py`). Shapes: B batch, N tokens, M rows still hidden,
V codebook.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from MaskGIL.draw import draw_tokens, temperature_at
from MaskGIL.guidance import PartLogits
from MaskGIL.masking import SCHEDULES
from MaskGIL.noise import uniform
from MaskGIL.sampling import SamplingConfig
from Network.config import UserError


@dataclass(frozen=True)
class Step:
    """One decoding step: how many of the plan's tokens it reveals, and which first."""

    count: int
    progress: float  # 0 at the first step, 1 at the last
    order: str


# What a network was trained for -> the plans that it answers to, the best one first
OBJECTIVES = {"mar": ("mar",), "ar": ("ar",), "both": ("mar", "ar")}
RASTER = "raster"  # the order of a raster plan, which has a loop of its own


class Predictor(Protocol):
    """Turns a partly hidden grid into logits; owns network, condition and guidance."""

    def start(self, tokens: Tensor) -> None:
        """Prepare for decoding tokens (B, h, w)."""

    def __call__(self, tokens: Tensor, rows: Tensor, progress: float) -> Tensor | PartLogits:
        """Tokens (B, h, w) and rows (B, M) -> logits (B, M, V), or the same part by part.

        In a raster plan rows are those that follow the rows of the last call, up to the one which
        is drawn; that alone is answered, (B, 1, V).
        """
        ...


def mar_plan(
    num_tokens: int, num_steps: int, schedule: str = "arccos", order: str = "confidence"
) -> list[Step]:
    """Reveal `num_tokens` in `num_steps` along a schedule; each step at least one token.

    Behind step i the hidden share is schedule((i + 1) / num_steps), as in MaskGIT (Chang et al.,
    2022). Raises UserError unless 1 <= num_steps <= num_tokens, and for an unknown name.
    """
    _check_plan(num_tokens, num_steps, schedule, order)
    steps, revealed = [], 0
    for index in range(num_steps):
        hidden_share = SCHEDULES[schedule]((index + 1) / num_steps, num_tokens)
        target = round(num_tokens * (1 - hidden_share))
        target = min(max(target, revealed + 1), num_tokens - (num_steps - 1 - index))
        progress = index / (num_steps - 1) if num_steps > 1 else 1.0
        steps.append(Step(target - revealed, progress, order))
        revealed = target
    return steps


def ar_plan(num_tokens: int) -> list[Step]:
    """Reveal `num_tokens` one after the other in raster order, as LlamaGen does."""
    last = max(1, num_tokens - 1)
    return [Step(1, index / last, RASTER) for index in range(num_tokens)]


def plan_kind(objective: str, plan: str) -> str:
    """ "mar" or "ar": what `plan` means for weights of an objective.

    Raises UserError if they have not learned it.
    """
    known = OBJECTIVES[objective]
    if plan not in ("auto", *known):
        raise UserError(
            f"plan={plan} asks for what these weights have not learned: they were trained with "
            f"objective={objective}; use plan={known[0]} or plan=auto."
        )
    return known[0] if plan == "auto" else plan


def make_plan(num_tokens: int, sampling: SamplingConfig, objective: str = "mar") -> list[Step]:
    """The plan of `sampling` for weights of an objective. Raises UserError as its maker does."""
    if plan_kind(objective, sampling.plan) == "ar":
        return ar_plan(num_tokens)
    return mar_plan(num_tokens, sampling.num_steps, sampling.schedule, sampling.order)


@torch.no_grad()
def decode(
    predictor: Predictor,
    tokens: Tensor,
    plan: Sequence[Step],
    seeds: Tensor,
    *,
    mask_id: int,
    sampling: SamplingConfig,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Reveal every hidden token of tokens (B, h, w) int64; given tokens never change.

    A masked plan is scaled to the number of hidden tokens of each image; a raster plan has a step
    for every token, given or not. seeds (B,) int64: image b's noise depends on seeds[b], the step
    and the position alone. `on_step(index, tokens)` follows.
    """
    predictor.start(tokens)
    in_order = bool(plan) and plan[0].order == RASTER
    assert not in_order or len(plan) == tokens[0].numel()
    loop = _one_by_one if in_order else _by_score
    revealed = tokens
    for index, flat in enumerate(loop(predictor, tokens, plan, seeds, mask_id, sampling)):
        revealed = flat.view(tokens.shape)
        if on_step:
            on_step(index, revealed)
    return revealed


def _by_score(
    predictor: Predictor,
    tokens: Tensor,
    plan: Sequence[Step],
    seeds: Tensor,
    mask_id: int,
    sampling: SamplingConfig,
) -> Iterator[Tensor]:
    """Tokens (B, N) behind each step of a masked plan."""
    shape, tokens = tokens.shape, tokens.flatten(1).clone()
    totals = (tokens == mask_id).sum(1)  # (B,)
    amounts = set(totals.tolist())  # the only time that the device is waited for
    most, planned, revealed = max(amounts), sum(step.count for step in plan), 0
    for index, step in enumerate(plan):
        before, revealed = revealed, revealed + step.count
        if any(_share(n, revealed, planned) > _share(n, before, planned) for n in amounts):
            hidden, left = tokens == mask_id, most - _share(most, before, planned)
            rows = hidden.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :left]
            logits = predictor(tokens.view(shape), rows, step.progress)
            drawn, log_probability = _draw(
                logits, seeds, index, step, rows, tokens.shape[1], sampling
            )
            score = ORDERS[step.order](log_probability, seeds, index, rows, step, sampling)
            score = score.masked_fill(~hidden.gather(1, rows), -torch.inf)
            counts = hidden.sum(1) - totals + _share(totals, revealed, planned)
            ranks = score.argsort(dim=1, descending=True, stable=True).argsort(1)
            chosen = ranks < counts[:, None]  # (B, M)
            # A new tensor: `on_step` may keep those of earlier steps
            tokens = tokens.scatter(1, rows, torch.where(chosen, drawn, tokens.gather(1, rows)))
        yield tokens


def _one_by_one(
    predictor: Predictor,
    tokens: Tensor,
    plan: Sequence[Step],
    seeds: Tensor,
    mask_id: int,
    sampling: SamplingConfig,
) -> Iterator[Tensor]:
    """Tokens (B, N) behind each step of a raster plan. Positions are plain numbers all along."""
    shape, tokens = tokens.shape, tokens.flatten(1).clone()
    places = torch.arange(len(plan), device=tokens.device).expand_as(tokens)
    hidden = tokens == mask_id
    wanted = set(hidden.any(0).nonzero()[:, 0].tolist())  # the only time that the device is waited
    asked = 0
    for index, step in enumerate(plan):
        if index in wanted:
            logits = predictor(tokens.view(shape), places[:, asked : index + 1], step.progress)
            asked, row = index + 1, slice(index, index + 1)
            drawn, _ = _draw(logits, seeds, index, step, places[:, row], len(plan), sampling)
            tokens = tokens.clone()  # `on_step` may keep those of earlier steps
            tokens[:, row] = torch.where(hidden[:, row], drawn, tokens[:, row])
        yield tokens


def _draw(
    logits: Tensor | PartLogits,
    seeds: Tensor,
    index: int,
    step: Step,
    rows: Tensor,
    num_tokens: int,
    sampling: SamplingConfig,
) -> tuple[Tensor, Tensor]:
    """Tokens (B, M) of rows (B, M) and their log-probabilities; every part has its own noise."""
    parts = range(len(logits.sizes)) if isinstance(logits, PartLogits) else [0]
    noise = [uniform(seeds[:, None], "token", index, rows + part * num_tokens) for part in parts]
    return draw_tokens(logits, noise, sampling, temperature_at(sampling, step.progress))


def _confidence(log_probability, seeds, index, rows, step, sampling):
    """MaskGIT: log p of the drawn token plus Gumbel noise, annealed to none."""
    noise = uniform(seeds[:, None], "confidence", index, rows)
    gumbel = -torch.log(-torch.log(noise))
    return log_probability + sampling.noise * (1 - step.progress) * gumbel


def _random(log_probability, seeds, index, rows, step, sampling):
    """Every hidden position alike."""
    return uniform(seeds[:, None], "decoding order", index, rows)


# Which hidden positions a step reveals first: the highest scores (B, M).
ORDERS = {"confidence": _confidence, "random": _random}


def _share(total, revealed: int, planned: int):
    """Tokens of `total` (a number or (B,)) revealed when `revealed` of `planned` are: rounded."""
    return (2 * total * revealed + planned) // (2 * planned)


def _check_plan(num_tokens: int, num_steps: int, schedule: str, order: str) -> None:
    if not 1 <= num_steps <= num_tokens:
        raise UserError(
            f"num_steps={num_steps} must lie between 1 and the number of tokens, {num_tokens}."
        )
    for key, name, table in (("schedule", schedule, SCHEDULES), ("order", order, ORDERS)):
        if name not in table:
            raise UserError(f"Unknown {key} {name!r}. Known: {', '.join(table)}.")
