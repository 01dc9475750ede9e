"""A step in which something is not finite moves nothing; it is counted, told, and named."""

import functools
import json
import re

import pytest
import torch
from test_trainer import BATCH, FP32, Line, reports, same, standing
from tiny_runs import config, fit, hashes, records, run_ranks, tokenizer_weights, train
from torch import nn

from MaskGIL.data.crops import to_float
from Trainer import guard as module
from Trainer.guard import RECENT, Diverged, Guard
from Trainer.vit import GeneratorTrainer
from Trainer.window import Window

POISON = (3, 7)  # steps, counted from 0


class Poisoned(Line):
    """Whose loss is multiplied by `factor` in the steps of POISON."""

    factor = torch.nan

    def build(self):
        return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))

    def loss(self, objective, batch):
        loss, metrics = super().loss(objective, batch)
        return loss * (self.factor if self.step in POISON else 1), metrics


class Infinite(Poisoned):
    """Whose gradient is infinite, but not its loss."""

    def loss(self, objective, batch):
        loss, metrics = Line.loss(self, objective, batch)
        if self.step in POISON:
            loss = loss + (self.module[0].weight.sum() * 0).abs().sqrt()  # slope 1 / 0
        return loss, metrics


class OneImage(Poisoned):
    """Sample 5 of a batch is not a number in the steps of POISON."""

    def loss(self, objective, batch):
        points = batch["points"]
        if self.step in POISON:
            bad = (batch["samples"] == 5)[:, None]
            points = torch.where(bad, torch.nan, points)
        return Line.loss(self, objective, {**batch, "points": points})


@pytest.fixture
def make(tmp_path):
    def make(*changes, kind=Poisoned):
        words = [FP32, "loop.steps=12", "optim.lr=0.1", *changes]
        return kind(config("tokenizer", tmp_path, *words))

    return make


@pytest.mark.parametrize("kind", [Poisoned, Infinite, OneImage])
def test_such_a_step_moves_nothing_but_counts(make, kind, tmp_path):
    seen = []

    class Watched(kind):
        def train_step(self, *arguments):
            before = standing(self)
            super().train_step(*arguments)
            moved = len(before) < len(standing(self)) or not same(before, standing(self))
            seen.append((self.step, moved))

    trainer = fit(make(kind=Watched))
    assert seen == [(step, step - 1 not in POISON) for step in range(1, 13)]
    assert trainer.guard.skipped == 2
    told = reports(trainer)
    assert [line["skip"] for line in told] == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2]
    assert [line["step"] for line in told if line["loss"] != line["loss"]] == [4, 8]
    for tensor in standing(trainer):
        assert tensor.isfinite().all()
    # Adam's own count of steps is that of steps taken
    assert {state["step"].item() for state in trainer.optimizer.state.values()} == {10}


def test_the_means_of_a_line_leave_such_steps_out(make, tmp_path):
    """The line of 6 steps, one of them not taken, is the mean of the other five."""
    every = reports(fit(make("loop.log_every=1")))
    line = reports(fit(make("loop.log_every=6", f"out_dir={tmp_path / 'seldom'}")))[0]
    for name in ("loss", "l1", "gnorm"):
        taken = [each[name] for each in every[:6] if each["step"] != 4]
        assert line[name] == pytest.approx(sum(taken) / 5)


def test_two_halves_with_skipped_steps_equal_the_whole(make, tmp_path):
    whole = fit(make("loop.save_every=4"))
    halves = f"out_dir={tmp_path / 'halves'}"
    fit(make("loop.save_every=4", halves), stop=6)
    second = fit(make("loop.save_every=4", halves))
    assert second.log.start == 4  # one skipped step before, one behind it
    assert hashes(tmp_path / "halves", 12) == hashes(tmp_path / "tokenizer", 12)
    assert json.dumps(reports(second)) == json.dumps(reports(whole))
    assert second.guard.skipped == 2


