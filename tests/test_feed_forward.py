import pytest
import tiny
import torch
import torch.nn.functional as F

from Network.feed_forward import FeedForward, feed_forward_width, gated


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


@pytest.mark.parametrize("dtype", [torch.double, torch.bfloat16])
def test_gradients_are_those_of_pytorch(dtype):
    torch.manual_seed(0)
    inputs = [(3 * torch.randn(2, 5, 8, dtype=dtype)).requires_grad_() for _ in range(2)]
    plain, along = F.silu(inputs[0]) * inputs[1], torch.randn(2, 5, 8, dtype=dtype)
    assert torch.equal(gated(*inputs), plain)
    expected, found = (torch.autograd.grad(each, inputs, along) for each in (plain, gated(*inputs)))
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        assert torch.equal(gated(*inputs), plain)


def test_it_keeps_two_tensors_for_the_backward_pass():
    kept, inputs = [], [torch.randn(8, requires_grad=True) for _ in range(2)]
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x), lambda _: None):
        gated(*inputs)
    assert [id(tensor) for tensor in kept] == [id(tensor) for tensor in inputs]
