import math

import pytest
import tiny
import torch
from torch import nn

from Network import build_network
from Trainer.config import OptimConfig
from Trainer.optim import EMA, build_optimizer, gradient_norm, learning_rate, set_learning_rate

CONFIG = OptimConfig(lr=0.4, warmup=10, weight_decay=0.5)


# The optimiser


@pytest.mark.parametrize("make", [lambda: build_network(tiny.network_config()), tiny.tokenizer])
def test_every_parameter_is_in_one_group_and_matrices_alone_decay(make):
    module = make()
    groups = build_optimizer(module, CONFIG).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert len(decay) == sum(len(group["params"]) for group in groups)
    for name, parameter in module.named_parameters():
        assert decay.pop(id(parameter)) == (0.5 if parameter.dim() > 1 else 0.0), name
    assert decay == {}


def test_without_gradient_only_matrices_shrink():
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    tiny.fill(module)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer = build_optimizer(module, CONFIG)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    set_learning_rate(optimizer, 0.1)
    optimizer.step()
    for name, parameter in module.named_parameters():
        factor = 1 - 0.1 * 0.5 if name == "0.weight" else 1.0  # AdamW: p (1 - lr decay)
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


def test_the_betas_and_the_learning_rate_reach_every_group():
    optimizer = build_optimizer(nn.Linear(2, 2), OptimConfig(beta1=0.7, beta2=0.8))
    set_learning_rate(optimizer, 0.125)
    assert [(g["betas"], g["lr"]) for g in optimizer.param_groups] == [((0.7, 0.8), 0.125)] * 2


# The learning rate


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_learning_rate_at_the_marked_steps(final):
    config = OptimConfig(lr=0.4, warmup=10, final_lr=final)
    at = {step: learning_rate(step, 110, config) for step in (0, 4, 9, 10, 60, 110, 500)}
    floor = 0.4 * final
    expected = {0: 0.04, 4: 0.2, 9: 0.4, 10: 0.4, 60: (0.4 + floor) / 2, 110: floor, 500: floor}
    assert at == pytest.approx(expected, abs=1e-15)


def test_learning_rate_grows_then_falls():
    rates = [learning_rate(step, 100, CONFIG) for step in range(101)]
    assert rates[:10] == sorted(set(rates[:10]))
    assert rates[10:] == sorted(set(rates[10:]), reverse=True)
    quarter = 0.4 * 0.5 * (1 + math.cos(math.pi / 3))  # a third of the way from 10 to 100
    assert rates[40] == pytest.approx(quarter)


def test_without_warmup_it_starts_at_the_top():
    config = OptimConfig(lr=0.4, warmup=0)
    assert learning_rate(0, 10, config) == 0.4
    assert learning_rate(10, 10, config) == pytest.approx(0)


# The average


def test_the_average_equals_a_naive_loop():
    """decay = min(0.9, (1 + n) / (10 + n)): 0.1, 0.18.., then 0.9 from n = 80 on."""
    module = nn.Linear(2, 1).double()
    average = EMA(module, 0.9)
    expected = module.weight[0].tolist()
    decays = []
    for step in range(100):
        with torch.no_grad():
            module.weight.copy_(torch.tensor([[step + 1.0, -(step**2)]]))
        average.update(module, step)
        decays.append(min(0.9, (1 + step) / (10 + step)))
        now = module.weight[0].tolist()
        expected = [decays[-1] * old + (1 - decays[-1]) * new for old, new in zip(expected, now)]
        assert average.tensors["weight"][0].tolist() == pytest.approx(expected, rel=1e-12)
    assert decays[0] == 0.1
    assert decays[79] < 0.9 == decays[80] == decays[99]


def test_the_average_starts_as_a_copy_and_copies_integers():
    module = nn.BatchNorm1d(2)
    average = EMA(module, 0.9)
    assert average.tensors.keys() == module.state_dict().keys()
    module(torch.randn(4, 2))
    assert average.tensors["num_batches_tracked"] == 0  # apart from the module
    average.update(module, 0)
    assert average.tensors["num_batches_tracked"] == 1


def test_the_average_takes_no_gradient():
    module = nn.Linear(2, 1)
    average = EMA(module, 0.9)
    average.update(module, 0)
    assert not any(tensor.requires_grad for tensor in average.tensors.values())


# The gradient


@pytest.mark.parametrize(("clip", "scale"), [(0.0, 1.0), (100.0, 1.0), (0.5, 0.1)])
def test_the_norm_is_that_before_clipping(clip, scale):
    module = nn.Linear(2, 1)
    module.weight.grad, module.bias.grad = torch.tensor([[0.0, 3.0]]), torch.tensor([4.0])
    assert gradient_norm(module.parameters(), clip).item() == 5  # sqrt(3^2 + 4^2)
    assert module.weight.grad[0].tolist() == pytest.approx([0, 3 * scale], rel=1e-5)
    assert module.bias.grad.tolist() == pytest.approx([4 * scale], rel=1e-5)
