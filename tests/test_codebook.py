"""How evenly codes are used: counts by hand, bits by counting each."""

import math

import pytest
import torch

from Metrics.codebook import entropy, usage


@pytest.mark.parametrize(
    ("counts", "share", "perplexity"),
    [
        ([5, 5, 5, 5], 1.0, 4.0),
        ([7, 0, 0, 0], 0.25, 1.0),
        ([2, 2, 0, 0], 0.5, 2.0),
        ([1, 3, 0, 0], 0.5, math.exp(0.25 * math.log(4) + 0.75 * math.log(4 / 3))),
        ([0, 0, 0, 0], 0.0, 1.0),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_usage_and_entropy(counts, share, perplexity, dtype):
    histogram = torch.tensor(counts, dtype=dtype)
    assert usage(histogram) == pytest.approx({"usage": share, "ppl": perplexity})
    assert entropy(histogram) == pytest.approx(math.log2(perplexity), abs=1e-6)


def test_the_entropy_of_bits_is_that_of_each_bit_by_itself():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(32, (500,), generator=generator) & 0b10111  # bit 3 is never set
    tokens |= (torch.rand(500, generator=generator) < 0.9).long()  # bit 0 mostly is
    expected = []
    for bit in range(5):
        share = sum(token >> bit & 1 for token in tokens.tolist()) / 500
        parts = [part for part in (share, 1 - share) if part > 0]
        expected.append(-sum(part * math.log2(part) for part in parts))
    found = usage(torch.bincount(tokens, minlength=32), num_bits=5)
    assert found["bit entropy"] == pytest.approx(sum(expected) / 5, abs=1e-6)
    assert expected[3] == 0 < expected[0] < 0.5


@pytest.mark.parametrize(("counts", "expected"), [([3] * 8, 1.0), ([0] * 7 + [9], 0.0)])
def test_bits_at_their_limits(counts, expected):
    found = usage(torch.tensor(counts), num_bits=3)
    assert found["bit entropy"] == pytest.approx(expected, abs=1e-6)
