from math import cos, log2, sin

import pytest
import tiny
import torch
import torch.nn.functional as F

from Network import build_network
from Network.config import NetworkConfig, UserError
from Network.size_condition import SizeCondition, size_features

CPU = torch.device("cpu")
LABELS = torch.tensor([1, 3])


def test_features_are_waves_of_the_logarithms():
    expected = [
        wave(2.0**octave * log2(side))
        for side in (12, 20)
        for wave in (sin, cos)
        for octave in range(-3, 5)
    ]
    assert size_features((12, 20), CPU).tolist() == pytest.approx(expected, abs=1e-5)


def test_sides_are_told_apart():
    sides = torch.stack([size_features((side, 1), CPU) for side in range(1, 129)])
    assert torch.pdist(sides).min() > 0.1


def test_height_is_not_width():
    condition = tiny.fill(SizeCondition(8))
    assert not torch.equal(condition((2, 3)), condition((3, 2)))


@pytest.mark.parametrize("rotary", ["grid2d", "llamagen", "published"])
def test_at_first_it_changes_nothing(rotary):
    networks = []
    for size_condition in (False, True):
        torch.manual_seed(0)
        network = build_network(tiny.network_config(rotary=rotary, size_condition=size_condition))
        torch.nn.init.normal_(network.output.weight)
        networks.append(network)
    plain, told = (network.state_dict() for network in networks)
    assert told.keys() - plain.keys() == {"size_condition.weight"}
    assert all(torch.equal(told[name], tensor) for name, tensor in plain.items())
    plain, told = (network(tiny.tokens(grid=(3, 5)), LABELS) for network in networks)
    assert torch.equal(plain, told)


@pytest.mark.parametrize("causal", [False, True], ids=["mar", "ar"])
@pytest.mark.parametrize("norm", ["pre", "post", "sandwich"])
@pytest.mark.parametrize("embed_norm", [False, True])
def test_it_learns_from_nothing(embed_norm, norm, causal):
    """A step against the gradient, from a fresh table, lowers the loss."""
    network = tiny.network(size_condition=True, norm=norm, embed_norm=embed_norm)
    weight = network.size_condition.weight
    torch.nn.init.zeros_(weight)

    def loss():
        logits = network(tiny.tokens(), LABELS, causal=causal)
        return F.cross_entropy(logits.flatten(0, 1), torch.arange(32) % 11)

    before = loss()
    (gradient,) = torch.autograd.grad(before, weight)
    assert gradient.any(0).all()  # of every feature
    with torch.no_grad():
        weight -= 1e-3 * gradient / gradient.norm()
        assert loss() < before


def test_a_fresh_table_beside_weights_that_have_none():
    """As `init_from` with init_skip=size_condition leaves it: weights of one size go on."""
    network = tiny.network(size_condition=True)
    torch.nn.init.zeros_(network.size_condition.weight)
    plain = tiny.network()
    plain.load_state_dict(network.state_dict(), strict=False)
    tokens = tiny.tokens(grid=(5, 3))
    assert torch.equal(network(tokens, LABELS), plain(tokens, LABELS))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"kind": "halton"},
            "network.size_condition=true has no effect on network.kind=halton; leave it out.",
        ),
        (
            {"learned_positions": True},
            "network.size_condition=true tells grids of several sizes apart, and there is one with "
            "network.learned_positions=true; leave one of them out.",
        ),
    ],
)
def test_sentences(changes, sentence):
    with pytest.raises(UserError) as error:
        NetworkConfig(size_condition=True, **changes)
    assert str(error.value) == sentence
