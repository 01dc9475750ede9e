"""What the log says of a step that was not taken."""

import re

import pytest
import torch
from test_guard import POISON, Infinite, OneImage, Poisoned
from test_trainer import BATCH, FP32, Line
from tiny_runs import config, fit, hashes, tokenizer_weights, train
from torch import nn

from Trainer.guard import Diverged, Heard
from Trainer.skipped import tell_of_skipped
from Trainer.vit import GeneratorTrainer

ALL = "rank 0, samples 0, 1, 2, 3, 4, 5, 6, 7 and 8 more"


class Broken(Poisoned):
    """One number of the weights is not finite from step 3 on."""

    def loss(self, objective, batch):
        if self.step == 3:
            self.module[1].weight.data[0, 1] = torch.inf
        return Line.loss(self, objective, batch)


@pytest.fixture
def make(tmp_path):
    def make(*changes, kind=Poisoned):
        words = [FP32, "loop.steps=12", "optim.lr=0.1", *changes]
        return kind(config("tokenizer", tmp_path, *words))

    return make


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        (Poisoned, f"{ALL}, first in the loss, behind the last module"),
        (Infinite, f"{ALL}, first in the gradient of 0.weight"),
        (OneImage, "rank 0, samples 5, first in what is given to 0"),
    ],
)
def test_the_log_names_step_samples_and_the_first_place(make, kind, cause, capsys):
    fit(make(kind=kind))
    warnings = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")
    ]
    assert len(warnings) == len(POISON)
    for step, line in zip(POISON, warnings):
        assert line == f"warning: step {step + 1} is not taken: not finite on {cause}"


def test_a_module_is_named_that_makes_the_first_number_that_is_not_finite(make, capsys):
    class Divided(nn.Module):
        by = 1

        def forward(self, points):
            return points / self.by

    class Exploding(Poisoned):
        def build(self):
            return nn.Sequential(nn.Linear(2, 2), Divided(), nn.Linear(2, 1))

        def loss(self, objective, batch):
            self.module[1].by = 0 if self.step in POISON else 1
            return Line.loss(self, objective, batch)

    fit(make(kind=Exploding))
    assert "first in 1\n" in capsys.readouterr().out


def test_the_run_ends_after_too_many_in_a_row(make, tmp_path):
    trainer = make("loop.max_skips=3", kind=Broken)
    with pytest.raises(Diverged) as error:
        trainer.fit()
    assert str(error.value).startswith(
        "3 steps in a row were not taken, as many as loop.max_skips allows; step 6 is not taken: "
        f"not finite on {ALL}, first in the weights 1.weight. "
        "Begin a new run with the weights before them, out_dir=NEW "
        f"init_from={tmp_path / 'tokenizer' / 'weights'} and a lower optim.lr; or go on in this "
        "one with precision=fp32"
    )


class Hopeless(Poisoned):
    """No loss is a number behind the second step; its network keeps statistics."""

    def build(self):
        return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))

    def loss(self, objective, batch):
        loss, metrics = Line.loss(self, objective, batch)
        return loss * (torch.nan if self.step >= 2 else 1), metrics


@pytest.mark.parametrize(
    "words",
    [
        ["loop.log_every=1"],  # it hears of the last straw as it reports that step
        ["loop.log_every=100"],  # as it takes the next one
        ["loop.log_every=100", "loop.save_every=5"],  # as it saves
    ],
)
def test_what_a_run_has_learned_before_is_kept(make, tmp_path, words):
    words = ["loop.max_skips=3", "loop.save_every=2", "loop.keep=9", *words]
    with pytest.raises(Diverged):
        make(*words, "loop.save_every=2", f"out_dir={tmp_path / 'often'}", kind=Hopeless).fit()
    with pytest.raises(Diverged):
        make(*words, kind=Hopeless).fit()
    good, kept = hashes(tmp_path / "often", 2), hashes(tmp_path / "tokenizer", 5)
    for name in ("model", "ema", "optim"):
        assert kept[f"{name}.safetensors"] == good[f"{name}.safetensors"]
    again = make(*words, kind=Hopeless)  # may try as often again, at other batches
    with pytest.raises(Diverged, match=r"^3 steps in a row were .*; step 8 is not taken"):
        again.fit()


def test_a_compiled_network_is_looked_at_in_its_plain_form(tmp_path, monkeypatch, capsys):
    """It would be compiled anew for a single image, and once more for the hooks."""
    batches = []

    def compiling(forward, dynamic):
        return lambda *args, **more: batches.append(len(args[0])) or forward(*args, **more)

    class Sick(GeneratorTrainer):
        def loss(self, objective, batch):
            loss, metrics = super().loss(objective, batch)
            return loss * (torch.nan if self.step == 1 else 1), metrics

    monkeypatch.setattr("Trainer.blocks.torch.compile", compiling)
    tokenizer_weights(tmp_path)
    fit(Sick(config("generator", tmp_path, FP32, "loop.steps=3", "loop.compile=true")))
    assert "first in the loss, behind the last module\n" in capsys.readouterr().out
    assert batches == [BATCH] * 3 * 2  # steps, blocks


@pytest.mark.parametrize("remedy", ["begin anew", "go on"])
def test_what_the_sentence_advises_works(tmp_path, remedy):
    class Sick(GeneratorTrainer):
        def loss(self, objective, batch):
            loss, metrics = super().loss(objective, batch)
            return loss * (torch.nan if self.step >= 2 else 1), metrics

    tokenizer_weights(tmp_path)
    words = ["precision=bf16", "loop.steps=4", "loop.max_skips=2"]
    with pytest.raises(Diverged) as error:
        Sick(config("generator", tmp_path, *words)).fit()
    advised = re.findall(r"(?:out_dir|init_from|precision)=[^\s;]+", str(error.value))
    assert [word.split("=")[0] for word in advised] == ["out_dir", "init_from", "precision"]
    if remedy == "go on":
        assert train("generator", tmp_path, *words, advised[2], "loop.steps=6").log.start == 4
    else:
        new = advised[0].replace("NEW", str(tmp_path / "new"))
        train("generator", tmp_path, *words, new, advised[1], "optim.lr=1e-5")
        begun = f"begun with {tmp_path / 'generator' / 'weights'}\n"
        assert begun in (tmp_path / "new" / "log.txt").read_text()


@pytest.mark.parametrize(
    ("losses", "cause"),
    [
        ([1, torch.nan], "the loss of rank 1, among samples 16-31"),
        ([torch.inf, torch.nan],
         "the loss of rank 0, among samples 0-15; the loss of rank 1, among samples 16-31"),
        ([1, 1], "the gradient"),
    ],
)  # fmt: skip
def test_a_sharded_run_names_ranks_and_their_samples(make, monkeypatch, capsys, losses, cause):
    """It is not computed once more: every rank would have to come to every block."""
    monkeypatch.setattr(
        "Trainer.skipped.all_gather_texts", lambda own: [own, "among samples 16-31"]
    )
    trainer = make()
    trainer.shards = True
    heard = Heard(4, losses, torch.nan, is_finite=False, is_skipped=True, stops=False)
    tell_of_skipped(trainer, heard, {"samples": torch.arange(BATCH)})
    assert capsys.readouterr().out.endswith(f"step 5 is not taken: not finite is {cause}\n")
