"""The loop itself, on a trainer that fits a line; resume is in test_resume.py."""

import itertools
import math

import pytest
import torch
from tiny_runs import config, fit, losses, records, tokenizer_weights, train
from torch import nn
from torch.utils.data import Dataset

from MaskGIL.noise import STREAMS, seed_of
from Network.config import UserError
from Trainer.optim import learning_rate
from Trainer.trainer import Trainer, Window

BATCH, FP32 = 16, "precision=fp32"


class Points(Dataset):
    """Item `step` is this rank's share of a batch of points."""

    def __init__(self, share, broken=None):
        self.share, self.broken = share, broken

    def __getitem__(self, step):
        if step == self.broken:
            raise UserError("Points are out of stock; order more.")
        generator = torch.Generator().manual_seed(step)
        points = torch.randn(BATCH, 2, generator=generator)
        return {"points": points[self.share], "samples": torch.arange(BATCH)[self.share]}


class Line(Trainer):
    """Learns to add two numbers; keeps what it was asked to do."""

    broken = None

    def build(self):
        self.asked, self.parts = [], []
        return nn.Linear(2, 1)

    def dataset(self):
        return Points(self.share, self.broken)

    def objective(self):
        return self.module

    def loss(self, objective, batch):
        assert self.module.training
        self.parts.append((batch["samples"].tolist(), torch.initial_seed()))
        error = objective(batch["points"])[:, 0] - batch["points"].sum(1)
        return error.square().sum() / BATCH, {"l1": error.detach().abs().sum() / BATCH}

    def validate(self):
        assert not self.module.training
        self.asked.append(("validate", self.step))
        return {"bias": self.module.bias.item()}

    def picture(self, path):
        assert not self.module.training
        self.asked.append(("picture", self.step))
        path.write_text("a picture")

    def export(self, folder):
        self.asked.append(("export", self.step))
        folder.mkdir()

    def facts(self):
        return {"network": "a line"}


@pytest.fixture
def make(tmp_path):
    def make(*changes, kind=Line):
        words = [FP32, "loop.steps=12", "optim.lr=0.1", *changes]
        return kind(config("tokenizer", tmp_path, *words))

    return make


def reports(trainer, kind="train"):
    return records(trainer.log._metrics.parent, kind)


# What a trainer is


def test_the_trainer_is_abstract():
    with pytest.raises(TypeError, match="abstract") as error:
        Trainer(None)
    for name in ("build", "dataset", "objective", "loss", "validate", "picture", "export", "facts"):
        assert name in str(error.value)


def test_a_subclass_needs_nothing_else(make):
    trainer = make()
    before = trainer.module.weight.detach().clone()
    fit(trainer)
    found = [record["loss"] for record in reports(trainer)]
    assert len(found) == 12
    assert found[-1] < found[0]
    assert not torch.equal(trainer.module.weight, before)


# When it does what


def test_each_thing_is_done_when_it_is_due(make, tmp_path, capsys):
    words = (
        "loop.log_every=5",
        "loop.validate_every=4",
        "loop.sample_every=6",
        "loop.save_every=8",
    )
    trainer = fit(make(*words))
    out = capsys.readouterr().out
    assert [record["step"] for record in reports(trainer)] == [5, 10, 12]
    assert [record["step"] for record in reports(trainer, "validation")] == [4, 8, 12]
    assert trainer.asked == [
        ("validate", 4), ("picture", 6), ("validate", 8), ("validate", 12), ("picture", 12),
        ("export", 12),
    ]  # fmt: skip
    run = tmp_path / "tokenizer"
    assert {path.name for path in (run / "checkpoints").iterdir()} == {
        "step-0000008", "step-0000012", "latest",
    }  # fmt: skip
    assert {path.name for path in (run / "samples").iterdir()} == {
        "step-0000006.png", "step-0000012.png",
    }  # fmt: skip
    assert out.startswith("network    a line\n")
    assert "\nvalidation at step 4 | bias " in out
    assert out.splitlines()[-1].startswith("done: 12 steps, ")


def test_the_first_line_comes_early(make):
    trainer = fit(make("loop.steps=30", "loop.log_every=1000"))
    assert [record["step"] for record in reports(trainer)] == [10, 30]


def test_a_line_is_the_mean_since_the_line_before(make, tmp_path):
    every = reports(fit(make()))
    lines = reports(fit(make("loop.log_every=6", f"out_dir={tmp_path / 'seldom'}")))
    for start, line in zip([0, 6, 10], lines, strict=True):
        since = every[start : line["step"]]
        for name in ("loss", "l1", "gnorm"):
            assert line[name] == pytest.approx(sum(each[name] for each in since) / len(since))
        assert line["lr"] == since[-1]["lr"]


def test_the_learning_rate_is_that_of_the_step(make):
    trainer = fit(make())
    optim = trainer.config.optim
    expected = [learning_rate(step, 12, optim) for step in range(12)]
    assert [record["lr"] for record in reports(trainer)] == expected


# A step


@pytest.mark.parametrize("accumulation", [1, 4])
def test_parts_of_a_step_have_their_own_dropout(make, accumulation):
    trainer = make(f"loop.accumulation={accumulation}")
    batch, size = trainer.dataset()[0], BATCH // accumulation
    trainer.step = 7
    trainer.train_step(trainer.objective(), batch, Window())
    assert trainer.parts == [
        (
            list(range(part * size, (part + 1) * size)),
            seed_of(0, STREAMS["dropout"], 7, 0, part),
        )
        for part in range(accumulation)
    ]
    assert trainer.step == 8


