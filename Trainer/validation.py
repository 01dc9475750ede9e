"""How well a generator predicts tokens that it has not learned from, by mode.

The loss has no smoothing and is a mean over tokens; masks are fixed. Each rank computes its share
of the chunks, and sums are float64: many ranks tell what one tells, and all must come.
Shapes: n validation images of one shape, B of a chunk, h x w = N tokens, M rows.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from MaskGIL.distributed import chunks, summed
from MaskGIL.masking import draw_mask, hidden_counts, mask_tokens, row_losses, van_der_corput
from Metrics.conditions import CaptionRows
from Trainer.objective import RowLogits

Group = tuple[Tensor, Tensor | CaptionRows]  # tokens (n, h, w), and labels (n,) or captions
QUARTERS = ("0-25%", "25-50%", "50-75%", "75-100%")  # of the tokens of an image are hidden


def validate_masked(
    network: RowLogits, groups: Sequence[Group], *, schedule: str, chunk: int
) -> dict[str, float]:
    """`loss` and `acc` of the hidden tokens of all groups, and those of each quarter.

    A quarter holds the images of which such a share is hidden; one without images is left out.
    """
    parts = [_masked_sums(network, group, schedule, chunk) for group in groups]
    sums = summed(torch.stack(parts).sum(0), _device(network))
    found = _means("", "", sums.sum(0))
    for name, values in zip(QUARTERS, sums):
        found |= _means("", f" {name}", values)
    return found


def _masked_sums(network: RowLogits, group: Group, schedule: str, chunk: int) -> Tensor:
    """This rank's sums (4, 3) of loss, right guesses and their number, by quarter."""
    tokens, num_tokens = group[0], group[0][0].numel()
    counts = torch.from_numpy(hidden_counts(schedule, len(tokens), num_tokens, 0, 0))
    quarters = (len(QUARTERS) * counts - 1) // num_tokens  # (n,) in 0 .. 3
    sums = torch.zeros(len(QUARTERS), 3, dtype=torch.float64)
    for images, values in _answers(network, group, counts, chunk):
        where = quarters[images]  # (M,)
        sums += torch.stack([(values * (where == q)[:, None]).sum(0) for q in range(len(sums))])
    return sums


def _answers(
    network: RowLogits, group: Group, counts: Tensor, chunk: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Hide counts (n,) tokens of the images: those of the rows (M,), and their values (M, 3).

    For this rank's chunks.
    """
    (tokens, condition), generator = group, network.network
    num_tokens, device = tokens[0].numel(), _device(network)
    for share in chunks(len(tokens), chunk):
        piece = slice(share.start, share.stop)
        known, hidden = tokens[piece].to(device), counts[piece].to(device)
        samples = torch.arange(share.start, share.stop, device=device)
        mask = draw_mask(hidden, 0, samples, num_tokens)
        masked = mask_tokens(known, mask.view_as(known), generator.mask_id)
        rows = mask.flatten().nonzero()[:, 0]  # waits for the device; training must not
        logits = network(masked, condition[piece].to(device), rows, known)
        values = _values(network, logits, known.flatten()[rows])  # (M, 3)
        yield share.start + rows.cpu() // num_tokens, values


def validate_next(
    network: RowLogits, groups: Sequence[Group], *, schedule: str, chunk: int
) -> dict[str, float]:
    """`ar_loss` and `ar_acc` of each token of all groups after those before it."""
    sums, device = torch.zeros(3, dtype=torch.float64), _device(network)
    for tokens, condition in groups:
        for share in chunks(len(tokens), chunk):
            piece = slice(share.start, share.stop)
            known = tokens[piece].to(device)
            logits = network(known, condition[piece].to(device), causal=True)
            sums += _values(network, logits, known.flatten()).sum(0)
    return _means("ar_", "", summed(sums, device))


VALIDATIONS = {"mar": validate_masked, "ar": validate_next}


def bits_masked(network: RowLogits, groups: Sequence[Group], chunk: int) -> float:
    """Bits of an image as an order that is drawn tells it, an upper bound of its own.

    N times the mean loss of the hidden tokens, how many being drawn evenly from 1 to N (Uria et
    al. 2014, "A deep and tractable density estimator"): so it is comparable across
    codebooks and with `bits_next`, and does not follow from the schedule of training.
    """
    total = torch.zeros((), dtype=torch.float64)
    for group in groups:
        num_images, num_tokens = len(group[0]), group[0][0].numel()
        counts = 1 + torch.from_numpy(van_der_corput(num_images) * num_tokens).long()  # (n,)
        for images, values in _answers(network, group, counts, chunk):
            shares = values[:, 0] / counts[images]  # (M,)
            total += shares.sum() * num_tokens
    return summed(total, _device(network)).item() / _num_images(groups) / math.log(2)


def bits_next(network: RowLogits, groups: Sequence[Group], chunk: int) -> float:
    """Bits of an image in raster order: the sum of what its tokens take, each after the others."""
    nats = 0.0
    for group in groups:
        found = validate_next(network, [group], schedule="", chunk=chunk)
        nats += found["ar_loss"] * group[0].numel()
    return nats / _num_images(groups) / math.log(2)


BITS = {"mar": bits_masked, "ar": bits_next}


def _values(network: RowLogits, logits: Tensor, targets: Tensor) -> Tensor:
    """Loss, right guesses and their number, (M, 3) float64 on the CPU."""
    losses, right = row_losses(logits, targets, 0.0, network.network.config.part_sizes)
    values = torch.stack([losses, right.to(losses.dtype), torch.ones_like(losses)], 1)
    return values.cpu().double()


def _means(prefix: str, suffix: str, sums: Tensor) -> dict[str, float]:
    loss, right, count = sums.tolist()
    names = (f"{prefix}loss{suffix}", f"{prefix}acc{suffix}")
    return dict(zip(names, (loss / count, right / count))) if count else {}


def pieces(count: int, chunk: int) -> Iterator[slice]:
    """Cut so many into chunks; the last may be short."""
    return (slice(start, start + chunk) for start in range(0, count, chunk))


@torch.no_grad()
def block_sizes(network: RowLogits, group: Group, mode: str, chunk: int) -> list[float]:
    """Root mean squares of what each block gives, over up to `chunk` images that are all shown.

    What grows here where norms do. The network is one of blocks (`Network.gpt.GPT`).
    """
    sizes: list[float] = []

    def keep(block: nn.Module, given: object, found: tuple[Tensor, ...]) -> None:
        sizes.append(found[0].float().square().mean().sqrt().item())

    hooks = [block.register_forward_hook(keep) for block in network.network.blocks]
    try:
        tokens = group[0][:chunk].to(_device(network))
        network(tokens, group[1][:chunk].to(tokens.device), causal=mode == "ar")
    finally:
        for hook in hooks:
            hook.remove()
    return sizes


def _num_images(groups: Sequence[Group]) -> int:
    return sum(len(tokens) for tokens, _ in groups)


def _device(network: RowLogits) -> torch.device:
    return next(network.parameters()).device
