"""Expected shares: MaskGIT's own schedules (`fixtures/network/NOTES.md`)."""

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from scipy.stats import chisquare

from MaskGIL import masking
from MaskGIL.masking import (
    SCHEDULES,
    counted_rows,
    draw_mask,
    hidden_counts,
    mask_tokens,
    masked_loss,
    max_hidden,
    row_losses,
    van_der_corput,
)

MASKGIT = json.loads(
    (Path(__file__).parent / "fixtures/network/maskgit_schedules.json").read_text()
)


# Schedules


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("num_tokens", [16, 256, 576])
def test_a_schedule_falls_from_one_to_zero(name, num_tokens):
    shares = [SCHEDULES[name](progress / 200, num_tokens) for progress in range(201)]
    start = 1 - 1 / num_tokens if name == "exp" else 1  # exp starts with one token shown
    assert shares[0] == pytest.approx(start, abs=1e-12)
    assert shares[-1] == pytest.approx(0, abs=1e-12)
    assert all(later < earlier for earlier, later in pairwise(shares))


@pytest.mark.parametrize("name", MASKGIT)
def test_shares_of_maskgit(name):
    for num_steps, shares in MASKGIT[name].items():
        steps = range(1, int(num_steps) + 1)
        found = [SCHEDULES[name](step / int(num_steps), 256) for step in steps]
        assert found == pytest.approx(shares, abs=2e-6)  # its clip at 1e-6, float32


def test_arccos():
    """Halton-MaskGIT's: half of the tokens at progress cos(pi / 4)."""
    assert SCHEDULES["arccos"](math.cos(math.pi / 4), 256) == pytest.approx(0.5)
    assert SCHEDULES["arccos"](0.5, 256) == pytest.approx(2 / 3)


# How many


def test_van_der_corput_mirrors_the_bits():
    expected = [0, 1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8, 1 / 16]
    assert van_der_corput(9).tolist() == expected
    assert len(set(van_der_corput(1000))) == 1000
    assert van_der_corput(1).tolist() == [0]


def progress_of(batch, step, seed=0):
    """Read back from the linear schedule, whose count of 1,024 tokens is exact."""
    return 1 - hidden_counts("linear", batch, 1024, seed, step) / 1024


def test_progress_is_uniform_over_the_steps():
    found = np.stack([progress_of(8, step) for step in range(4096)])
    for image in range(8):
        counts = np.histogram(found[:, image], 64, (0, 1))[0]
        assert chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize("length", [2, 4, 8, 16, 64])
def test_progress_is_spread_over_a_micro_batch(length):
    """Any of 2^k images has one image in each of 2^k equal parts: their sums vary little."""
    for step in range(20):
        for part in np.split(progress_of(64, step), 64 // length):
            distances = np.sort((part - part[0]) % 1)
            np.testing.assert_allclose(distances, np.arange(length) / length, atol=1e-12)


def test_counts_are_of_seed_and_step():
    first = hidden_counts("arccos", 48, 256, 0, 7)
    assert first.dtype == np.int64
    assert np.array_equal(first, hidden_counts("arccos", 48, 256, 0, 7))
    assert np.array_equal(first[:13], hidden_counts("arccos", 13, 256, 0, 7))
    assert not np.array_equal(first, hidden_counts("arccos", 48, 256, 1, 7))
    assert not np.array_equal(first, hidden_counts("arccos", 48, 256, 0, 8))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("batch", "micro_batch", "num_tokens"), [(24, 8, 16), (6, 2, 1), (7, 7, 256)]
)
def test_the_bound_is_exact(monkeypatch, schedule, batch, micro_batch, num_tokens):
    """Over all 1,024 shifts: never more, and not less."""
    most = 0
    for shift in range(1024):
        monkeypatch.setattr(masking, "seed_of", lambda *numbers, shift=shift: shift)
        counts = hidden_counts(schedule, batch, num_tokens, 0, 0)
        assert counts.min() >= 1
        assert counts.max() <= num_tokens
        most = max(most, *(counts[i : i + micro_batch].sum() for i in range(0, batch, micro_batch)))
    assert max_hidden(schedule, batch, micro_batch, num_tokens) == most


def test_the_bound_is_tight():
    """Arccos hides 2/pi = 0.637 on average; a bound of independent ratios would be 1."""
    assert max_hidden("arccos", 2048, 256, 256) / (256 * 256) < 2 / math.pi + 0.005


# Which ones


def test_a_mask_hides_exactly_as_many():
    counts = torch.tensor([0, 1, 5, 15, 16])
    mask = draw_mask(counts, 3, torch.arange(5), 16)
    assert mask.dtype == torch.bool
    assert torch.equal(mask.sum(1), counts)


def test_a_mask_is_of_seed_and_sample():
    samples, counts = torch.tensor([4, 900, 2**40, 7]), torch.tensor([3, 8, 8, 12])
    masks = draw_mask(counts, 0, samples, 64)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(draw_mask(counts[order], 0, samples[order], 64), masks[order])
    for index in range(4):
        alone = draw_mask(counts[index, None], 0, samples[index, None], 64)
        assert torch.equal(alone[0], masks[index])
    assert not torch.equal(draw_mask(counts, 1, samples, 64), masks)
    assert not torch.equal(draw_mask(counts, 0, samples + 1, 64), masks)


