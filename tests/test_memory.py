"""Running out of memory is mostly pretended: a CPU's system would end the process."""

import pytest
import torch
from tiny_runs import hashes, text_weights, tokenizer_weights, train
from torch import nn

from MaskGIL.device import autocast
from Network.config import UserError
from Trainer import memory
from Trainer.autoencoding import Reconstruction
from Trainer.memory import fewest_parts, placeholders, step_bytes
from Trainer.vit import RowLogits

CPU = torch.device("cpu")
# Of two layers, 7 -> 5 -> 3, with their biases
WEIGHTS = 4 * (7 * 5 + 5 + 5 * 3 + 3)


@pytest.fixture
def module():
    return nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3))


def holds(module, most, fail):
    """A loss of at most so many images, and what was tried."""
    tried = []

    def loss_of(images):
        tried.append(images)
        if images > most:
            fail()
        return module(torch.ones(images, 7)).sum()

    return loss_of, tried


def cuda_fails():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def cpu_fails():
    torch.empty(1 << 50, dtype=torch.uint8)  # more than there are addresses


@pytest.mark.parametrize("fail", [cuda_fails, cpu_fails])
@pytest.mark.parametrize(
    ("most", "parts", "tries"), [(12, 1, [12]), (6, 2, [12, 6]), (2, 6, [12, 6, 4, 3, 2])]
)
def test_the_least_divisor_that_fits(module, fail, most, parts, tries):
    loss_of, tried = holds(module, most, fail)
    assert fewest_parts(12, loss_of, module, 2, CPU) == parts
    assert tried == [1, 2, *tries]  # on a CPU two are counted first
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize("copies", [2, 3])
def test_what_a_step_takes_by_hand(module, copies):
    """Each layer keeps its input; beside them lie the gradient and `copies` more."""
    constant, each = step_bytes(module, holds(module, 9, cuda_fails)[0], copies, share=4)
    assert (constant, each) == ((copies + 1) * WEIGHTS, 4 * (7 + 5))


def test_weights_cast_to_bf16_are_kept_once(module):
    """For the gradient of its input the second layer keeps its weight (3, 5), cast."""

    def loss_of(images):
        with autocast(CPU, torch.bfloat16):
            return module(torch.ones(images, 7)).sum()

    constant, each = step_bytes(module, loss_of, 2, share=4)
    assert (constant, each) == (3 * WEIGHTS + 2 * 3 * 5, 2 * (7 + 5))


@pytest.mark.parametrize("share", [1, 3, 12])
def test_what_an_image_takes_tells_what_need_not_be_tried(module, monkeypatch, share):
    constant, each = step_bytes(module, holds(module, 99, cuda_fails)[0], 2, share)
    images = min(share, 3)
    monkeypatch.setattr("Trainer.memory.free_memory", lambda device: constant + each * images)
    loss_of, tried = holds(module, 99, cuda_fails)
    assert fewest_parts(share, loss_of, module, 2, CPU) == share // images
    assert tried == [1, min(2, share), images]


def test_a_cpu_must_hold_moments_and_gradient_too(module, monkeypatch):
    monkeypatch.setattr("Trainer.memory.free_memory", lambda device: 3 * WEIGHTS)
    with pytest.raises(UserError, match="Even one image at a time does not fit into the memory"):
        fewest_parts(4, holds(module, 4, cuda_fails)[0], module, 2, CPU)


def test_a_run_of_captions_tries_its_largest_shape(tmp_path, monkeypatch, capsys):
    tried, forward = [], RowLogits.forward

    def watched(self, tokens, condition, *rest):
        tried.append((*tokens.shape, len(condition)))
        return forward(self, tokens, condition, *rest)

    text_weights(tmp_path)
    monkeypatch.setattr(RowLogits, "forward", watched)
    train("text", tmp_path, "loop.steps=1", "loop.accumulation=0")
    assert tried[:3] == [(images, 4, 6, images) for images in (1, 2, 16)]
    assert "memory     16 images at once, 1 part a step: as many as fit" in capsys.readouterr().out


def test_a_cpu_is_asked_before_it_is_too_late(tmp_path, monkeypatch, capsys):
    """The system would end the process; a forward pass of all images is never made."""
    tokenizer_weights(tmp_path)
    most, found = [], []
    forward = RowLogits.forward

    def watched(self, tokens, *rest):
        most.append(len(tokens))
        return forward(self, tokens, *rest)

    def counted(*arguments):
        found.append(step_bytes(*arguments))
        return found[-1]

    monkeypatch.setattr(RowLogits, "forward", watched)
    words = ("generator", tmp_path, "loop.steps=1", "loop.accumulation=0", "precision=bf16")
    monkeypatch.setattr(memory, "step_bytes", counted)
    train(*words, f"out_dir={tmp_path / 'first'}")
    (constant, each), *_ = found
    assert max(most) == 16
    most.clear()
    monkeypatch.setattr(memory, "free_memory", lambda device: constant + 5 * each)
    train(*words, f"out_dir={tmp_path / 'second'}")
    assert "memory     4 images at once, 4 parts a step: as many as fit" in capsys.readouterr().out
    assert max(most) == 4


