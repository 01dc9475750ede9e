"""The published step of the benchmarks: the network's outputs are those of the published code."""

import json
from pathlib import Path

import pytest
import torch
from fixtures.network import filler
from safetensors import safe_open
from torch import nn

from benchmarks.original import OriginalNetwork, original_loss, original_network, rotary
from Network.config import NetworkConfig

# Inputs, logits and hidden states of the published MaskGIL's own class (synbol/MaskGIL 4edf674), of
# 2 blocks, filled by the rule of fixtures/network/filler.py
GOLDEN = Path(__file__).parent / "fixtures" / "network" / "published_tiny.safetensors"


@pytest.fixture(scope="module")
def golden():
    with safe_open(GOLDEN, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def tiny_config(metadata, **changes):
    facts = json.loads(metadata["config"])
    return NetworkConfig(
        depth=facts["n_layer"], width=facts["dim"], heads=facts["n_head"], grid=(8, 8),
        codebook_size=facts["vocab_size"], num_classes=facts["num_classes"], **changes,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("scale", "suffix", "tolerance"), [(0.02, "", 1e-5), (0.2, "_hot", 1e-4)], ids=["", "hot"]
)
def test_its_logits_are_those_of_the_published_code(golden, scale, suffix, tolerance):
    tensors, metadata = golden
    network = OriginalNetwork(tiny_config(metadata)).eval()
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    weights = filler.transformer_weights(shapes, scale)
    assert filler.digest(weights) == json.loads(metadata["weights_sha256"])[f"scale {scale}"]
    network.load_state_dict(weights)
    labels = tensors["labels"]
    dropped = torch.where(tensors["drop_label"], 10, labels)  # row 10 is the null class
    for name, classes in (("logits_keep", labels), ("logits", dropped)):
        expected = tensors[name + suffix][:, :64]  # behind them stands the class token
        found = network(tensors["idx"], classes)
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_its_rotary_table_is_that_of_the_published_code(golden):
    tensors, _ = golden
    torch.testing.assert_close(rotary(64, 16), tensors["freqs_cis"], rtol=1e-5, atol=1e-5)


def test_dropout_stands_in_all_three_places(golden):
    network = original_network(tiny_config(golden[1], dropout=0.1))
    found = [module.p for module in network.modules() if isinstance(module, nn.Dropout)]
    assert found == [0.1] * (1 + 2 * 2)
    assert network.training


def test_its_loss_counts_visible_tokens_too(golden):
    tensors, metadata = golden
    network = original_network(tiny_config(metadata)).eval()
    tokens = tensors["idx"] % 32
    with torch.no_grad():
        probabilities = network(tokens, tensors["labels"]).softmax(-1)  # (B, N, 33)
        right = probabilities.gather(-1, tokens.flatten(1)[..., None])[..., 0].log()
        # Szegedy et al., 2016: 0.1 of the target is spread over all classes
        expected = -(0.9 * right + 0.1 * probabilities.log().mean(-1)).mean()
        found = original_loss(network, tokens, tensors["labels"], tokens)
    torch.testing.assert_close(found, expected)
