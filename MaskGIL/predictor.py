"""Predictors: network, condition and guidance behind one call.

Condition and null condition are encoded once per image; a step runs both, as one batch or one
after the other, or the condition alone where the guidance scale is 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from MaskGIL.guidance import PartLogits, guide, scale_at
from MaskGIL.sampling import SamplingConfig
from Network.condition import Captions, cut_padding
from Network.context import Context, KVCache
from Network.gpt import GPT

Condition = Tensor | Captions


class GuidedPredictor:
    """Logits of a bidirectional network under guidance: any rows, for masked plans."""

    def __init__(
        self,
        network: GPT,
        condition: Condition,
        sampling: SamplingConfig,
        null: Condition | None = None,
    ):
        """Labels (B,) int64, shares of classes (B, num_classes + 1), or captions of B images.

        `null` is what guidance leads away from, None for the null condition of the network.
        """
        self.network, self.sampling = network, sampling
        self.condition, self.null_condition = conditions(network, condition, null)
        self.conditional = Context()  # `start` encodes the conditions
        self.both: list[Context] = []  # passes of a guided step: condition, then null condition

    def start(self, tokens: Tensor) -> None:
        """Encode the conditions of tokens (B, h, w)."""
        assert len(tokens) == len(self.condition)
        self.conditional = placed(self.network.encode(self.condition), self.sampling)
        if self.sampling.guidance_scale != 1:
            null = placed(self.network.encode(self.null_condition), self.sampling)
            self.both = [self.conditional, null]
            if not self.sampling.two_passes:
                self.both = [Context.cat(self.both)]

    def __call__(self, tokens: Tensor, rows: Tensor, progress: float) -> Tensor | PartLogits:
        """Tokens (B, h, w) and rows (B, M) -> guided logits (B, M, V), or parts of them."""
        scale = scale_at(self.sampling, progress)
        branches = 1 if scale == 1 else 2
        passes = [self.conditional] if scale == 1 else self.both
        times = branches // len(passes)
        tokens, wanted = torch.cat([tokens] * times), torch.cat([rows] * times)
        hidden = [self.network.hidden(tokens, context, wanted) for context in passes]
        return guided(self.network, torch.cat(hidden).chunk(branches), rows, scale)


@dataclass
class Branch:
    """A condition, or both in one batch, and what a causal network keeps of tokens under it."""

    context: Context
    cache: KVCache
    conditions: int = 1

    def advance(self, network: GPT, tokens: Tensor, asked: int) -> Tensor:
        """Tokens (B, h, w) -> the hidden states (conditions x B, 1, D) of row `asked` - 1.

        In one forward over all tokens before it that this branch has not seen yet.
        """
        places = torch.arange(self.cache.rows, asked, device=tokens.device)
        tokens = torch.cat([tokens] * self.conditions)
        rows = places.expand(len(tokens), -1)
        return network.hidden(tokens, self.context, rows, causal=True, cache=self.cache)[:, -1:]


class CausalPredictor:
    """Logits of a causal network under guidance: row after row, for raster plans.

    What earlier rows have computed is kept. The null condition joins when the guidance interval
    opens, in one forward over all tokens so far, and is dropped when it closes.
    """

    def __init__(
        self,
        network: GPT,
        condition: Condition,
        sampling: SamplingConfig,
        null: Condition | None = None,
    ):
        """As `GuidedPredictor`."""
        self.network, self.sampling = network, sampling
        self.condition, self.null_condition = conditions(network, condition, null)
        self.conditional = self.null = Context()  # `start` encodes them
        self.branches: list[Branch] = []
        self.num_tokens = self.asked = 0

    def start(self, tokens: Tensor) -> None:
        """Encode the conditions of tokens (B, h, w), none of which is seen yet."""
        assert len(tokens) == len(self.condition)
        self.num_tokens, self.asked = tokens[0].numel(), 0
        encoded = self.network.encode(self.condition, causal=True)
        self.conditional = placed(encoded, self.sampling)
        self.branches = [Branch(self.conditional, KVCache(self.num_tokens))]
        if self.sampling.guidance_scale != 1:
            encoded = self.network.encode(self.null_condition, causal=True)
            self.null = placed(encoded, self.sampling)

    def __call__(self, tokens: Tensor, rows: Tensor, progress: float) -> Tensor | PartLogits:
        """Tokens (B, h, w) and the next rows (B, M) -> guided logits (B, 1, V) of the last one."""
        scale = scale_at(self.sampling, progress)
        self._drop_null() if scale == 1 else self._join_null()
        self.asked += rows.shape[1]
        hidden = [branch.advance(self.network, tokens, self.asked) for branch in self.branches]
        states = torch.cat(hidden).chunk(1 if scale == 1 else 2)
        return guided(self.network, states, rows[:, -1:], scale)

    def _join_null(self) -> None:
        """Add the null branch; make it one batch with the other as soon as it has caught up."""
        first = self.branches[0]
        if first.conditions == 2:
            return
        if len(self.branches) == 1:
            self.branches.append(Branch(self.null, KVCache(self.num_tokens)))
        caches = [branch.cache for branch in self.branches]
        if caches[0].rows == caches[1].rows and not self.sampling.two_passes:
            both = Context.cat([self.conditional, self.null])
            self.branches = [Branch(both, KVCache.cat(caches), conditions=2)]

    def _drop_null(self) -> None:
        first = self.branches[0]
        if first.conditions == 2:
            first = Branch(self.conditional, first.cache.first(len(self.condition)))
        self.branches = [first]


def placed(context: Context, sampling: SamplingConfig) -> Context:
    """The context for image tokens at the positions that the sampler asks for."""
    return replace(context, positions=sampling.positions)


def conditions(
    network: GPT, condition: Condition, null: Condition | None
) -> tuple[Condition, Condition]:
    """The condition and what guidance leads away from, of captions without common padding."""
    null = network.condition.without(condition) if null is None else null
    if isinstance(condition, Captions) and isinstance(null, Captions):
        return cut_padding(condition, null)
    return condition, null


PREDICTORS = {"mar": GuidedPredictor, "ar": CausalPredictor}  # by plan


def guided(
    network: GPT, hidden: Sequence[Tensor], rows: Tensor, scale: float
) -> Tensor | PartLogits:
    """Logits (B, M, V) of hidden states (B, M, D) at rows (B, M), or parts of them.

    `hidden` are those under the condition and, unless the scale is 1, under the null condition.
    """
    if len(network.config.part_sizes) > 1:
        return PartLogits(network.output, hidden, scale)
    if len(hidden) == 1:
        return network.head(hidden[0], rows)
    conditional, null = hidden
    if network.head_is_linear:  # then mixing before the head is the same, at half the cost
        return network.head(guide(conditional, null, scale), rows)
    return guide(network.head(conditional, rows), network.head(null, rows), scale)
