import pytest
import torch
from torch import nn

from Trainer.diagnosis import examine


class Root(nn.Module):
    """The root of a number below 0 is not one; at 0 it is, but its slope is infinite."""

    def forward(self, values):
        return values.sqrt()


@pytest.fixture
def module():
    module = nn.Sequential(nn.BatchNorm1d(1, affine=False), nn.Linear(1, 1), Root())
    nn.init.ones_(module[1].weight)
    nn.init.zeros_(module[1].bias)
    return module.eval()


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([1.0, 2.0, 3.0], ""),
        ([1.0, -2.0, -3.0], "rank 0, samples 21, 22, first in 2"),
        ([1.0, 0.0, 3.0], "rank 0, samples 21, first in the gradient of 1.weight"),
        ([torch.inf, 2.0, 3.0], "rank 0, samples 20, first in what is given to 0"),
    ],
)
def test_the_first_place_and_the_samples_are_named(module, values, found):
    parts = [torch.tensor([number]) for number in (20, 21, 22)]
    module[1].weight.grad = kept = torch.tensor([[7.0]])
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    said = examine(module, parts, lambda part: module(torch.tensor([[values[part]]])).sum())
    if (
        "gradient" in found
    ):  # that of the bias comes first in the order of computation, or the other
        said = said.replace("1.bias", "1.weight")
    assert said == found
    assert module[1].weight.grad is kept
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_buffers_that_training_moves_are_put_back(module):
    module.train()
    before = module[0].running_mean.clone()
    examine(module, [torch.arange(2)], lambda _: module(torch.tensor([[1.0], [5.0]])).sum())
    assert torch.equal(module[0].running_mean, before)


def test_a_loss_that_no_module_made_is_told(module):
    said = examine(module, [torch.arange(1)], lambda _: module(torch.ones(1, 1)).sum() / 0)
    assert said == "rank 0, samples 0, first in the loss, behind the last module"
