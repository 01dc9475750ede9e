"""What every generator keeps to, whatever it is made of. Networks come from `tiny.network`."""

from dataclasses import replace
from itertools import product

import pytest
import tiny
import torch
import torch.nn.functional as F

from Network import build_network
from Network.context import Context

EXACT = {"rtol": 0, "atol": 1e-11}  # float64
LABELS = torch.tensor([1, 3])


def gradients(network):
    """Of a loss on random targets, by name; each must be finite and not all zero."""
    target = torch.arange(32).view(2, 16) % 11
    logits = network(tiny.tokens(), LABELS)
    assert logits.shape == (2, 16, 11)  # no logit for the mask token
    F.cross_entropy(logits.flatten(0, 1), target.flatten()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def batch_does_not_matter(network):
    tokens, labels = tiny.tokens(5), torch.tensor([0, 3, 1, 1, 2])
    with torch.no_grad():
        together = network(tokens, labels)
        for index in range(5):
            alone = network(tokens[index, None], labels[index, None])
            torch.testing.assert_close(together[index, None], alone, **EXACT)


def labels_and_tokens_matter(network):
    """Each label to each token; each token to each."""
    with torch.no_grad():
        logits = network(tiny.tokens(1).expand(4, -1, -1), torch.arange(4))
        for first, second in product(range(4), range(4)):
            if first != second:
                assert ((logits[first] - logits[second]).abs().amax(-1) > 1e-6).all()
        tokens = tiny.tokens(1).flatten(1)
        for place in range(16):
            other = tokens.clone()
            other[0, place] = (other[0, place] + 1) % 12
            changes = network(other, LABELS[:1]) - network(tokens, LABELS[:1])
            assert (changes.abs().amax(-1) > 1e-9).all()


def rows_are_those_of_all(network):
    tokens, rows = tiny.tokens(), torch.tensor([[3, 0, 15, 15, 7], [9, 14, 2, 1, 0]])
    with torch.no_grad():
        context = network.encode(LABELS)
        every = network.hidden(tokens, context)
        some = network.hidden(tokens, context, rows)
        expected = torch.stack([every[image, rows[image]] for image in range(2)])
        torch.testing.assert_close(some, expected, **EXACT)
        torch.testing.assert_close(network.hidden_at_once(tokens, LABELS), every, **EXACT)
        logits = network(tokens, LABELS)
        torch.testing.assert_close(network.head(every), logits, **EXACT)
    return some, rows, torch.stack([logits[image, rows[image]] for image in range(2)])


def head_takes_rows(network):
    """Of a grid or flat, as training gathers them; and guidance may mix hidden states."""
    some, rows, logits = rows_are_those_of_all(network)
    with torch.no_grad():
        torch.testing.assert_close(network.head(some, rows), logits, **EXACT)
        flat = network.head(some.flatten(0, 1), rows.flatten())
        torch.testing.assert_close(flat, logits.flatten(0, 1), **EXACT)
        other = some.flip(-1)
        mixed = torch.lerp(network.head(some, rows), network.head(other, rows), 3.0)
        found = network.head(torch.lerp(some, other, 3.0), rows)
        torch.testing.assert_close(found, mixed, **EXACT)
    assert network.head_is_linear


def contexts_join(network):
    with torch.no_grad():
        joined = Context.cat([network.encode(label[None]) for label in LABELS])
        for seed in range(2):
            tokens = tiny.tokens(seed=seed)
            found = network.head(network.hidden(tokens, joined))
            torch.testing.assert_close(found, network(tokens, LABELS), **EXACT)


def dropout_acts_in_training_only(plain, dropping):
    tokens = tiny.tokens()
    assert torch.equal(dropping(tokens, LABELS), plain(tokens, LABELS))
    dropping.train()
    assert not torch.equal(dropping(tokens, LABELS), dropping(tokens, LABELS))


def runs_in_bfloat16(network):
    network, tokens = network.float(), tiny.tokens()
    with torch.no_grad():
        exact = network(tokens, LABELS)
        with torch.autocast("cpu", torch.bfloat16):
            found = network(tokens, LABELS).float()
    assert (found - exact).norm() / exact.norm() < 0.05  # 8 bits, two blocks
    assert not torch.equal(found, exact)


def fresh_matrices(network, zero=()):
    """N(0, 0.02) for matrices, 0 for biases, 1 for gains; `zero` names the exceptions."""
    for name, parameter in build_network(replace(network.config)).named_parameters():
        if name.endswith("bias") or name in zero:
            assert not parameter.any(), name
        elif parameter.dim() == 1:
            assert (parameter == 1).all(), name
        else:
            deviation = 0.02 * (1 + 4 / parameter.numel() ** 0.5)
            assert 0.0004 / deviation < parameter.std() < deviation, name


def one_grid_is_known(network):
    with pytest.raises(ValueError, match=r"has learned the places of the grid 4x4, not 2x3$"):
        network(tiny.tokens(grid=(2, 3)), LABELS)
    with pytest.raises(ValueError, match="4x4, not 15$"):
        network(torch.zeros(2, 15, dtype=torch.int64), LABELS)
