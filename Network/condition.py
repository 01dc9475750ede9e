"""What an image is conditioned on, as tokens: a class label, the features of a caption, or nothing.

The null condition, which classifier-free guidance needs, is one more row of the table of classes,
the mask token, or features of its own.
Shapes: B batch, P condition tokens, C width of features, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from Network.config import CAPTION_TOKENS, NetworkConfig, UserError
from Network.whitening import Whitening


@dataclass(frozen=True)
class Captions:
    """What a text encoder makes of captions: features (B, P, C), padded in front.

    `mask` (B, P) is True where there is padding, which is hidden from all; None: there is none.
    `dropped` (B,) is True where each network puts its null caption, behind the mask that is there;
    None: nowhere.
    """

    features: Tensor
    mask: Tensor | None = None
    dropped: Tensor | None = None

    @classmethod
    def padded(cls, features: Sequence[Tensor], num_tokens: int) -> "Captions":
        """Features (n, C) of each caption, with zeros in front of them up to P = `num_tokens`."""
        lengths = torch.tensor([len(each) for each in features], device=features[0].device)
        mask = torch.arange(num_tokens, device=lengths.device) < num_tokens - lengths[:, None]
        rows = [F.pad(each, (0, 0, num_tokens - len(each), 0)) for each in features]  # (P, C)
        return cls(torch.stack(rows), mask)

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: slice | Tensor) -> "Captions":
        """Those of some images."""
        return self._each(lambda tensor: tensor[rows])

    def to(self, device: torch.device | str) -> "Captions":
        """The same on another device."""
        return self._each(lambda tensor: tensor.to(device))

    @property
    def seen(self) -> Tensor | None:
        """Where attention may look, (B, 1, 1, P) for all heads and queries; None: everywhere."""
        return None if self.mask is None else ~self.mask[:, None, None]

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Captions":
        beside = (each if each is None else change(each) for each in (self.mask, self.dropped))
        return Captions(change(self.features), *beside)


def cut_padding(one: Captions, other: Captions) -> tuple[Captions, Captions]:
    """Both without the padding that all their captions have in front, which nobody sees.

    What a network makes of them stays the same but for rounding, at less cost. Waits for the
    device.
    """
    if one.mask is None or other.mask is None:
        return one, other
    is_padding = torch.cat([one.mask, other.mask]).all(0)  # (P,)
    first = min(int(is_padding.sum()), len(is_padding) - 1)
    one = replace(one, features=one.features[:, first:], mask=one.mask[:, first:])
    return one, replace(other, features=other.features[:, first:], mask=other.mask[:, first:])


class ClassCondition(nn.Module):
    """Labels -> one condition token each. Label `num_classes` is the null condition.

    With `num_classes` 0 the only label is the null one, and the network is unconditional. Where the
    table has no `null_row`, something else stands for it.
    """

    num_tokens = 1

    def __init__(self, num_classes: int, width: int, null_row: bool = True):
        super().__init__()
        self.null = num_classes  # the label of the null condition
        self.table = nn.Embedding(num_classes + null_row, width)

    def forward(self, labels: Tensor, null: Tensor | None = None) -> Tensor:
        """Labels (B,) int64 in [0, num_classes] -> tokens (B, 1, D).

        Or shares (B, num_classes + 1), floating: then a token is the mixture of the rows. `null`
        (1, D) is the row of the null condition, if the table has none.
        """
        rows = self.table.weight if null is None else torch.cat([self.table.weight, null])
        if not labels.is_floating_point():
            return F.embedding(labels, rows)[:, None]
        with torch.autocast(rows.device.type, enabled=False):  # a share of 1 is the row itself
            return (labels.to(rows.dtype) @ rows)[:, None]

    def without(self, labels: Tensor | Captions) -> Tensor:
        """The null label (B,) in the place of each of labels (B,), or of shares of classes."""
        return torch.full((len(labels),), self.null, device=self.table.weight.device)

    def is_null(self, labels: Tensor | Captions) -> bool:
        """Whether all of labels (B,) are the null one; shares of classes are not. Waits."""
        assert isinstance(labels, Tensor)
        return not labels.is_floating_point() and bool((labels == self.null).all())


class CaptionCondition(nn.Module):
    """Features of captions -> as many condition tokens (LlamaGen): two layers with tanh GELU.

    The features of the null caption are learned by nobody: those of the public weights are kept.
    With `places` a learned embedding of each place in the caption is added (Gehring et al., 2017).
    With `whitening` features are made white first.
    """

    null = 0  # there are no classes: no label but the null one, which stands for no caption

    def __init__(
        self,
        caption_width: int,
        width: int,
        num_tokens: int = CAPTION_TOKENS,
        places: bool = False,
        whitening: bool = False,
    ):
        super().__init__()
        self.num_tokens = num_tokens  # P
        self.up = nn.Linear(caption_width, width, bias=False)
        self.down = nn.Linear(width, width, bias=False)
        null = torch.randn(num_tokens, caption_width) / caption_width**0.5
        self.register_buffer("null_features", null)
        self.null_features: Tensor
        self.place_embedding = nn.Embedding(num_tokens, width) if places else None
        self.whitening = Whitening(caption_width) if whitening else None

    def forward(self, captions: Captions) -> Tensor:
        """Captions of features (B, P, C) -> tokens (B, P, D). Raises UserError for labels."""
        _require_captions(captions)
        features = captions.features.to(self.up.weight.dtype)  # cached ones are bf16
        if self.whitening is not None:
            features = self.whitening(features)
        if captions.dropped is not None:
            null = self.null_features[self.num_tokens - features.shape[1] :].to(features.dtype)
            features = torch.where(captions.dropped[:, None, None], null, features)
        tokens = self.down(F.gelu(self.up(features), approximate="tanh"))
        if self.place_embedding is None:
            return tokens
        return tokens + self.place_embedding(_places(captions))

    def without(self, captions: Tensor | Captions) -> Captions:
        """The null caption in the place of each, with the mask of each. Raises as `forward`."""
        captions = _require_captions(captions)
        everywhere = torch.ones(len(captions), dtype=torch.bool, device=captions.features.device)
        return replace(captions, dropped=everywhere)

    def is_null(self, captions: Tensor | Captions) -> bool:
        """Whether all are dropped, and stand for no caption. Waits for the device."""
        dropped = _require_captions(captions).dropped
        return dropped is not None and bool(dropped.all())


def build_condition(config: NetworkConfig) -> ClassCondition | CaptionCondition:
    """The condition that a network of `config` takes."""
    if config.caption_width:
        sizes = config.caption_width, config.width, config.caption_tokens
        return CaptionCondition(*sizes, config.caption_places, config.caption_whitening)
    return ClassCondition(config.num_classes, config.width, config.null_condition == "label")


def _places(captions: Captions) -> Tensor:
    """Of each token in its caption, from 0, or 0 where there is padding: (B, P) or (P,)."""
    if captions.mask is None:
        return torch.arange(captions.features.shape[1], device=captions.features.device)
    return ((~captions.mask).cumsum(1) - 1).clamp_min(0)


def _require_captions(given: Tensor | Captions) -> Captions:
    if isinstance(given, Captions):
        return given
    raise UserError(
        "This generator takes captions (features of a text encoder), not class labels; use the "
        "weights of a class-conditional one."
    )


def condition_mask(
    num_tokens: int, seen: Tensor | None, causal: bool, device: torch.device
) -> Tensor | None:
    """Who sees whom among condition tokens: nobody what is not `seen`, but each one itself.

    `seen` (B, 1, 1, P) or None for all -> (B, 1, P, P), (P, P) or None for all.
    """
    ones = torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=device)
    mask = ones.tril() if causal and num_tokens > 1 else None
    if seen is None:
        return mask
    own = torch.eye(num_tokens, dtype=torch.bool, device=device)
    return (seen if mask is None else seen & mask) | own


def with_seen(mask: Tensor | None, seen: Tensor | None, num_tokens: int) -> Tensor | None:
    """`mask` (n, P + num_tokens) or None for all, without what is not `seen` of the condition.

    `seen` (B, 1, 1, P) or None for all -> (B, 1, n or 1, P + num_tokens), or `mask` as it is.
    """
    if seen is None:
        return mask
    seen = F.pad(seen, (0, num_tokens), value=True)
    return seen if mask is None else seen & mask
