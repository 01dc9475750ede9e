from dataclasses import astuple, replace

import pytest
import torch

from Network import build_network
from Network.config import NetworkConfig, UserError
from Network.feed_forward import feed_forward_width
from Network.sizes import SIZES


# 111M to 1.4B of the MaskGIL paper, to four digits: 12 D^2 per block in attention and SwiGLU
# (8/3 D rounded up to 256), plus tables of 16,385 tokens, 1,001 classes and 16,384 outputs.
@pytest.mark.parametrize(
    ("size", "millions"),
    [("B", 110.9), ("L", 342.9), ("XL", 774.7), ("XXL", 1411.0), ("3B", 3100.0)],
)
def test_parameters_of_the_named_sizes(size, millions):
    with torch.device("meta"):
        network = build_network(NetworkConfig(size=size))
    found = sum(parameter.numel() for parameter in network.parameters())
    assert found / 1e6 == pytest.approx(millions, rel=0.005)
    assert (network.config.depth, network.config.width, network.config.heads) == SIZES[size]
    depth, width, _ = SIZES[size]
    block = 4 * width**2 + 3 * width * feed_forward_width(width)
    tables = (2 * 16384 + 1 + 1001) * width
    assert found == pytest.approx(depth * block + tables, rel=0.001)  # the rest are gains


def test_an_unknown_size_is_told_with_the_closest():
    with pytest.raises(
        UserError, match=r"^Unknown network.size 'xl'. Did you mean 'XL'\? Known: B"
    ):
        NetworkConfig(size="xl")


def test_a_named_size_fills_in_its_numbers():
    config = NetworkConfig(size="B", depth=12)
    assert (config.size, config.depth, config.width, config.heads) == ("B", 12, 768, 12)
    assert replace(config) == config
    assert astuple(NetworkConfig())[2:5] == (6, 192, 6)
    assert NetworkConfig(depth=3).width == 192
    with pytest.raises(UserError) as error:
        NetworkConfig(size="B", depth=3, heads=12)
    assert str(error.value) == (
        "network.size=B has network.depth=12 network.width=768 network.heads=12, but "
        "network.depth=3 network.width=0 network.heads=12 is asked for; write network.depth=0 "
        "network.width=0 network.heads=0 with it, or network.size= without."
    )