class OnOneRank(GeneratorTrainer):
    """Whose loss is not a number on rank 1 in step 2."""

    def loss(self, objective, batch):
        loss, metrics = super().loss(objective, batch)
        poisoned = self.step == 2 and batch["samples"].min() >= 40
        return loss * (torch.nan if poisoned else 1), metrics


def train_on_one_rank(folder, *words):
    OnOneRank(config("generator", folder, *words)).fit()


@pytest.mark.slow
def test_a_rank_alone_stops_no_other(tmp_path):
    tokenizer_weights(tmp_path)
    words = ["loop.steps=4", "loop.save_every=1", "loop.keep=9", FP32, "network.dropout=0"]
    sharded = [*words, "loop.parallel=fsdp", f"out_dir={tmp_path / 'sharded'}"]
    calls = [functools.partial(train_on_one_rank, tmp_path, *each) for each in (words, sharded)]
    run_ranks(2, calls)
    cause = "not finite is the loss of rank 1, among samples 40-47"  # of 32 to 47 in step 3
    log = (tmp_path / "sharded" / "log.txt").read_text()
    assert f"\nwarning: step 3 is not taken: {cause}\n" in log
    run = tmp_path / "generator"
    log = (run / "log.txt").read_text()
    cause = r"^warning: step 3 is not taken: not finite on rank 1, samples 40, 41, .*, first in "
    assert re.search(f"{cause}the loss, behind the last module$", log, flags=re.M)
    for name in ("model", "ema", "optim"):
        before, after, later = (hashes(run, step)[f"{name}.safetensors"] for step in (2, 3, 4))
        assert before == after != later
    assert [line["skip"] for line in records(run)] == [0, 0, 1, 1]


class HopelessOnOneRank(OnOneRank):
    """Whose loss is no number on rank 1 from then on."""

    def loss(self, objective, batch):
        loss, metrics = GeneratorTrainer.loss(self, objective, batch)
        poisoned = self.step >= 2 and batch["samples"].min() % BATCH
        return loss * (torch.nan if poisoned else 1), metrics


def diverge_on_one_rank(folder, *words):
    with pytest.raises(Diverged, match=r"^2 steps in a row .* rank 1, (among )?samples "):
        HopelessOnOneRank(config("generator", folder, *words)).fit()


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_all_ranks_save_what_they_had_learned(tmp_path, parallel):
    tokenizer_weights(tmp_path)
    words = ["loop.steps=9", "loop.max_skips=2", FP32, f"loop.parallel={parallel}"]
    words += ["loop.log_every=100"]
    run_ranks(2, [functools.partial(diverge_on_one_rank, tmp_path, *words)] * 2)
    run = tmp_path / "generator"  # the second call went on where the first had ended
    for name in ("model", "ema", "optim"):
        first, second = (hashes(run, step)[f"{name}.safetensors"] for step in (4, 6))
        assert first == second


def test_a_tokenizer_and_its_discriminator_stay_too(tmp_path, monkeypatch):
    """With the running statistics of its batch norm, and the means that LeCam remembers."""
    words = [FP32, "loop.steps=6", "loop.save_every=1", "loop.keep=9", "adversary.weight=0.5"]
    words += ["adversary.lecam=0.1", "adversary.depth=2", "adversary.width=4"]
    words += ["reconstruction.revive_every=3", "optim.batch=4"]
    calls = []

    def poisoned(images):
        calls.append(len(images))
        return to_float(images) * (torch.nan if len(calls) == 3 else 1)  # in step 3, a revival

    monkeypatch.setattr("Trainer.vqgan.to_float", poisoned)
    trainer = train("tokenizer", tmp_path, *words)
    run = tmp_path / "tokenizer"
    for name in ("model", "ema", "optim"):
        before, after, later = (hashes(run, step)[f"{name}.safetensors"] for step in (2, 3, 4))
        assert before == after != later
    assert trainer.guard.skipped == 1
    assert all(tensor.isfinite().all() for tensor in trainer.module.state_dict().values())


