"""What is foretold without memory is what real tensors take, and what a formula says."""

from functools import partial

import pytest
import torch
from tiny_runs import config, tokenizer_weights
from torch import nn

from MaskGIL.device import autocast
from Network.rotary import rotary_table
from Trainer.blocks import recompute
from Trainer.dry_run import Generator, Tokenizer
from Trainer.footprint import Peak, Way, fewest_fitting, footprint

CPU = torch.device("cpu")


def test_the_peak_of_what_comes_and_goes_by_hand():
    before = torch.zeros(100)  # was there: not counted
    with Peak() as peak:
        doubled = before * 2
        view = doubled.view(10, 10)  # shares its memory
        del doubled
        tripled = before * 3
        assert peak.bytes == 800
        del view
        quadrupled = before * 4
        del tripled, quadrupled
        before.add_(1)
        five = [before * 5 for _ in range(2)]
    assert len(five) == 2
    assert peak.bytes == 800


@pytest.mark.parametrize("parts", [1, 2])
def test_a_chain_of_layers_by_hand(parts):
    """At the end of the backward pass: the gradient of the weights, and twice that where the parts
    add up; the two layers' inputs stay until then, one of them is the input itself."""
    count = 50 * 50

    def loss_of(module):
        return module(torch.zeros(1, 50)).sum()

    def build():
        return nn.Sequential(nn.Linear(50, 50, bias=False), nn.Linear(50, 50, bias=False))

    found = footprint(build, loss_of, Way(CPU, parts=parts))
    assert found.state == 16 * 2 * count  # weight, two moments, average
    of_gradients = 4 * count * (2 if parts == 1 else 3)  # the third is about to be added
    assert of_gradients <= found.step <= of_gradients + 4 * 50 * 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("job", "kind"), [("generator", Generator), ("tokenizer", Tokenizer)])
def test_real_tensors_take_as_much(tmp_path, job, kind, dtype):
    model = kind(config(job, tokenizer_weights(tmp_path)))
    loss_of = partial(model.loss_of, 8)
    found = footprint(model.build, loss_of, Way(CPU, dtype))
    module = model.build()
    with Peak() as peak:
        with autocast(CPU, dtype):
            loss = loss_of(module)
        loss.backward()
    assert found.step == pytest.approx(peak.bytes, rel=0.02)
    assert found.state == 16 * sum(p.numel() for p in module.parameters())


def test_no_table_without_memory_is_remembered(tmp_path):
    model = Generator(config("generator", tmp_path))
    rotary_table(4, 4, 16, CPU)
    footprint(model.build, partial(model.loss_of, 2), Way(CPU))
    assert type(rotary_table(4, 4, 16, CPU)) is torch.Tensor
    model.build()(*model.inputs(2))


def test_recomputed_blocks_take_less(tmp_path):
    model = Generator(config("generator", tmp_path, "network.depth=8"))
    steps = [
        footprint(model.build, partial(model.loss_of, 16), Way(CPU, recomputed=share)).step
        for share in (0, 0.5, 1)
    ]
    assert steps[0] > 1.3 * steps[1] > 1.3 * 1.3 * steps[2]
    module = model.build()
    recompute(module, 1)
    with Peak() as peak:
        model.loss_of(16, module).backward()
    assert steps[2] == pytest.approx(peak.bytes, rel=0.02)


def test_ranks_share_or_copy(tmp_path):
    model = Generator(config("generator", tmp_path))
    count = sum(p.numel() for p in model.build().parameters())
    build, loss_of = model.build, partial(model.loss_of, 2)
    alone, in_parts, ddp, fsdp = (
        footprint(build, loss_of, Way(CPU, parts=parts, ranks=ranks, shards=shards))
        for parts, ranks, shards in ((1, 1, False), (2, 1, False), (1, 4, False), (1, 4, True))
    )
    assert alone.state == ddp.state == 16 * count
    assert fsdp.state == 4 * count
    assert alone.step < ddp.step == in_parts.step  # its gradients are there from the start


@pytest.mark.parametrize(("available", "parts"), [(100, 1), (50, 2), (32, 4), (10, 12), (1, 12)])
def test_the_fewest_parts_that_fit(available, parts):
    tried = []
    total = lambda parts: tried.append(parts) or 100 // parts  # noqa: E731
    assert fewest_fitting([1, 2, 3, 4, 6, 12], total, available) == parts
    assert len(tried) <= 3
