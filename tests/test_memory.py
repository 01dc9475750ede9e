"""Running out of memory is pretended: on a CPU nobody is told of it."""

import pytest
import torch
from tiny_runs import hashes, tokenizer_weights, train

from Network.config import UserError
from Trainer import memory
from Trainer.memory import fewest_parts, placeholders
from Trainer.vit import RowLogits
from Trainer.vqgan import Reconstruction

CPU = torch.device("cpu")


def needs(parts):
    """A trial that fits from so many parts on, and what was tried."""
    tried = []

    def trial(number):
        tried.append(number)
        if number < parts:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    return trial, tried


@pytest.mark.parametrize(
    ("parts", "found", "tries"), [(1, 1, [1]), (2, 2, [1, 2]), (5, 6, [1, 2, 3, 4, 6])]
)
def test_the_least_divisor_that_fits(parts, found, tries):
    trial, tried = needs(parts)
    assert fewest_parts(12, trial, CPU) == found
    assert tried == tries


def test_what_one_image_takes_tells_what_need_not_be_tried(monkeypatch):
    monkeypatch.setattr("Trainer.memory.free_memory", lambda device: 4100)
    trial, tried = needs(1)
    assert fewest_parts(12, trial, CPU, image_bytes=1000) == 3  # four images at once
    assert tried == [3]


def test_a_cpu_is_asked_before_it_is_too_late(tmp_path, monkeypatch, capsys):
    """The system would end the process; a forward pass of all images is never made."""
    tokenizer_weights(tmp_path)
    most = []
    forward = RowLogits.forward

    def watched(self, tokens, *rest):
        most.append(len(tokens))
        return forward(self, tokens, *rest)

    def little(device):
        return 2 * saved[0] + 1

    saved, counted = [], memory.saved_bytes
    monkeypatch.setattr(
        "Trainer.trainer.saved_bytes", lambda *args: saved.append(counted(*args)) or saved[0]
    )
    monkeypatch.setattr("Trainer.memory.free_memory", little)
    monkeypatch.setattr(RowLogits, "forward", watched)
    train("generator", tmp_path, "loop.steps=1", "loop.accumulation=0")
    assert "memory     2 images at once, 8 parts a step: as many as fit" in capsys.readouterr().out
    assert max(most) == 2


def test_nothing_fits():
    with pytest.raises(UserError) as error:
        fewest_parts(4, needs(5)[0], CPU)
    assert str(error.value) == (
        "Even one image at a time does not fit into the memory of cpu; choose a smaller network "
        "or data.image_size."
    )


def test_other_failures_are_not_hidden():
    def broken(parts):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        fewest_parts(4, broken, CPU)


@pytest.mark.parametrize(("parts", "copies"), [(1, 2), (2, 3), (4, 3)])
def test_a_trial_holds_what_a_step_will(tmp_path, monkeypatch, parts, copies):
    """Two moments, and the gradients of earlier parts where there are several."""
    tokenizer_weights(tmp_path)
    asked = []

    def trial_once(share, trial, device, image_bytes):
        trial(parts)
        return parts

    monkeypatch.setattr("Trainer.trainer.fewest_parts", trial_once)
    monkeypatch.setattr("Trainer.trainer.placeholders", lambda _, times: asked.append(times) or [])
    train("tokenizer", tmp_path, "loop.steps=1", "loop.accumulation=0")
    assert asked == [copies]


def test_placeholders_are_as_large_as_what_they_stand_for():
    found = placeholders([torch.zeros(3), torch.zeros(2, 5)], 2)
    assert sorted(tensor.numel() for tensor in found) == [3, 3, 10, 10]


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
    forward = wrapper.forward

    def small(self, images, *rest):
        if len(images) > 4 and self.training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, images, *rest)

    monkeypatch.setattr(wrapper, "forward", small)
    train(job, tmp_path, *words, "loop.accumulation=0", f"out_dir={tmp_path / 'found'}")
    told = "memory     4 images at once, 4 parts a step: as many as fit"
    assert told in capsys.readouterr().out
    assert hashes(tmp_path / "found", 4) == hashes(tmp_path / "asked", 4)