# Spikes


class Leaping(Poisoned):
    factor = 1e6


def test_a_spike_is_shown_beside_the_loss(make, monkeypatch, capsys):
    monkeypatch.setattr(module, "RECENT", 3)
    trainer = fit(make(kind=Leaping))
    told = {line["step"]: line.get("z") for line in reports(trainer)}
    assert [told[step] for step in (1, 2, 3)] == [None] * 3  # too few before them
    assert told[4] > 100
    assert trainer.guard.skipped == 0
    assert re.search(
        r"^step  4/12 .* \| loss \S+ \(z\+\d+\.\d\) \| ", capsys.readouterr().out, re.M
    )


def test_a_spike_is_skipped_where_asked(make, monkeypatch, capsys):
    monkeypatch.setattr(module, "RECENT", 3)
    trainer = fit(make("loop.skip_spikes=50", kind=Leaping))
    assert [line["spikes"] for line in reports(trainer)] == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2]
    out = capsys.readouterr().out
    assert re.search(r"^warning: step 4 is not taken: its loss is z\+\d+\.\d$", out, re.M)


@pytest.mark.parametrize(("kind", "spikes"), [(Leaping, 2), (Poisoned, 0)])
def test_spikes_are_told_from_what_is_not_finite(make, monkeypatch, kind, spikes):
    monkeypatch.setattr(module, "RECENT", 3)
    words = ["loop.skip_spikes=50", "loop.save_every=4"]
    fit(make(*words, kind=kind), stop=6)  # one step before, one behind
    guard = fit(make(*words, kind=kind)).guard
    assert (guard.skipped, guard.spikes) == (2, spikes)


def test_a_loss_is_no_spike_where_it_is_that_of_another_mode(make, monkeypatch):
    """As those of the test before are in one mode."""
    monkeypatch.setattr(module, "RECENT", 3)

    class TwoModes(Leaping):
        def mode(self):
            return "ar" if self.step in POISON else "mar"

    assert fit(make("loop.skip_spikes=50", kind=TwoModes)).guard.skipped == 0


def test_the_score_is_that_of_the_formula():
    """(x - mean) / deviation of the last 128 of its mode, of which none may be missing."""
    guard, losses = Guard(torch.device("cpu"), 0), torch.randn(RECENT + 9).tolist()
    for step, loss in enumerate(losses):
        guard.send(step, guard.judge("ar", torch.tensor(1e3), [torch.tensor(1.0)], False))
        guard.hear()
        guard.send(step, guard.judge("mar", torch.tensor(loss), [torch.tensor(1.0)], False))
        heard = guard.hear()
        if step < RECENT:
            assert heard.z != heard.z
            continue
        recent = torch.tensor(losses[step - RECENT : step], dtype=torch.float64)
        expected = (loss - recent.mean()) / recent.std(correction=0)
        assert heard.z == pytest.approx(expected.item(), rel=1e-4)


def test_the_highest_score_is_that_of_a_number(monkeypatch):
    monkeypatch.setattr(module, "RECENT", 3)
    guard, told = Guard(torch.device("cpu"), 0), []
    for step, loss in enumerate([1.0, 2.0, 3.0, 9.0, torch.nan, torch.inf, 2.0]):
        guard.send(step, guard.judge("mar", torch.tensor(loss), [torch.tensor(1.0)], False))
        told.append(guard.hear().z)
    # Of 9 above 1, 2, 3, whose mean is 2 and whose deviation is the root of 2/3
    assert guard.take_highest() == told[3] == pytest.approx(7 / (2 / 3) ** 0.5)
    assert guard.take_highest() != guard.take_highest()


