import pytest
import tiny
import torch

from Network.feed_forward import FeedForward, feed_forward_width


@pytest.mark.parametrize(
    ("width", "inner"), [(768, 2048), (1024, 2816), (1280, 3584), (1536, 4096), (3200, 8704)]
)
def test_inner_widths_of_llama(width, inner):
    assert feed_forward_width(width) == inner  # DESIGN's table, from LlamaGen's find_multiple


def test_it_is_its_formula():
    feed, x = tiny.fill(FeedForward(8)), torch.randn(2, 3, 8)
    gate, up = x @ feed.gate.weight.T, x @ feed.up.weight.T
    expected = (gate / (1 + (-gate).exp()) * up) @ feed.down.weight.T
    torch.testing.assert_close(feed(x), expected)
