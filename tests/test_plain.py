"""The yardstick of the benchmarks computes what ours computes, and no more than it must."""

import math

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plain import plain_copy, sample, sample_in_order
from MaskGIL.decoding import decode
from MaskGIL.masking import counted_rows, masked_loss
from MaskGIL.plans import ar_plan, mar_plan
from MaskGIL.predictor import CausalPredictor, GuidedPredictor
from MaskGIL.sampling import SamplingConfig
from Network.feed_forward import feed_forward_width

GRID = (3, 5)  # rows and columns differ, so that they cannot be mistaken for each other
LABELS = torch.tensor([1, 3])  # a class and the null condition
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(params=[False, True], ids=["rotary", "learned positions too"])
def pair(request):
    ours = tiny.network(grid=GRID, learned_positions=request.param).float().train()
    return ours, plain_copy(ours, ours.config)


def test_logits_are_equal(pair):
    ours, plain = pair
    tokens = tiny.tokens(grid=GRID)
    expected = ours(tokens, LABELS)
    assert expected.std() > 0.5
    torch.testing.assert_close(plain(tokens, LABELS), expected, **CLOSE)
    rows = torch.tensor([0, 7, 14, 15, 29])
    torch.testing.assert_close(plain(tokens, LABELS, rows), expected.flatten(0, 1)[rows], **CLOSE)


def test_loss_and_gradients_are_equal(pair):
    ours, plain = pair
    tokens, targets = tiny.tokens(grid=GRID), tiny.tokens(grid=GRID, codes=10, seed=1)
    mask = tokens.flatten(1) % 2 == 1  # 11, the mask token, and others
    rows, weights = counted_rows(mask, 25)
    hidden = ours.hidden(tokens, ours.encode(LABELS)).flatten(0, 1)[rows]
    total = mask.sum().float()
    loss, _ = masked_loss(ours.head(hidden), targets.flatten()[rows], weights, total, 0.1)
    counted = targets.flatten().masked_fill(~mask.flatten(), -100)
    plain_loss = F.cross_entropy(plain(tokens, LABELS).flatten(0, 1), counted, label_smoothing=0.1)
    torch.testing.assert_close(plain_loss, loss, **CLOSE)
    loss.backward()
    plain_loss.backward()
    expected = plain_copy(_gradients(ours), ours.config).state_dict()
    for name, parameter in plain.named_parameters():
        assert parameter.grad.any(), name
        torch.testing.assert_close(parameter.grad, expected[name], msg=name, **CLOSE)


def test_as_many_numbers_pass_a_dropout(pair):
    ours, plain = map(_numbers_through_dropout, pair)
    assert plain == ours > 0


# 2 multiplications and additions per weight and token; attention multiplies S x S numbers by D
# channels twice in each block.
def test_it_does_no_needless_matrix_work(pair):
    _, plain = pair
    with FlopCounterMode(display=False) as counter:
        plain(tiny.tokens(grid=GRID), LABELS)
    depth, width, codes = 2, 32, 11
    length, num_tokens = 1 + math.prod(GRID), math.prod(GRID)
    weights = 4 * width**2 + 3 * width * feed_forward_width(width)
    block = 2 * length * weights + 4 * length**2 * width
    assert counter.get_total_flops() == 2 * (depth * block + 2 * num_tokens * width * codes)


@pytest.mark.parametrize("num_steps", [1, 4, 15])
def test_the_sampler_is_ours_where_chance_has_no_say(pair, num_steps):
    ours, plain = (network.eval() for network in pair)
    labels, seeds = torch.tensor([0, 1, 2, 1]), torch.arange(4)
    settings = SamplingConfig(num_steps=num_steps, temperature=1e-4, noise=0.0)
    plan = mar_plan(math.prod(GRID), num_steps)
    predictor = GuidedPredictor(ours, labels, settings)
    empty = torch.full((4, *GRID), ours.mask_id)
    expected = decode(predictor, empty, plan, seeds, mask_id=ours.mask_id, sampling=settings)
    found = sample(plain, labels, [step.count for step in plan], settings)
    assert len(expected.unique()) > 1
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_sampler_in_order_is_ours_where_chance_has_no_say(pair, scale):
    ours, plain = (network.eval() for network in pair)
    labels, seeds = torch.tensor([0, 1, 2, 1]), torch.arange(4)
    settings = SamplingConfig(temperature=1e-4, guidance="constant", guidance_scale=scale)
    predictor = CausalPredictor(ours, labels, settings)
    empty, plan = torch.full((4, *GRID), ours.mask_id), ar_plan(math.prod(GRID))
    expected = decode(predictor, empty, plan, seeds, mask_id=ours.mask_id, sampling=settings)
    found = sample_in_order(plain, labels, settings, torch.float32)
    assert len(expected.unique()) > 1
    assert found.tolist() == expected.tolist()


def test_the_sampler_draws(pair):
    _, plain = pair
    torch.manual_seed(0)
    settings = SamplingConfig(temperature=5.0)
    first, second = (sample(plain, LABELS, [5, 5, 5], settings) for _ in range(2))
    assert first.shape == (2, *GRID)
    assert int(first.max()) < 11
    assert first.tolist() != second.tolist()


def _numbers_through_dropout(network):
    seen = []
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda _, inputs, output: seen.append(output.numel()))
    network(tiny.tokens(grid=GRID), LABELS)
    return sum(seen)


@torch.no_grad()
def _gradients(network):
    """The network with its gradients in place of its weights."""
    for parameter in network.parameters():
        parameter.copy_(parameter.grad)
    return network