def test_a_guard_goes_on_with_the_losses_of_each_mode(monkeypatch):
    monkeypatch.setattr(module, "RECENT", 3)
    first, losses = Guard(torch.device("cpu"), 0), [1.0, 2.0, 4.0, 8.0]
    for step, loss in enumerate(losses):
        first.send(step, first.judge("mar", torch.tensor(loss), [torch.tensor(1.0)], False))
    first.send(4, first.judge("ar", torch.tensor(1e3), [torch.tensor(1.0)], False))
    first.hear()
    second = Guard(torch.device("cpu"), 0)
    second.resume(json.loads(json.dumps(first.state())))
    for guard in (first, second):
        guard.send(5, guard.judge("mar", torch.tensor(9.0), [torch.tensor(1.0)], False))
    recent = torch.tensor(losses[1:])  # of three, the first is forgotten
    expected = (9 - recent.mean()) / recent.std(correction=0)
    assert first.hear().z == second.hear().z == pytest.approx(expected.item())
    second.send(6, second.judge("ar", torch.tensor(1.0), [torch.tensor(1.0)], False))
    assert second.hear().z != second.hear()


def test_the_host_hears_of_a_step_once(make):
    guard = Guard(torch.device("cpu"), 0)
    assert guard.hear() is None
    guard.send(4, guard.judge("mar", torch.tensor(2.0), [torch.tensor(1.0)], True))
    heard = guard.hear()
    assert (heard.step, heard.losses, heard.stops, heard.is_skipped) == (4, [2.0], True, False)
    assert guard.hear() is None


def test_fp16_skips_spikes_and_computes_overflows_again(make, monkeypatch):
    monkeypatch.setattr(module, "RECENT", 3)

    class Half(Leaping):
        factor = 1e3

        @classmethod
        def precision(cls, config, device):
            return torch.float16

        def prepare(self):
            super().prepare()
            self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)

    trainer = fit(make("loop.skip_spikes=50", kind=Half))
    assert trainer.guard.skipped == 2
    assert {state["step"].item() for state in trainer.optimizer.state.values()} == {10}


def test_a_loss_that_is_not_finite_is_skipped_in_fp16_too(make):
    """At once, and its scale stays: no overflow was to blame."""

    class Half(Poisoned):
        asked_for = 0

        @classmethod
        def precision(cls, config, device):
            return torch.float16

        def prepare(self):
            super().prepare()
            self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)

        def train_step(self, *arguments):
            before = standing(self), self.scaler.get_scale()
            super().train_step(*arguments)
            if self.step - 1 in POISON:
                assert same(before[0], standing(self))
                assert before[1] == self.scaler.get_scale()

        def loss(self, objective, batch):
            self.asked_for += 1
            return super().loss(objective, batch)

    trainer = fit(make(kind=Half))
    assert trainer.guard.skipped == len(POISON)
    assert trainer.scaler.state_dict()["_growth_tracker"] == 12 - len(POISON)
    assert trainer.asked_for == 12 + len(POISON) * BATCH  # the log names images one by one
    assert {state["step"].item() for state in trainer.optimizer.state.values()} == {10}


@pytest.mark.gpu
def test_a_step_on_cuda_waits_for_nothing(tmp_path):
    """And a step that is not taken moves nothing there either."""
    tokenizer_weights(tmp_path)
    trainer = GeneratorTrainer(config("generator", tmp_path, "device=cuda", "precision=bf16"))
    trainer.prepare()
    objective, window = trainer.objective(), Window()
    batches = [trainer.dataset()[step] for step in range(4)]
    batches = [{name: t.pin_memory() for name, t in batch.items()} for batch in batches]
    trainer.train_step(objective, batches[0], window)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches[1:3]:
            trainer.train_step(objective, batch, window)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    before = standing(trainer)
    next(trainer.module.parameters()).grad = None
    weight = next(trainer.module.parameters())
    hook = weight.register_hook(lambda gradient: gradient * torch.inf)
    trainer.train_step(objective, batches[3], window)
    hook.remove()
    assert same(before, standing(trainer))
    trainer.hear()
    assert trainer.guard.skipped == 1
