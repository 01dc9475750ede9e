"""Counter-based uniforms: a number in (0, 1) for every (seed, stream, step, position).

Nothing is drawn from a state, so the noise of an image is the same in any batch, on any rank and
on any device. The hash is SplitMix64's finaliser (Steele, Lea & Flood, OOPSLA 2014), chained over
the four counters; 64-bit products wrap alike on every device.
"""

import torch
from torch import Tensor

# What each stream of random numbers is for. A number is used once, here and nowhere else.
STREAMS = {
    name: number
    for number, name in enumerate(
        ["order", "crop", "ratio", "mask", "class drop", "token", "confidence", "dropout",
         "revival", "decoding order", "seed", "objective", "remask", "variation", "window",
         "caption", "caption drop", "bucket"]
    )
}  # fmt: skip

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed number
_MIX1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # the sign bit must not spread


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX1
    x = (x ^ _shift(x, 27)) * _MIX2
    return x ^ _shift(x, 31)


def _spread(counter: Tensor | int) -> Tensor | int:
    """The product modulo 2^64; a plain number stays one, so that no device waits for its copy."""
    if isinstance(counter, Tensor):
        return (counter + 1) * _GOLDEN
    return ((int(counter) + 1) * _GOLDEN + 2**63) % 2**64 - 2**63


def random_bits(seeds: Tensor, stream: str, step: Tensor | int, position: Tensor | int) -> Tensor:
    """Hash of (seed, stream, step, position): int64, all 64 bits used.

    The three tensors (or numbers) are broadcast against each other. `stream` is a key of STREAMS.
    """
    state = _mix(seeds + _GOLDEN)
    for counter in (STREAMS[stream], step, position):
        state = _mix(state + _spread(counter))
    return state


def uniform(seeds: Tensor, stream: str, step: Tensor | int, position: Tensor | int) -> Tensor:
    """Uniforms in the open interval (0, 1), float32 with 23 bits; shapes as `random_bits`.

    For seeds (B,) and positions (N,) call `uniform(seeds[:, None], stream, step, positions)`.
    """
    return (_shift(random_bits(seeds, stream, step, position), 41).float() + 0.5) * 2.0**-23


def seed_of(*numbers: int) -> int:
    """One 63-bit seed of several integers, for generators that want a single number."""
    state = torch.zeros((), dtype=torch.int64)
    for number in numbers:
        state = _mix(state + (number + 1) * _GOLDEN % 2**63)
    return int(state) & (2**63 - 1)
