"""One process, and pretended ones; two real processes meet in test_ranks."""

from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist

from MaskGIL import distributed
from MaskGIL.distributed import (
    all_gather,
    all_reduce,
    barrier,
    chunks,
    first_rank_first,
    gather,
    is_main,
    process_group,
)


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def pretend(monkeypatch, rank, world_size):
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("LOCAL_RANK", str(rank % 2))
    monkeypatch.setenv("WORLD_SIZE", str(world_size))


@pytest.mark.parametrize("torchrun", [False, True])
def test_one_process_with_or_without_torchrun(monkeypatch, torchrun):
    if torchrun:
        pretend(monkeypatch, 0, 1)
    assert (distributed.rank(), distributed.local_rank(), distributed.world_size()) == (0, 0, 1)
    assert is_main()
    with process_group(torch.device("cpu")):
        assert not dist.is_initialized()
        barrier()
        tensor = torch.arange(3.0)
        assert all_reduce(tensor) is tensor
        assert tensor.tolist() == [0, 1, 2]
        assert all_gather(tensor).tolist() == [0, 1, 2]
        assert gather("a word") == ["a word"]


def test_ranks_are_those_of_torchrun(monkeypatch):
    pretend(monkeypatch, 5, 8)
    assert (distributed.rank(), distributed.local_rank(), distributed.world_size()) == (5, 1, 8)
    assert not is_main()


def test_how_many_share_a_machine(monkeypatch):
    pretend(monkeypatch, 5, 8)
    assert distributed.local_world_size() == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert distributed.local_world_size() == 2


@pytest.mark.parametrize(("kind", "backend"), [("cpu", "gloo"), ("cuda", "nccl"), ("mps", "gloo")])
@pytest.mark.parametrize("error", [False, True])
def test_a_group_is_left_unless_there_was_an_error(monkeypatch, kind, backend, error):
    pretend(monkeypatch, 1, 2)
    calls = []
    monkeypatch.setattr(dist, "init_process_group", lambda kind, timeout: calls.append(kind))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: calls.append("left"))

    def train():
        with process_group(torch.device(kind)):
            calls.append("trained")
            if error:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) if error else nullcontext():
        train()
    assert calls == [backend, "trained", *([] if error else ["left"])]


def test_a_group_within_a_group_is_the_same_one(monkeypatch):
    pretend(monkeypatch, 1, 2)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.delattr(dist, "init_process_group")
    monkeypatch.delattr(dist, "destroy_process_group")
    entered = False
    with process_group(
        torch.device("cpu")
    ):  # it would need what is gone to make one, and to end it
        entered = True
    assert entered


@pytest.mark.parametrize(("number", "order"), [(0, ["reads", "meets"]), (3, ["meets", "reads"])])
@pytest.mark.parametrize("joined", [False, True])
def test_the_first_rank_of_a_machine_goes_first(monkeypatch, number, order, joined):
    pretend(monkeypatch, number, 4)
    calls = []
    monkeypatch.setattr(dist, "is_initialized", lambda: joined)
    monkeypatch.setattr(dist, "barrier", lambda: calls.append("meets"))
    with first_rank_first():
        calls.append("reads")
    assert calls == (order if joined else ["reads"])


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize(("count", "size"), [(0, 4), (1, 4), (4, 4), (50, 8), (64, 8), (7, 1)])
def test_chunks_do_not_depend_on_the_ranks(monkeypatch, count, size, world_size):
    dealt = []
    for rank in range(world_size):
        pretend(monkeypatch, rank, world_size)
        dealt.append(chunks(count, size))
    together = sorted((chunk for part in dealt for chunk in part), key=lambda chunk: chunk.start)
    assert [i for chunk in together for i in chunk] == list(range(count))
    assert all(len(chunk) == size for chunk in together[:-1])
    pretend(monkeypatch, 0, 1)
    assert together == chunks(count, size)
    lengths = [len(part) for part in dealt]
    assert max(lengths) - min(lengths) <= 1