def test_nothing_fits(module):
    def loss_of(images):
        loss = module(torch.ones(images, 7)).sum()
        loss.register_hook(lambda _: cuda_fails())  # in the backward pass
        return loss

    with pytest.raises(UserError) as error:
        fewest_parts(4, loss_of, module, 2, CPU)
    assert str(error.value) == (
        "Even one image at a time does not fit into the memory of cpu; choose a smaller network "
        "or data.image_size, or a larger loop.checkpoint_blocks for a generator."
    )


def test_other_failures_are_not_hidden(module):
    def broken():
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        fewest_parts(4, holds(module, 2, broken)[0], module, 2, CPU)


@pytest.mark.parametrize(("most", "copies"), [(16, [2]), (8, [2, 3]), (4, [2, 3, 3])])
def test_a_trial_holds_what_a_step_will(tmp_path, monkeypatch, most, copies):
    """Two moments, and the gradients of earlier parts where there are several."""
    tokenizer_weights(tmp_path)
    asked = []
    monkeypatch.setattr(memory, "placeholders", lambda _, times: asked.append(times) or [])
    limit(monkeypatch, Reconstruction, most)
    train("tokenizer", tmp_path, "loop.steps=1", "loop.accumulation=0")
    assert asked == copies


@pytest.mark.parametrize(
    ("most", "ranks", "told"),
    [
        (16, 1, "4 images at once, 4 parts a step: as before"),
        (2, 1, "2 images at once, 8 parts a step: as many as fit; before, 4 on 1 rank, sums"),
        (16, 2, "16 images at once, 1 part a step: as many as fit; before, 4 on 2 ranks, sums"),
    ],
)
def test_a_run_that_goes_on_keeps_its_parts_if_they_fit(
    tmp_path, monkeypatch, capsys, most, ranks, told
):
    """Dropout is drawn per part: with as many, it ends as if it had not been stopped."""
    tokenizer_weights(tmp_path)
    words = ["generator", tmp_path, "loop.steps=4", "loop.accumulation=0", "loop.save_every=2"]
    words += ["network.dropout=0.1", f"data.cache={tmp_path / 'cache'}"]
    with monkeypatch.context() as patch:
        limit(patch, RowLogits, 4)
        train(*words, f"out_dir={tmp_path / 'whole'}")
        patch.setattr("Trainer.keeping.world_size", lambda: ranks)
        train(*words, stop=3)
    with monkeypatch.context() as patch:
        limit(patch, RowLogits, most)
        assert train(*words).log.start == 2
    assert f"memory     {told}" in capsys.readouterr().out
    if "as before" in told:
        assert hashes(tmp_path / "generator", 4) == hashes(tmp_path / "whole", 4)


def test_placeholders_are_as_large_as_what_they_stand_for():
    found = placeholders([torch.zeros(3), torch.zeros(2, 5)], 2)
    assert sorted(tensor.numel() for tensor in found) == [3, 3, 10, 10]


def limit(monkeypatch, wrapper, most):
    """Let more images than so many run out of memory in training."""
    forward = wrapper.forward

    def small(self, images, *rest):
        if len(images) > most and self.training:
            cuda_fails()
        return forward(self, images, *rest)

    monkeypatch.setattr(wrapper, "forward", small)


@pytest.mark.parametrize(
    ("job", "wrapper"), [("generator", RowLogits), ("tokenizer", Reconstruction)]
)
def test_a_run_halves_its_parts_until_they_fit_and_learns_the_same(
    tmp_path, monkeypatch, job, wrapper, capsys
):
    """Bit for bit as if the parts had been asked for: a trial leaves nothing behind."""
    tokenizer_weights(tmp_path)
    words = ("loop.steps=4", "optim.batch=16", "loop.save_every=4", "network.dropout=0.1")
    train(job, tmp_path, *words, "loop.accumulation=4", f"out_dir={tmp_path / 'asked'}")
    limit(monkeypatch, wrapper, 4)
    train(job, tmp_path, *words, "loop.accumulation=0", f"out_dir={tmp_path / 'found'}")
    told = "memory     4 images at once, 4 parts a step: as many as fit"
    assert told in capsys.readouterr().out
    assert hashes(tmp_path / "found", 4) == hashes(tmp_path / "asked", 4)
