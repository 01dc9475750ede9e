"""Grids of other heights and widths than those of training: what the network makes of them."""

from dataclasses import replace

import pytest
import tiny
import torch

from MaskGIL.pipeline import Pipeline
from MaskGIL.sampling import SamplingConfig
from Network.config import NetworkConfig, UserError
from Network.context import Context, KVCache
from Network.rotary import INTERPOLATIONS, rotary_table

LABELS = torch.tensor([1, 3])
PLANS = ["mar", "ar", "hybrid"]
BEYOND = [name for name in INTERPOLATIONS if name != "none"]


def pipeline(**changes):
    return Pipeline(tiny.network(**changes), tiny.tokenizer(), "abc", objective="both")


def sampled(pipe, grid, **settings):
    """Tokens (2, h, w) of two classes."""
    settings = SamplingConfig(num_steps=3, num_ar=2, **settings)
    return pipe.sample_tokens(torch.tensor([0, 2]), torch.arange(2), settings, grid)


# Positions


# Tokens of two images in hexadecimal digits, as drawn before there was a choice of positions
AS_BEFORE = {
    ("mar", (4, 4)): "444444049844491444410A11A86404A1",
    ("ar", (4, 4)): "96359A9999979A93118399A1779A1794",
    ("mar", (3, 4)): "874495944944666A0A488648",
    ("ar", (3, 4)): "97499A999494118383938888",
}


@pytest.mark.parametrize(("plan", "grid"), AS_BEFORE)
def test_grids_within_training_are_sampled_as_ever(plan, grid):
    found = sampled(pipeline(), grid, plan=plan)
    assert "".join(f"{token:X}" for token in found.flatten().tolist()) == AS_BEFORE[plan, grid]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("positions", BEYOND)
def test_positions_change_what_is_sampled_beyond_training_alone(positions, plan):
    pipe = pipeline(longest=(4, 6))
    for grid in ((4, 4), (2, 3), (3, 6)):
        plain = sampled(pipe, grid, plan=plan)
        assert sampled(pipe, grid, plan=plan, positions=positions).equal(plain)
    for grid in ((8, 4), (5, 9), (9, 9)):
        plain = sampled(pipe, grid, plan=plan)
        assert not sampled(pipe, grid, plan=plan, positions=positions).equal(plain)


def test_each_interpolation_samples_its_own():
    found = [sampled(pipeline(), (8, 8), positions=each) for each in INTERPOLATIONS]
    assert len({str(tokens.tolist()) for tokens in found}) == len(INTERPOLATIONS)


@pytest.mark.parametrize("causal", [False, True], ids=["mar", "ar"])
@pytest.mark.parametrize("positions", INTERPOLATIONS)
def test_a_context_says_which_positions(monkeypatch, positions, causal):
    """A longer grid is one of training whose table has been put in the place of its own."""
    network, tokens = tiny.network(longest=(4, 5)), tiny.tokens(grid=(6, 7))
    table = rotary_table(6, 7, 16, torch.device("cpu"), positions, (4, 5))
    with torch.no_grad():
        context = replace(network.encode(LABELS, causal), positions=positions)
        found = network.hidden(tokens, context, causal=causal)
        monkeypatch.setattr(network, "_table", lambda *_: table)
        expected = network.hidden(tokens, network.encode(LABELS, causal), causal=causal)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("positions", INTERPOLATIONS)
def test_a_cache_of_a_longer_grid_changes_nothing(positions):
    network, tokens, cache = tiny.network(), tiny.tokens(grid=(3, 7)), KVCache(21)
    with torch.no_grad():
        context = replace(network.encode(LABELS, causal=True), positions=positions)
        expected = network.hidden(tokens, context, causal=True)
        for row in range(21):
            rows = torch.full((2, 1), row)
            found = network.hidden(tokens, context, rows, causal=True, cache=cache)
            torch.testing.assert_close(found[:, 0], expected[:, row], rtol=0, atol=1e-11)


def test_joined_contexts_keep_their_positions():
    parts = [Context(last=torch.zeros(1, 1, 4), positions="ntk") for _ in range(2)]
    joined = Context.cat(parts)
    assert (joined.positions, joined.last.shape) == ("ntk", (2, 1, 4))


def test_the_longest_sides_are_those_of_the_grid_unless_told():
    assert NetworkConfig(grid=(3, 5)).longest_sides == (3, 5)
    assert NetworkConfig(grid=(3, 5), longest=(4, 8)).longest_sides == (4, 8)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"grid": (16, 16), "longest": (12, 20)},
            "network.longest=12,20 is shorter than network.grid=16,16, which is a grid of training "
            "too; raise it, or leave it out.",
        ),
        *(
            (
                {"longest": (20, 20), **changes},
                "network.longest=20,20 has no effect without rotary positions in two dimensions on "
                "any grid; leave it out.",
            )
            for changes in ({"learned_positions": True}, {"rotary": "published"}, {"kind": "vit"})
        ),
    ],
)
def test_sentences(changes, sentence):
    with pytest.raises(UserError) as error:
        NetworkConfig(**changes)
    assert str(error.value) == sentence
