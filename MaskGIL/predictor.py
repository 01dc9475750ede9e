"""Predictors: network, condition and guidance behind one call.

Condition and null condition are encoded once per image; a step runs both as one batch, or the
condition alone where the guidance scale is 1.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from MaskGIL.guidance import GUIDANCE, PartLogits, guide
from MaskGIL.sampling import SamplingConfig
from Network.condition import null_like
from Network.config import UserError
from Network.context import Context, KVCache
from Network.gpt import GPT


class GuidedPredictor:
    """Logits of a bidirectional network under guidance: any rows, for masked plans."""

    def __init__(self, network: GPT, labels: Tensor, sampling: SamplingConfig):
        """Labels (B,) int64, or shares of classes (B, num_classes + 1).

        Raises UserError for guidance that nobody knows.
        """
        self.network, self.labels = network, labels
        self.guidance, self.scale = _known(sampling.guidance), sampling.guidance_scale
        self.conditional = self.both = Context([], [])  # `start` encodes them

    def start(self, tokens: Tensor) -> None:
        """Encode the conditions of tokens (B, h, w)."""
        assert len(tokens) == len(self.labels)
        self.conditional = self.network.encode(self.labels)
        if self.scale != 1:
            null = null_like(self.labels, self.network.null_label)
            self.both = Context.cat([self.conditional, self.network.encode(null)])

    def __call__(self, tokens: Tensor, rows: Tensor, progress: float) -> Tensor | PartLogits:
        """Tokens (B, h, w) and rows (B, M) -> guided logits (B, M, V), or parts of them."""
        scale = self.guidance(self.scale, progress)
        if scale == 1:
            hidden = self.network.hidden(tokens, self.conditional, rows)
            return guided(self.network, [hidden], rows, scale)
        twice = torch.cat([tokens, tokens])
        hidden = self.network.hidden(twice, self.both, torch.cat([rows, rows]))
        return guided(self.network, hidden.chunk(2), rows, scale)


class CausalPredictor:
    """Logits of a causal network under guidance: row after row, for raster plans.

    What earlier rows have computed is kept. Both conditions are in one batch from the start,
    unless the scale is 1.
    """

    def __init__(self, network: GPT, labels: Tensor, sampling: SamplingConfig):
        """As `GuidedPredictor`."""
        self.network, self.labels = network, labels
        self.guidance, self.scale = _known(sampling.guidance), sampling.guidance_scale
        self.context, self.cache = Context([], []), KVCache(0)  # `start` makes them

    def start(self, tokens: Tensor) -> None:
        """Encode the conditions of tokens (B, h, w), none of which is seen yet."""
        assert len(tokens) == len(self.labels)
        conditions = [self.labels]
        if self.scale != 1:
            conditions.append(null_like(self.labels, self.network.null_label))
        self.context = self.network.encode(torch.cat(conditions), causal=True)
        self.cache = KVCache(tokens[0].numel())

    def __call__(self, tokens: Tensor, rows: Tensor, progress: float) -> Tensor | PartLogits:
        """Tokens (B, h, w) and the next rows (B, M) -> guided logits (B, 1, V) of the last one."""
        branches = 1 if self.scale == 1 else 2
        hidden = self.network.hidden(
            torch.cat([tokens] * branches),
            self.context,
            torch.cat([rows] * branches),
            causal=True,
            cache=self.cache,
        )[:, -1:]
        scale = self.guidance(self.scale, progress)
        return guided(self.network, hidden.chunk(branches), rows[:, -1:], scale)


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


def _known(guidance: str) -> Callable[[float, float], float]:
    if guidance not in GUIDANCE:
        raise UserError(f"Unknown guidance {guidance!r}. Known: {', '.join(GUIDANCE)}.")
    return GUIDANCE[guidance]
