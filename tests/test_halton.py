"""Halton-MaskGIT's transformer; its authors' own numbers are in test_generator_files.py."""

import contract
import pytest
import tiny
import torch
import torch.nn.functional as F

from Network import build_network
from Network.config import NetworkConfig, UserError
from Network.halton import HaltonTransformer


def network(**changes):
    return tiny.network(kind="halton", **changes)


@pytest.mark.parametrize("heads", [2, 3])  # 3 heads of 10 do not fill a width of 32
def test_a_gradient_reaches_every_parameter(heads):
    contract.gradients(network(heads=heads))


@pytest.mark.parametrize("heads", [2, 3])
def test_the_contract(heads):
    ours = {"heads": heads}
    assert type(network(**ours)) is HaltonTransformer
    assert network(**ours).objectives == ("mar",)
    contract.batch_does_not_matter(network(**ours))
    contract.labels_and_tokens_matter(network(**ours))
    contract.head_takes_rows(network(**ours))
    contract.contexts_join(network(**ours))
    contract.dropout_acts_in_training_only(network(**ours), network(dropout=0.5, **ours))
    contract.runs_in_bfloat16(network(**ours))
    zero = [f"{part}modulation.weight" for part in ("blocks.0.", "blocks.1.", "")]
    contract.fresh_matrices(network(**ours), zero=zero)
    contract.one_grid_is_known(network(**ours))


def test_a_fresh_block_is_the_identity():
    """So a fresh network sees neither class nor neighbours (adaLN-Zero of DiT)."""
    ours, tokens = build_network(tiny.network_config(kind="halton")), tiny.tokens()
    with torch.no_grad():
        x = ours.token_embedding(tokens.flatten(1)) + ours.position_embedding.weight
        expected = F.rms_norm(x, (32,), eps=1e-5) @ ours.token_embedding.weight[:11].T
        torch.testing.assert_close(ours(tokens, contract.LABELS), expected)


def test_what_a_context_holds():
    context = network().encode(contract.LABELS)
    assert [tuple(vectors.shape) for vectors in context.vectors] == [(2, 6, 32)] * 2 + [(2, 2, 32)]
    assert (context.keys, context.values, context.tokens) == ([], [], None)


@pytest.mark.parametrize(
    ("size", "numbers", "parameters"),
    [  # of its authors' classes, which count one bias more, that of the mask token
        ("tiny", (6, 384, 6), 23_031_425),
        ("small", (12, 512, 6), 69_344_769),
        ("base", (12, 768, 12), 142_224_641),
        ("large", (24, 1024, 16), 479_656_961),
        ("xlarge", (28, 1152, 16), 692_118_401),
    ],
)
def test_its_sizes(size, numbers, parameters):
    config = NetworkConfig(kind="halton", size=size)
    assert (config.depth, config.width, config.heads) == numbers
    with torch.device("meta"):
        ours = build_network(config)
    assert sum(parameter.numel() for parameter in ours.parameters()) == parameters - 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"rotary": "llamagen"},
         "network.rotary=llamagen has no effect on network.kind=halton; leave it out."),
        ({"mlp_width": 64},
         "network.mlp_width=64 has no effect on network.kind=halton; leave it out."),
        ({"size": "B"}, "Unknown network.size 'B'. Known: tiny, small, base, large, xlarge."),
        ({"width": 8, "heads": 9}, "network.heads=9 must not exceed network.width=8."),
    ],
)  # fmt: skip
def test_sentences(settings, sentence):
    with pytest.raises(UserError) as error:
        NetworkConfig(kind="halton", **settings)
    assert str(error.value) == sentence
