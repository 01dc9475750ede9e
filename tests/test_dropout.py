"""Which numbers are dropped, and how many; its place in the networks is in test_plain.py."""

from itertools import combinations

import pytest
import torch

from Network.dropout import Dropout

LEVELS = 2**16
ONES = torch.ones(4, LEVELS)


def dropped(p, like=ONES, seed=0):
    torch.manual_seed(seed)
    return Dropout(p)(like)


@pytest.mark.parametrize("p", [0.1, 0.5, 1 / LEVELS, 1 - 1e-9])
def test_the_probability_is_right_to_16_bits(p, monkeypatch):
    """Of all levels, each drawn once, round(p 2^16) are dropped, or one less."""
    every = torch.arange(LEVELS).to(torch.int16)
    monkeypatch.setattr(
        torch.Tensor, "random_", lambda draws, *_: draws.copy_(every.view(draws.dtype))
    )
    found = Dropout(p)(torch.ones(LEVELS, dtype=torch.double))
    count = (found == 0).sum().item()
    assert round(p * LEVELS) - count in (0, 1)
    assert found.mean().item() == pytest.approx(1, abs=1e-12)  # so nothing grows or shrinks


@pytest.mark.parametrize("p", [0.1, 0.7])
def test_each_number_is_dropped_by_itself(p):
    """Four come from one draw: each with its share, every two of them with its square."""
    zeros = (dropped(p) == 0).view(-1, 4).double()
    count = len(zeros)
    assert zeros.mean(0).tolist() == pytest.approx([p] * 4, abs=5 * (p * (1 - p) / count) ** 0.5)
    for one, other in combinations(range(4), 2):
        share = (zeros[:, one] * zeros[:, other]).mean().item()
        assert share == pytest.approx(p**2, abs=5 * (p**2 * (1 - p**2) / count) ** 0.5)


def test_the_seed_alone_decides():
    assert torch.equal(dropped(0.3), dropped(0.3))
    assert not torch.equal(dropped(0.3), dropped(0.3, seed=1))
    module = Dropout(0.3)
    assert not torch.equal(module(ONES), module(ONES))  # another draw


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.double])
@pytest.mark.parametrize("shape", [(3,), (5, 7, 11), (0, 4)])
def test_what_is_kept_is_scaled_and_its_gradient_alike(dtype, shape):
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    found = dropped(0.5, x)
    assert (found.dtype, found.shape) == (dtype, shape)
    assert torch.equal(found, torch.where(found == 0, 0, 2 * x))
    found.sum().backward()
    assert torch.equal(x.grad, torch.where(found == 0, 0, 2.0).to(dtype))


def test_a_view_with_gaps_is_read_where_it_lies():
    x = torch.randn(6, 10).t()[::2]
    found = dropped(0.5, x)
    assert torch.equal(found, torch.where(found == 0, 0, 2 * x))


def test_evaluation_and_a_probability_of_zero_change_nothing():
    assert Dropout(0.5).eval()(ONES) is ONES
    assert Dropout(0.0)(ONES) is ONES


def test_other_devices_have_that_of_pytorch(monkeypatch):
    monkeypatch.setattr("Network.dropout._factors", None)
    assert Dropout(0.5)(ONES.to("meta")).shape == ONES.shape
