"""How evenly a tokenizer uses its codes, from counts of them.

K codes; C bits of a code, of a codebook of 2^C.
"""

import math

import torch
from torch import Tensor


def usage(histogram: Tensor, num_bits: int = 0) -> dict[str, float]:
    """Of counts per code (K,): the share of codes in use, and exp(entropy), the perplexity "ppl".

    With `num_bits` also "bit entropy", 0 to 1: how far a bit of a code is from being constant.
    """
    shares = _shares(histogram)
    found = {
        "usage": (histogram > 0).float().mean().item(),
        "ppl": _information(shares).sum().exp().item(),
    }
    if num_bits:
        found["bit entropy"] = _bit_entropy(shares, num_bits)
    return found


def entropy(histogram: Tensor) -> float:
    """Of counts per code (K,): the entropy of a code in bits, at most log2 K."""
    return _information(_shares(histogram)).sum().item() / math.log(2)


def _bit_entropy(shares: Tensor, num_bits: int) -> float:
    """Mean over bits of the entropy, in bits, of being set: bit k of code c is (c >> k) & 1."""
    codes = torch.arange(len(shares), device=shares.device)
    places = torch.arange(num_bits, device=shares.device)[:, None]
    is_set = (codes >> places & 1).float() @ shares  # (C,)
    is_set = is_set.clamp(0, 1)  # rounding may leave 1.0000001
    return (_information(is_set) + _information(1 - is_set)).mean().item() / math.log(2)


def _shares(histogram: Tensor) -> Tensor:
    return histogram / histogram.sum().clamp(min=1)


def _information(shares: Tensor) -> Tensor:
    """-p ln p of each share, 0 at p = 0."""
    return -torch.special.xlogy(shares, shares)
