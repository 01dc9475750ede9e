"""Questions of a step, and the module that answers them."""

import json
from itertools import pairwise

import pytest
import tiny
import torch
from scipy.stats import binomtest
from tiny_runs import config

from MaskGIL.config import from_dict, to_dict
from MaskGIL.masking import draw_mask, masked_loss
from MaskGIL.plans import OBJECTIVES
from Network.config import NetworkConfig
from Trainer.objective import RowLogits, masked_question, mode_of, network_of, next_question

LABELS, MASK = torch.tensor([0, 2]), 11


def codes(seed=0):
    """Tokens (2, 4, 4), none of them hidden."""
    return tiny.tokens(codes=10, seed=seed)


def ask(weight=0.0):
    hidden, samples = torch.tensor([5, 12]), torch.tensor([40, 41])
    question = masked_question(
        codes(), hidden, samples, seed=3, mask_id=MASK, bound=20, visible_weight=weight
    )
    return question, draw_mask(hidden, 3, samples, 16)


# Modes


def test_a_coin_is_tossed_for_each_step():
    modes = [mode_of("both", 0, step) for step in range(2000)]
    assert modes == [mode_of("both", 0, step) for step in range(2000)]
    assert binomtest(modes.count("ar"), 2000, 0.5).pvalue > 0.001
    pairs = sum(a == b for a, b in pairwise(modes))
    assert binomtest(pairs, 1999, 0.5).pvalue > 0.001  # not in turn
    other = [mode_of("both", 1, step) for step in range(2000)]
    assert binomtest(sum(a == b for a, b in zip(modes, other)), 2000, 0.5).pvalue > 0.001


@pytest.mark.parametrize("objective", ["mar", "ar"])
def test_one_objective_is_one_mode(objective):
    assert {mode_of(objective, seed, step) for seed in (0, 5) for step in range(20)} == {objective}
    assert OBJECTIVES[objective] == (objective,)


# Questions


def test_hidden_tokens_are_asked_for():
    question, mask = ask()
    assert torch.equal(question.tokens, codes().masked_fill(mask.view(2, 4, 4), MASK))
    assert not question.causal
    assert question.weights.tolist() == [1.0] * 17 + [0.0] * 3
    assert set(question.rows[:17].tolist()) == set(mask.flatten().nonzero()[:, 0].tolist())


def test_with_a_weight_visible_tokens_are_asked_for_too():
    question, mask = ask(0.25)
    assert question.rows is None
    assert torch.equal(question.weights, torch.where(mask, 1.0, 0.25).flatten())


def test_every_next_token_is_asked_for():
    question = next_question(codes())
    assert torch.equal(question.tokens, codes())
    assert question.rows is None
    assert question.causal
    assert question.weights.tolist() == [1.0] * 32


# Answers


@pytest.mark.parametrize(
    ("words", "longest"),
    [
        ((), None),  # those of network.grid, 4x4
        (("data.buckets=32x32,32x48",), (4, 6)),
        (("data.buckets=40x24,24x56",), (5, 7)),  # each side of a grid of its own
        (("data.buckets=24x48",), (4, 6)),
        (("data.buckets=32x32,32x48", "network.longest=8,8"), (8, 8)),
        (("data.buckets=32x32,32x48", "network.rotary=published"), None),
    ],
)
def test_a_network_knows_the_longest_sides_of_its_buckets(tmp_path, words, longest):
    """And so do its weights, in whose config.json they stand."""
    run = config("generator", tmp_path, "network.learned_positions=false", *words)
    network = network_of(run)
    assert network.longest == longest
    assert from_dict(NetworkConfig, json.loads(json.dumps(to_dict(network)))) == network


def test_rows_are_those_of_the_network():
    network, rows = tiny.network(), torch.tensor([3, 0, 20, 31])
    for causal in (False, True):
        every = RowLogits(network)(codes(), LABELS, None, None, causal)
        expected = network(codes(), LABELS, causal=causal)
        torch.testing.assert_close(every, expected.flatten(0, 1))
        some = RowLogits(network)(codes(), LABELS, rows, None, causal)
        torch.testing.assert_close(some, every[rows])


def test_a_head_is_told_the_places_of_its_rows(monkeypatch):
    network, places = tiny.network(), []
    head = network.head
    monkeypatch.setattr(
        network, "head", lambda hidden, rows=None: places.append(rows) or head(hidden)
    )
    RowLogits(network)(codes(), LABELS, torch.tensor([3, 0, 20, 31]))
    RowLogits(network)(codes(), LABELS)
    assert places[0].tolist() == [3, 0, 4, 15]
    assert places[1] is None


@pytest.mark.parametrize("changes", [{}, {"codebook_size": 12, "low_bits": 2}], ids=["one", "two"])
def test_the_loss_of_a_network_in_raster_order(changes):
    """The mean of -log p(token | tokens before it, label), each row from a grid of its own."""
    network = tiny.network(**changes)
    question = next_question(codes())
    logits = RowLogits(network)(question.tokens, LABELS, None, codes(), question.causal)
    loss, _ = masked_loss(
        logits, codes().flatten(), question.weights, 32.0, 0.0, network.config.part_sizes
    )
    terms = []
    for image, label in zip(codes(), LABELS):
        for place, token in enumerate(image.flatten()):
            before = image.flatten().clone()
            before[place:] = network.mask_id  # what comes later is not known
            row = network(before.view(1, 4, 4), label[None], causal=True)[0, place]
            terms.append(-row.log_softmax(-1)[token])
    torch.testing.assert_close(loss, torch.stack(terms).mean())
