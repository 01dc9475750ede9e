"""How well a generator predicts tokens that it has not learned from, by mode.

The loss has no smoothing and is a mean over tokens; masks are fixed.
Shapes: n validation images of one shape, B of a chunk, h x w = N tokens, M rows.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from MaskGIL.masking import draw_mask, hidden_counts, mask_tokens, row_losses
from Network.condition import Captions
from Trainer.objective import RowLogits

Group = tuple[Tensor, Tensor | Captions]  # tokens (n, h, w), and labels (n,) or captions
QUARTERS = ("0-25%", "25-50%", "50-75%", "75-100%")  # of the tokens of an image are hidden


def validate_masked(
    network: RowLogits, groups: Sequence[Group], *, schedule: str, chunk: int
) -> dict[str, float]:
    """`loss` and `acc` of the hidden tokens of all groups, and those of each quarter.

    A quarter holds the images of which such a share is hidden; one without images is left out.
    """
    sums = sum(_masked_sums(network, group, schedule, chunk) for group in groups)
    assert isinstance(sums, Tensor)
    found = _means("", "", sums.sum(0))
    for name, values in zip(QUARTERS, sums):
        found |= _means("", f" {name}", values)
    return found


def _masked_sums(network: RowLogits, group: Group, schedule: str, chunk: int) -> Tensor:
    """Sums (4, 3) of loss, right guesses and their number, by quarter."""
    (tokens, condition), generator = group, network.network
    num_tokens = tokens[0].numel()
    counts = torch.from_numpy(hidden_counts(schedule, len(tokens), num_tokens, 0, 0))
    quarters = (len(QUARTERS) * counts - 1) // num_tokens  # (n,) in 0 .. 3
    sums = torch.zeros(len(QUARTERS), 3, device=_device(network))
    for piece in pieces(len(tokens), chunk):
        known, hidden, quarter = (t[piece].to(sums.device) for t in (tokens, counts, quarters))
        samples = torch.arange(piece.start, piece.start + len(known), device=sums.device)
        mask = draw_mask(hidden, 0, samples, num_tokens)
        masked = mask_tokens(known, mask.view_as(known), generator.mask_id)
        rows = mask.flatten().nonzero()[:, 0]  # waits for the device; training must not
        logits = network(masked, condition[piece].to(sums.device), rows, known)
        values = _values(network, logits, known.flatten()[rows])  # (M, 3)
        where = quarter[rows // num_tokens]  # (M,)
        sums += torch.stack([(values * (where == q)[:, None]).sum(0) for q in range(len(sums))])
    return sums


def validate_next(
    network: RowLogits, groups: Sequence[Group], *, schedule: str, chunk: int
) -> dict[str, float]:
    """`ar_loss` and `ar_acc` of each token of all groups after those before it."""
    sums = torch.zeros(3, device=_device(network))
    for tokens, condition in groups:
        for piece in pieces(len(tokens), chunk):
            known = tokens[piece].to(sums.device)
            logits = network(known, condition[piece].to(sums.device), causal=True)
            sums += _values(network, logits, known.flatten()).sum(0)
    return _means("ar_", "", sums)


VALIDATIONS = {"mar": validate_masked, "ar": validate_next}


def _values(network: RowLogits, logits: Tensor, targets: Tensor) -> Tensor:
    """Loss, right guesses and their number, (M, 3)."""
    losses, right = row_losses(logits, targets, 0.0, network.network.config.part_sizes)
    return torch.stack([losses, right.to(losses.dtype), torch.ones_like(losses)], 1)


def _means(prefix: str, suffix: str, sums: Tensor) -> dict[str, float]:
    loss, right, count = sums.tolist()
    names = (f"{prefix}loss{suffix}", f"{prefix}acc{suffix}")
    return dict(zip(names, (loss / count, right / count))) if count else {}


def pieces(count: int, chunk: int) -> Iterator[slice]:
    """Cut so many into chunks; the last may be short."""
    return (slice(start, start + chunk) for start in range(0, count, chunk))


def _device(network: RowLogits) -> torch.device:
    return next(network.parameters()).device
