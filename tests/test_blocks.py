import functools
import shutil

import pytest
import tiny
import torch
from tiny_runs import config
from torch import nn
from torch._dynamo.testing import CompileCounter

from Network import build_network
from Network.condition import Captions
from Network.config import UserError
from Trainer.blocks import blocks_of, compile_blocks, plain, recompute
from Trainer.memory import saved_bytes
from Trainer.vit import GeneratorTrainer, RowLogits

DEPTH = 6
LABELS = torch.tensor([1, 3])


def objective(**changes):
    network = build_network(tiny.network_config(depth=DEPTH, **changes))
    return RowLogits(tiny.fill(network))


def loss(objective, condition=LABELS):
    logits = objective(tiny.tokens(), condition, torch.arange(0, 30, 2))
    return logits.float().square().mean()


def gradients(objective, condition=LABELS):
    """Dropout is drawn from the same seed each time."""
    objective.zero_grad()
    torch.manual_seed(3)
    loss(objective, condition).backward()
    return {name: p.grad.clone() for name, p in objective.named_parameters()}


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_recomputed_blocks_give_the_same_gradient_bit_for_bit(share):
    module = objective(dropout=0.3)
    expected = gradients(module)
    recompute(module, share)
    found = gradients(module)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    torch.manual_seed(4)
    assert loss(module) != loss(module)  # dropout was on


@pytest.mark.parametrize(("share", "chosen"), [(0, []), (0.5, [1, 3, 5]), (0.34, [2, 5]),
                                               (1, [0, 1, 2, 3, 4, 5])])  # fmt: skip
def test_the_share_is_spread_evenly(share, chosen, monkeypatch):
    module, again = objective(), []
    monkeypatch.setattr(
        "Trainer.blocks.checkpoint",
        lambda inner, *args, use_reentrant, **more: (
            again.append(inner.__self__) or inner(*args, **more)
        ),
    )
    recompute(module, share)
    loss(module)
    assert [blocks_of(module).index(block) for block in again] == chosen


def test_a_recomputed_block_keeps_its_input_only():
    module = objective()
    every = saved_bytes(module, lambda: loss(module))
    recompute(module, 1)
    hidden = 2 * 17 * 32 * 4  # (B, N + P, D) in float32
    spared = every - saved_bytes(module, lambda: loss(module))
    assert spared > DEPTH * 10 * hidden  # a block has far more than ten tensors of that size


def test_names_stay_and_inference_goes_the_plain_way(monkeypatch):
    module = objective()
    names = list(module.state_dict())
    recompute(module, 1)
    monkeypatch.setattr("Trainer.blocks.checkpoint", None)  # calling it would raise
    with torch.no_grad():
        loss(module)
    assert list(module.state_dict()) == names


def test_a_module_without_blocks_has_nothing_to_recompute(tmp_path):
    recompute(nn.Linear(2, 1), 0)
    assert not compile_blocks(nn.Linear(2, 1))
    with pytest.raises(UserError, match=r"loop\.checkpoint_blocks=0\.5 asks for blocks"):
        recompute(nn.Linear(2, 1), 0.5)
    with pytest.raises(UserError, match=r"loop\.checkpoint_blocks must lie in \[0, 1\]"):
        GeneratorTrainer(config("generator", tmp_path, "loop.checkpoint_blocks=2"))


def test_all_blocks_share_one_compiled_graph(monkeypatch):
    """Or PyTorch would give up behind the eighth."""
    counter = CompileCounter()
    counted = functools.partial(torch.compile, backend=counter)
    monkeypatch.setattr("Trainer.blocks.torch.compile", counted)
    module = objective()
    names, expected = list(module.state_dict()), gradients(module)
    recompute(module, 0.5)
    assert compile_blocks(module)
    found = gradients(module)
    assert counter.frame_count <= 2  # of blocks that are kept, and of those computed again
    assert list(module.state_dict()) == names
    for name in expected:  # the norm has another formula in a graph: rounding of float32
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5, msg=name)


def test_blocks_of_captions_are_computed_again_and_compiled(monkeypatch):
    """Through which captions go first, behind a mask of their own, and then the image."""
    counter = CompileCounter()
    monkeypatch.setattr(
        "Trainer.blocks.torch.compile", functools.partial(torch.compile, backend=counter)
    )
    torch._dynamo.reset()
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(5) < torch.tensor([[0], [3]])
    given = Captions(torch.randn(2, 5, 6, generator=generator), mask, torch.tensor([False, True]))
    module = objective(num_classes=0, caption_width=6, dropout=0.3)
    expected = gradients(module, given)
    recompute(module, 0.5)
    found = gradients(module, given)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    plain = objective(num_classes=0, caption_width=6)
    expected = gradients(plain, given)
    recompute(plain, 0.5)
    compile_blocks(plain)
    found = gradients(plain, given)
    assert counter.frame_count <= 4  # of both passes, kept and computed again
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5, msg=name)


def test_ten_shapes_are_compiled_all(monkeypatch):
    """Of which PyTorch by itself would take eight."""
    counter = CompileCounter()
    monkeypatch.setattr(
        "Trainer.blocks.torch.compile", functools.partial(torch.compile, backend=counter)
    )
    torch._dynamo.reset()
    module = objective()
    grids = [torch.zeros(2, 2, width, dtype=torch.int64) for width in range(2, 12)]
    with torch._dynamo.config.patch(recompile_limit=8):  # as it is by default, and hereafter
        compile_blocks(module)
        for tokens in grids * 2:
            module(tokens, torch.tensor([1, 3])).square().mean().backward()
    assert counter.frame_count == len(grids)


def test_blocks_go_the_plain_way_while_asked(monkeypatch):
    compiled = []

    def compiling(forward, dynamic):
        return lambda *args, **more: compiled.append(forward) or forward(*args, **more)

    monkeypatch.setattr("Trainer.blocks.torch.compile", compiling)
    module = objective()
    expected = gradients(module)
    recompute(module, 0.5)
    compile_blocks(module)
    with plain(module):
        found = gradients(module)
    assert compiled == []
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    gradients(module)
    assert len(compiled) == DEPTH + DEPTH // 2  # half of them forward and once more backward


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
def test_blocks_compile_to_machine_code():
    module = objective()
    expected = gradients(module)
    recompute(module, 0.5)
    compile_blocks(module)
    found = gradients(module)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5, msg=name)
