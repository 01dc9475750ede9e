"""The predictor of masked decoding: network, condition and guidance behind one call.

Condition and null condition are encoded once per image; a step runs both as one batch, or the
condition alone where the guidance scale is 1.
"""

import torch
from torch import Tensor

from MaskGIL.guidance import GUIDANCE, guide
from Network.config import UserError
from Network.context import Context
from Network.gpt import GPT


class GuidedPredictor:
    """Logits of a bidirectional network under guidance."""

    def __init__(self, network: GPT, labels: Tensor, guidance: str, scale: float):
        """Labels (B,) int64; `guidance` a key of GUIDANCE; scale 1 switches it off.

        Raises UserError for another name.
        """
        if guidance not in GUIDANCE:
            raise UserError(f"Unknown guidance {guidance!r}. Known: {', '.join(GUIDANCE)}.")
        self.network, self.labels = network, labels
        self.guidance, self.scale = GUIDANCE[guidance], scale
        self.conditional = self.both = Context([], [])  # `start` encodes them

    def start(self, tokens: Tensor) -> None:
        """Encode the conditions of tokens (B, h, w)."""
        assert len(tokens) == len(self.labels)
        self.conditional = self.network.encode(self.labels)
        if self.scale != 1:
            null = torch.full_like(self.labels, self.network.null_label)
            self.both = Context.cat([self.conditional, self.network.encode(null)])

    def __call__(self, tokens: Tensor, rows: Tensor, progress: float) -> Tensor:
        """Tokens (B, h, w) and rows (B, M) -> guided logits (B, M, V)."""
        scale = self.guidance(self.scale, progress)
        if scale == 1:
            return self.network.head(self.network.hidden(tokens, self.conditional, rows))
        twice = torch.cat([tokens, tokens])
        hidden = self.network.hidden(twice, self.both, torch.cat([rows, rows]))
        conditional, null = hidden.chunk(2)
        if self.network.head_is_linear:  # then mixing before the head is the same, at half the cost
            return self.network.head(guide(conditional, null, scale))
        return guide(self.network.head(conditional), self.network.head(null), scale)
