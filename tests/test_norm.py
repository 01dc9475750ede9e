"""Expected numbers: the definition of RMSNorm, and PyTorch's own gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from Network.norm import RMSNorm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("learning", [False, True])
def test_norm_is_computed_wide(dtype, learning):
    x = 300 * torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    norm = RMSNorm(64)
    nn.init.normal_(norm.weight)
    with torch.set_grad_enabled(learning):
        found = norm.to(dtype)(x.to(dtype))
    assert found.dtype == torch.float32
    x, weight = x.to(dtype).double(), norm.weight.double()
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def gradients(normalised, *inputs):
    torch.manual_seed(1)
    return torch.autograd.grad(normalised, inputs, torch.randn_like(normalised))


@pytest.mark.parametrize("shape", [(64,), (7, 64), (2, 5, 3, 64)])
def test_gradients_are_those_of_pytorch(shape):
    torch.manual_seed(0)
    x, norm = 3 * torch.randn(shape, dtype=torch.double, requires_grad=True), RMSNorm(64).double()
    nn.init.normal_(norm.weight)
    expected = F.rms_norm(x, (64,), norm.weight, 1e-5)
    torch.testing.assert_close(norm(x), expected)
    for ours, pytorch in zip(
        gradients(norm(x), x, norm.weight), gradients(expected, x, norm.weight)
    ):
        torch.testing.assert_close(ours, pytorch)


def test_gradients_keep_the_type_of_what_came_in():
    norm = RMSNorm(64).bfloat16()
    x = torch.randn(2, 64, dtype=torch.bfloat16, requires_grad=True)
    assert {gradient.dtype for gradient in gradients(norm(x), x, norm.weight)} == {torch.bfloat16}


def test_a_second_derivative_is_refused():
    norm = RMSNorm(4)
    x = torch.ones(1, 4, requires_grad=True)
    first = torch.autograd.grad(norm(x).square().sum(), x, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