def test_every_position_and_pair_is_hidden_equally_often():
    masks = draw_mask(torch.full((8192,), 4), 0, torch.arange(8192), 16).double()
    hidden = masks.sum(0).numpy()
    # Four of sixteen without replacement: 16/15 x (1 - 4/16) of the variance of 15 free counts
    statistic = ((hidden - 2048) ** 2 / 2048).sum() / (16 / 15 * (1 - 4 / 16))
    assert statistic < 37.7  # chi-squared, 15 degrees, p = 0.001
    pairs = masks.T @ masks
    expected = 8192 * 4 * 3 / (16 * 15)
    others = ~torch.eye(16, dtype=torch.bool)
    assert (pairs[others] - expected).abs().max() < 4.5 * expected**0.5  # 120 pairs


def test_equal_scores_hide_the_first(monkeypatch):
    monkeypatch.setattr(masking, "uniform", lambda *counters: torch.full((2, 40), 0.5))
    mask = draw_mask(torch.tensor([3, 20]), 0, torch.arange(2), 40)
    assert torch.equal(mask, torch.arange(40) < torch.tensor([[3], [20]]))


# What the network sees, and what counts


def test_hidden_tokens_do_not_leak():
    tokens = tiny.tokens(3, codes=10)
    mask = draw_mask(torch.tensor([4, 9, 16]), 0, torch.arange(3), 16).view(3, 4, 4)
    masked = mask_tokens(tokens, mask, 11)
    assert (masked[mask] == 11).all()
    assert torch.equal(masked[~mask], tokens[~mask])
    others = torch.where(mask, (tokens + 1) % 11, tokens)
    assert torch.equal(mask_tokens(others, mask, 11), masked)
    assert tokens.max() < 11  # the mask token is none of the codes


@pytest.mark.parametrize("bound", [12, 13, 29, 30])
def test_counted_rows_are_the_hidden_ones(bound):
    mask = draw_mask(torch.tensor([7, 1, 4]), 0, torch.arange(3), 10)
    rows, weights = counted_rows(mask, bound)
    assert rows.shape == weights.shape == (bound,)
    assert rows[:12].tolist() == mask.flatten().nonzero()[:, 0].tolist()
    assert weights.tolist() == [1] * 12 + [0] * (bound - 12)
    assert len(set(rows.tolist())) == bound  # padding counts nothing twice


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_token_by_token(smoothing):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, generator=generator, requires_grad=True)
    targets, weights = torch.tensor([0, 4, 2, 2, 1, 3]), torch.tensor([1.0, 0, 1, 0.25, 0, 1])
    loss, accuracy = masked_loss(logits, targets, weights, 7.0, smoothing)
    expected = right = 0.0
    for row, target, weight in zip(logits.detach().tolist(), targets.tolist(), weights.tolist()):
        log_sum = math.log(sum(math.exp(value) for value in row))
        truth = [(1 - smoothing) * (code == target) + smoothing / 5 for code in range(5)]
        expected += weight * sum(share * (log_sum - value) for share, value in zip(truth, row)) / 7
        right += weight * (row.index(max(row)) == target) / 7
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert accuracy.item() == pytest.approx(right, rel=1e-6)
    loss.backward()
    assert ((logits.grad != 0).any(1) == (weights > 0)).all()
    assert not accuracy.requires_grad


def test_of_equal_codes_the_first_is_the_guess():
    """Or a fresh network, whose head is zero, would seem to know everything."""
    targets = torch.tensor([0, 1, 4])
    _, right = row_losses(torch.zeros(3, 5), targets, 0.0)
    assert right.tolist() == [1, 0, 0]


def test_micro_batches_add_up_to_the_whole():
    logits, targets = torch.randn(8, 5), torch.arange(8) % 5
    whole = masked_loss(logits, targets, torch.ones(8), 8.0, 0.1)
    parts = [
        masked_loss(logits[part], targets[part], torch.ones(len(targets[part])), 8.0, 0.1)
        for part in (slice(0, 3), slice(3, 4), slice(4, 8))
    ]
    for index in range(2):
        assert sum(part[index] for part in parts).item() == pytest.approx(whole[index].item())


def test_visible_tokens_carry_no_loss():
    """From tokens to loss: other visible targets change nothing, nor does padding."""
    network, tokens = tiny.network(), tiny.tokens(3, codes=10)
    counts, labels = torch.tensor([4, 9, 1]), torch.tensor([0, 1, 2])
    mask = draw_mask(counts, 0, torch.arange(3), 16)
    masked = mask_tokens(tokens, mask.view(3, 4, 4), network.mask_id)
    logits, losses = network(masked, labels).flatten(0, 1), []
    for bound in (14, 20):
        for targets in (tokens.flatten(), torch.where(mask.flatten(), tokens.flatten(), 0)):
            rows, weights = counted_rows(mask, bound)
            loss, _ = masked_loss(logits[rows], targets[rows], weights, 14.0, 0.0)
            losses.append(loss.item())
    expected = F.cross_entropy(logits[mask.flatten()], tokens[mask.view(3, 4, 4)])
    assert losses == pytest.approx([expected.item()] * 4, rel=1e-6)
