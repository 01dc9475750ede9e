"""MaskGIT's transformer; its authors' own numbers are in test_generator_files.py."""

import contract
import pytest
import tiny
import torch

from Network import build_network
from Network.config import NetworkConfig, UserError
from Network.transformer import MaskTransformer


def network(**changes):
    return tiny.network(kind="vit", **changes)


def test_a_gradient_reaches_every_parameter():
    contract.gradients(network())


def test_the_contract():
    assert type(network()) is MaskTransformer
    assert network().objectives == ("mar",)
    contract.batch_does_not_matter(network())
    contract.labels_and_tokens_matter(network())
    contract.head_takes_rows(network())
    contract.contexts_join(network())
    contract.dropout_acts_in_training_only(network(), network(dropout=0.5))
    contract.runs_in_bfloat16(network())
    contract.fresh_matrices(network())
    contract.one_grid_is_known(network())


def test_every_place_has_a_bias_of_its_own():
    ours = network()
    with torch.no_grad():
        before = ours(tiny.tokens(), contract.LABELS)
        ours.bias[5] += torch.arange(11)
        change = ours(tiny.tokens(), contract.LABELS) - before
    torch.testing.assert_close(change[:, 5], torch.arange(11.0).double().expand(2, -1))
    assert not change[:, torch.arange(16) != 5].any()


def test_hidden_states_that_do_not_say_their_places():
    ours = network()
    with pytest.raises(AssertionError, match="say which rows"):
        ours.head(ours.hidden_at_once(tiny.tokens(), contract.LABELS)[:, :5])


def test_torchs_own_attention_computes_the_same():
    """The authors' blocks hold torch's class, here with the same weights."""
    block = network().blocks[0]
    theirs = torch.nn.MultiheadAttention(32, 2, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(block.qkv.weight)
        theirs.in_proj_bias.copy_(block.qkv.bias)
        theirs.out_proj.weight.copy_(block.out.weight)
        theirs.out_proj.bias.copy_(block.out.bias)
        block.feed_forward[-1].weight.zero_()
        block.feed_forward[-1].bias.zero_()
        x = torch.randn(2, 7, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        y = block.attention_norm(x)
        torch.testing.assert_close(block(x), x + theirs(y, y, y)[0], **contract.EXACT)


def test_its_sizes_and_its_inner_width():
    """Parameters: synbol/MaskGIL's commented sizes, without what predicts no code."""
    config = NetworkConfig(kind="vit", size="big", codebook_size=1024, mlp_width=3072)
    assert (config.depth, config.width, config.heads) == (32, 1024, 16)
    with torch.device("meta"):
        ours = build_network(config)
    found = sum(parameter.numel() for parameter in ours.parameters())
    assert found == 341_953_002 - (257 * 2026 - 256 * 1024)
    assert (
        build_network(tiny.network_config(kind="vit")).blocks[0].feed_forward[0].out_features == 128
    )
    inner = build_network(tiny.network_config(kind="vit", mlp_width=48)).blocks[0].feed_forward
    assert (inner[0].out_features, inner[3].in_features) == (48, 48)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"norm": "pre"}, "network.norm=pre has no effect on network.kind=vit; leave it out."),
        ({"qk_norm": False}, "network.qk_norm=false has no effect on network.kind=vit; leave it "
                             "out."),
        ({"size": "hug"}, "Unknown network.size 'hug'. Did you mean 'huge'? Known: small, big, "
                          "huge."),
        ({"width": 64, "heads": 5}, "network.heads=5 must divide network.width=64."),
        ({"mlp_width": -1}, "network.mlp_width and network.caption_width must not be negative."),
    ],
)  # fmt: skip
def test_sentences(settings, sentence):
    with pytest.raises(UserError) as error:
        NetworkConfig(kind="vit", **settings)
    assert str(error.value) == sentence