def test_a_step_is_adamw_on_the_clipped_gradient(make):
    """The first step of Adam moves every number by lr, whatever the gradient's size."""
    trainer = make("optim.warmup=0", "optim.lr=0.25", "optim.weight_decay=0", "optim.clip=1e-3")
    before = torch.cat([p.detach().flatten() for p in trainer.module.parameters()])
    window = Window()
    trainer.train_step(trainer.objective(), trainer.dataset()[0], window)
    after = torch.cat([p.detach().flatten() for p in trainer.module.parameters()])
    assert (after - before).abs().tolist() == pytest.approx([0.25] * 3, rel=1e-3)
    assert window.means()["gnorm"] > 0.1  # logged before it is clipped
    assert all(p.grad is None for p in trainer.module.parameters())


@pytest.mark.parametrize("job", ["generator", "tokenizer"])
def test_accumulation_does_not_change_the_losses(tmp_path, job):
    """Revival of codes too takes the latents of all parts."""
    tokenizer_weights(tmp_path)
    words = [FP32, "loop.steps=4", "network.dropout=0", "reconstruction.revive_every=2"]
    words += ["optim.batch=8"]
    for parts in (1, 4):
        train(
            job, tmp_path, *words, f"loop.accumulation={parts}", f"out_dir={tmp_path / str(parts)}"
        )
    torch.testing.assert_close(losses(tmp_path / "4"), losses(tmp_path / "1"), atol=1e-4, rtol=0)
    assert losses(tmp_path / "1").std() > 1e-3


def test_averaged_weights_stand_in_and_go_again(make):
    trainer = fit(make("loop.validate_every=12"))
    last = {name: t.clone() for name, t in trainer.module.state_dict().items()}
    with trainer.averaged():
        assert not trainer.module.training
        assert not torch.is_grad_enabled()
        assert torch.equal(trainer.module.bias, trainer.ema.tensors["bias"])
    assert all(torch.equal(t, last[name]) for name, t in trainer.module.state_dict().items())
    assert not torch.equal(trainer.module.bias, trainer.ema.tensors["bias"])
    (line,) = reports(trainer, "validation")
    assert line["bias"] == trainer.ema.tensors["bias"].item()


def test_validation_is_narrow_where_asked_and_pictures_choose_on_their_own(make):
    """A decoder may never run in fp16, whatever surrounds it."""

    class Watched(Line):
        def validate(self):
            self.asked.append(torch.is_autocast_enabled("cpu"))
            return {}

        def picture(self, path):
            self.asked.append(torch.is_autocast_enabled("cpu"))

    words = ["precision=bf16", "loop.steps=1", "loop.validate_every=1", "loop.sample_every=1"]
    assert fit(make(*words, kind=Watched)).asked[:2] == [True, False]


# Ranks


@pytest.mark.parametrize(("world_size", "accumulation"), [(2, 1), (4, 2), (1, 4)])
def test_the_order_of_samples_does_not_depend_on_ranks(make, monkeypatch, world_size, accumulation):
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    samples = []
    for rank in range(world_size):
        monkeypatch.setenv("RANK", str(rank))
        trainer = make(f"loop.accumulation={accumulation}")
        samples += trainer.dataset()[3]["samples"].tolist()
        assert trainer.part == BATCH // world_size // accumulation
    assert samples == list(range(BATCH))


def test_a_batch_that_cannot_be_divided_names_the_nearest(make):
    with pytest.raises(UserError) as error:
        make("loop.accumulation=5")
    assert str(error.value) == (
        "batch 16 is not divisible by 1 ranks x 5 accumulation; nearest: 15, 20."
    )


# Mistakes behind the start


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mistake_in_the_data_is_one_sentence_at_its_step(make, workers):
    class Broken(Line):
        broken = 5

    trainer = make(f"data.workers={workers}", kind=Broken)
    with pytest.raises(UserError) as error:
        trainer.fit()
    assert str(error.value) == "Points are out of stock; order more."
    assert trainer.step == 5


def test_a_missing_precision_is_told(make):
    with pytest.raises(UserError, match="precision=fp16 needs a CUDA device"):
        make("precision=fp16")


# The window


def test_a_window_means_over_steps_and_sums_over_parts():
    window = Window()
    for step in range(3):
        for part in (1.0, 2.0):
            window.add({"loss": torch.tensor(part + step)})
        window.behind_step(torch.tensor(4.0 + step), lr=step)
    assert window.means() == {"loss": 5.0, "gnorm": 5.0, "lr": 2}  # (3 + 5 + 7) / 3
    window.clear()
    window.add({"loss": torch.tensor(1.0)})
    window.behind_step(torch.tensor(2.0), lr=0.5)
    assert window.means() == {"loss": 1.0, "gnorm": 2.0, "lr": 0.5}


def test_a_window_knows_the_time_that_data_took(monkeypatch):
    clock = itertools.count(0, 2)
    monkeypatch.setattr("Trainer.trainer.time.monotonic", lambda: next(clock))
    window = Window()  # 0
    batches = window.timed(iter([1, 2]))
    assert next(batches) == 1  # asked at 2, got at 4
    assert math.isclose(window.data_share, 2 / 6)  # looked at at 6
    monkeypatch.undo()
    assert list(batches) == [2]
