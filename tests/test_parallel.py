"""What DDP and compile put around a module; two real processes are in test_ranks.py.

Those that share a module are in test_sharded.py.
"""

import functools

import pytest
import tiny
import torch
import torch.distributed as dist
from tiny_runs import losses, tokenizer_weights, train
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from MaskGIL.weights import load_network
from Network import build_network
from Network.config import UserError
from Trainer.parallel import accumulating, crowds, forget_gradient, is_sharded, parallelise

CPU = torch.device("cpu")


@pytest.fixture
def group(tmp_path, monkeypatch):
    """A group of one process that is told there are two."""
    meeting = f"file://{tmp_path / 'meeting'}"
    dist.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    yield
    dist.destroy_process_group()


def test_alone_and_uncompiled_the_module_stays_as_it_is():
    module = nn.Linear(2, 1)
    assert parallelise(module, CPU, compile=False) is module


def test_among_others_ddp_wraps_it(group):
    module = nn.Linear(2, 1)
    wrapped = parallelise(module, CPU, compile=False)
    assert isinstance(wrapped, DistributedDataParallel)
    assert wrapped.module is module


def test_gradients_are_exchanged_with_the_last_part_only(group):
    wrapped = parallelise(nn.Linear(2, 1), CPU, compile=False)
    for last in (False, True):
        with accumulating(wrapped, last):
            assert wrapped.require_backward_grad_sync is last
    assert wrapped.require_backward_grad_sync


def test_gradients_have_one_place_for_all_steps(group):
    """That of DDP's buckets, also where they add up; it is there once only."""
    module = nn.Linear(3, 2)
    wrapped = parallelise(module, CPU, compile=False)
    optimizer = torch.optim.SGD(module.parameters(), lr=0)
    places = []
    for step in range(3):
        for last in (False, True):
            with accumulating(wrapped, last):
                wrapped(torch.ones(1, 3)).sum().backward()
            if step:  # in the first one DDP learns in which order they come
                places.append([parameter.grad.data_ptr() for parameter in module.parameters()])
        assert torch.equal(module.weight.grad, torch.full((2, 3), 2.0))
        forget_gradient(optimizer, shards=False)
        assert not module.weight.grad.any()
    assert places == [places[0]] * 4
    assert module.weight.grad._base is not None  # a part of a bucket


def test_alone_the_gradient_takes_no_memory_between_steps():
    module = nn.Linear(3, 2)
    module(torch.ones(1, 3)).sum().backward()
    forget_gradient(torch.optim.SGD(module.parameters()), shards=False)
    assert module.weight.grad is None


def test_alone_gradients_simply_add_up():
    module = nn.Linear(1, 1)
    for last in (False, True):
        with accumulating(module, last):
            module(torch.ones(1, 1)).sum().backward()
    assert module.weight.grad.item() == 2


def outline():
    with torch.device("meta"):
        return build_network(tiny.network_config())


def test_what_is_sharded_is_told_by_the_key(monkeypatch):
    assert not is_sharded("fsdp", outline(), CPU)  # alone, there is nobody to share with
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert is_sharded("fsdp", outline(), CPU)
    assert not is_sharded("ddp", outline(), CPU)
    assert not is_sharded("auto", outline(), CPU)
    assert not is_sharded("auto", None, CPU)
    with pytest.raises(UserError, match=r"loop\.parallel=fsdp shards generators only"):
        is_sharded("fsdp", None, CPU)


@pytest.mark.parametrize(
    ("millions", "gigabytes", "crowded"),
    [(111, 8, False), (343, 8, True), (343, 24, False), (775, 24, True), (1400, 80, False),
     (3100, 80, True)],
)  # fmt: skip
def test_a_replica_crowds_what_it_fills_by_half(millions, gigabytes, crowded):
    """20 bytes a parameter: weight, gradient, two moments, average."""
    assert crowds(millions * 10**6, gigabytes * 10**9) is crowded
    assert crowded is (20 * millions * 10**6 > gigabytes * 10**9 / 2)


@pytest.mark.slow
def test_a_compiled_run_equals_the_plain_one_and_saves_plain_names(tmp_path, monkeypatch):
    eager = functools.partial(torch.compile, backend="eager")  # the graph, without a C++ compiler
    monkeypatch.setattr("Trainer.blocks.torch.compile", eager)
    tokenizer_weights(tmp_path)
    words = ["loop.steps=3", "loop.save_every=3", "precision=fp32"]
    plain = train("generator", tmp_path, *words)
    out = tmp_path / "compiled"
    compiled = train("generator", tmp_path, *words, "loop.compile=true", f"out_dir={out}")
    torch.testing.assert_close(losses(out), losses(tmp_path / "generator"), atol=1e-5, rtol=0)
    assert compiled.ema.tensors.keys() == plain.ema.tensors.keys()
    written = [*out.rglob("*.safetensors"), *out.rglob("*.json")]
    assert not any(b"_orig_mod" in path.read_bytes() for path in written)
    state = load_network(out / "weights", ema=False).state_dict()
    assert all(torch.equal(state[name], t) for name, t in compiled.module.state_dict().items())


@pytest.mark.slow
def test_a_compiled_contest_equals_the_plain_one(tmp_path, monkeypatch):
    """Also where it begins in the middle of a run."""
    eager = functools.partial(torch.compile, backend="eager")
    monkeypatch.setattr("Trainer.parallel.torch.compile", eager)
    words = ["loop.steps=3", "precision=fp32", "adversary.weight=0.5", "adversary.start=1"]
    words += ["adversary.depth=2", "adversary.width=4", "adversary.lecam=0.1"]
    train("tokenizer", tmp_path, *words)
    out = tmp_path / "compiled"
    train("tokenizer", tmp_path, *words, "loop.compile=true", f"out_dir={out}")
    torch.testing.assert_close(losses(out), losses(tmp_path / "tokenizer"), atol=1e-4, rtol=0)
