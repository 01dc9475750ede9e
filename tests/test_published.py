"""The published Bi-LLaMA; its authors' own numbers are in test_generator_files.py."""

import contract
import pytest
import tiny
import torch
from test_gpt import NORMS, plain_norm
from torch.nn import functional as F
from torch.nn.functional import silu

from Network.published import PublishedGPT


def network(**changes):
    return tiny.network(rotary="published", **changes)


def test_it_is_built_for_its_layout():
    assert type(network()) is PublishedGPT
    assert network().objectives == ("mar",)
    assert network().state_dict().keys() == tiny.network().state_dict().keys()


@pytest.mark.parametrize("changes", [*NORMS, {"learned_positions": True}])
def test_a_gradient_reaches_every_parameter(changes):
    contract.gradients(network(**changes))


def test_the_contract():
    contract.batch_does_not_matter(network())
    contract.labels_and_tokens_matter(network())
    contract.rows_are_those_of_all(network())
    contract.contexts_join(network())
    contract.dropout_acts_in_training_only(network(), network(dropout=0.5))
    contract.runs_in_bfloat16(network())
    contract.fresh_matrices(network(), zero=("output.weight",))


def plain_logits(network, tokens, label):
    """One image, head by head: angle i - 1 for token i, none and nothing for token 0."""
    table = network.token_embedding.weight[tokens.flatten()]
    x = plain_norm(
        network.embed_norm, torch.cat([table, network.condition.table.weight[label, None]])
    )
    frequency = 10000.0 ** -(torch.arange(0, 16, 2).double() / 16)
    turn = torch.exp(1j * (torch.arange(len(x)).double() - 1)[:, None] * frequency)
    turn[0] = 0

    def turned(x):
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turn).flatten(1)

    for block in network.blocks:
        part, outputs = plain_norm(block.attention_norm_in, x), []
        q, k, v = (part @ block.attention.qkv.weight.T).chunk(3, -1)
        for head in (slice(0, 16), slice(16, 32)):
            queries = turned(plain_norm(block.attention.q_norm, q[:, head].contiguous()))
            keys = turned(plain_norm(block.attention.k_norm, k[:, head].contiguous()))
            outputs.append((queries @ keys.T / 4).softmax(-1) @ v[:, head])
        part = torch.cat(outputs, -1) @ block.attention.out.weight.T
        x = x + plain_norm(block.attention_norm_out, part)
        part, feed = plain_norm(block.feed_forward_norm_in, x), block.feed_forward
        part = F.linear(silu(F.linear(part, feed.gate.weight)) * F.linear(part, feed.up.weight),
                        feed.down.weight)  # fmt: skip
        x = x + plain_norm(block.feed_forward_norm_out, part)
    return plain_norm(network.norm, x[:-1]) @ network.output.weight.T


@pytest.mark.parametrize("changes", NORMS)
def test_equals_the_plain_formulation(changes):
    ours, tokens = network(grid=(2, 3), **changes), tiny.tokens(grid=(2, 3))
    with torch.no_grad():
        found = ours(tokens, contract.LABELS)
        for image, label, logits in zip(tokens, contract.LABELS, found):
            expected = plain_logits(ours, image, label)
            torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)  # float32 angles


def test_token_zero_looks_everywhere_alike():
    """Its query is zero, so what keys there are does not matter: only which values."""
    ours = network(norm="pre", embed_norm=False, qk_norm=False, depth=1)
    width = ours.config.width
    with torch.no_grad():
        before = ours(tiny.tokens(), contract.LABELS)
        ours.blocks[0].attention.qkv.weight[width : 2 * width] *= 3  # keys
        after = ours(tiny.tokens(), contract.LABELS)
    torch.testing.assert_close(after[:, 0], before[:, 0], **contract.EXACT)
    assert ((after - before)[:, 1:].abs().amax(-1) > 1e-6).all()
