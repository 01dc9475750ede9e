"""The loop itself, on a trainer that fits a line; resume is in test_resume.py."""

import re
import time

import pytest
import torch
from tiny_runs import config, fit, losses, records, tokenizer_weights, train
from torch import nn
from torch.utils.data import Dataset

from MaskGIL.noise import STREAMS, seed_of
from Network.config import UserError
from Trainer.guard import Diverged
from Trainer.looks import report
from Trainer.optim import learning_rate
from Trainer.trainer import Trainer
from Trainer.window import Window

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

    def open(self):
        self.asked, self.parts, self.exported = [], [], []

    def build(self):
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

    def score(self):
        assert not self.module.training
        self.asked.append(("score", self.step))
        return {"distance": 1.5}

    def export(self, folder, snapshot):
        self.exported.append(snapshot["state.json"]["step"])
        folder.mkdir(exist_ok=True)

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
    makes, looks = ("build", "dataset", "objective"), ("validate", "picture", "score")
    for name in (*makes, "loss", *looks, "export"):
        assert name in str(error.value)


def test_a_subclass_needs_nothing_else(make):
    trainer = fit(make())
    found = [record["loss"] for record in reports(trainer)]
    assert len(found) == 12
    assert found[-1] < found[0]
    (fresh := make()).prepare()
    assert not torch.equal(trainer.module.weight, fresh.module.weight)


# When it does what


def test_each_thing_is_done_when_it_is_due(make, tmp_path, capsys):
    words = (
        "loop.log_every=5",
        "loop.validate_every=4",
        "loop.sample_every=6",
        "loop.score_every=7",
        "loop.save_every=8",
    )
    trainer = fit(make(*words))
    out = capsys.readouterr().out
    assert [record["step"] for record in reports(trainer)] == [5, 10, 12]
    assert [record["step"] for record in reports(trainer, "validation")] == [4, 8, 12]
    assert reports(trainer, "score") == [
        {"step": s, "kind": "score", "distance": 1.5} for s in (7, 12)
    ]
    assert trainer.asked == [
        ("validate", 4), ("picture", 6), ("score", 7), ("validate", 8),
        ("validate", 12), ("picture", 12), ("score", 12),
    ]  # fmt: skip
    assert trainer.exported == [8, 12]
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


def test_a_resumed_run_tells_early_how_long_it_takes(make, capsys):
    """Shown, but not recorded: the records are those of a run that was never stopped."""
    words = ("loop.log_every=1000", "loop.save_every=7", "loop.steps=30")
    fit(make(*words), stop=15)
    capsys.readouterr()
    trainer = fit(make(*words))
    assert trainer.log.start == 14
    (early, last) = re.findall(r"^step (\d+)/30 .* eta ", capsys.readouterr().out, flags=re.M)
    assert (early, last) == ("24", "30")
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
    trainer.prepare()
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


@pytest.mark.parametrize(("kind", "early"), [("cuda", True), ("mps", False)])
def test_only_cuda_may_copy_behind_the_back_of_a_step(make, kind, early):
    """MPS reads memory that has been freed: pytorch/pytorch issue 189690."""

    class Pretended:
        def __getitem__(self, rows):
            return self

        def to(self, device, non_blocking):
            return device.type, non_blocking

    trainer = make()
    trainer.device = torch.device(kind)
    assert trainer._piece({"points": Pretended()}, 0) == {"points": (kind, early)}


def test_a_step_is_adamw_on_the_clipped_gradient(make):
    """The first step of Adam moves every number by lr, whatever the gradient's size."""
    trainer = make("optim.warmup=0", "optim.lr=0.25", "optim.weight_decay=0", "optim.clip=1e-3")
    trainer.prepare()
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


def test_averaged_weights_are_put_in_place_once_a_step(make):
    class Watched(Line):
        def averaged(self):
            self.asked.append(("averaged", self.step))
            return super().averaged()

    every = [f"loop.{name}_every=2" for name in ("validate", "sample", "score")]
    trainer = fit(make("loop.steps=3", *every, kind=Watched))
    looks = ("averaged", "validate", "picture", "score")
    assert trainer.asked == [*((name, step) for step in (2, 3) for name in looks)]


def test_validation_is_narrow_where_asked_and_pictures_choose_on_their_own(make):
    """A decoder may never run in fp16, whatever surrounds it."""

    class Watched(Line):
        def validate(self):
            self.asked.append(torch.is_autocast_enabled("cpu"))
            return {}

        def picture(self, path):
            self.asked.append(torch.is_autocast_enabled("cpu"))

        def score(self):
            self.asked.append(torch.is_autocast_enabled("cpu"))
            return {}

    words = ["precision=bf16", "loop.steps=1", "loop.validate_every=1", "loop.sample_every=1"]
    trainer = fit(make(*words, "loop.score_every=1", kind=Watched))
    assert trainer.asked[:3] == [True, False, False]


# Half precision: no CUDA device is needed to meet its scaled losses


class Half(Line):
    """In fp16, with a scaled loss; the points are so far away that gradients overflow at first."""

    distance = 64

    @classmethod
    def precision(cls, config, device):
        return torch.float16

    def loss(self, objective, batch):
        return super().loss(objective, {**batch, "points": self.distance * batch["points"]})


class Stumbling(Half):
    """Whose gradient is infinite the first time that a step comes by, and then small."""

    distance = 0.25

    def loss(self, objective, batch):
        loss, metrics = super().loss(objective, batch)
        again = self.parts.count(self.parts[-1]) > 1
        return loss if again else steep(loss, self.module), metrics


class Lost(Half):
    """Whose gradient is infinite at every scale in step 2."""

    def loss(self, objective, batch):
        loss, metrics = super().loss(objective, batch)
        return steep(loss, self.module) if self.step == 2 else loss, metrics


def steep(loss, module):
    """The same loss, whose gradient is not finite: the slope of a root is 1 / 0 there."""
    return loss + (module.weight.sum() * 0).abs().sqrt()


def standing(trainer):
    """Copies of what a step moves."""
    moments = [m for state in trainer.optimizer.state.values() for m in state.values()]
    tensors = [*trainer.module.state_dict().values(), *trainer.ema.tensors.values(), *moments]
    return [tensor.clone() for tensor in tensors]


def same(first, second):
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_an_overflow_moves_nothing_and_the_batch_comes_again(make):
    seen = []

    class Watched(Half):
        def loss(self, objective, batch):
            rate = self.optimizer.param_groups[0]["lr"]
            seen.append((self.step, rate, self.scaler.get_scale(), standing(self)))
            return super().loss(objective, batch)

        def behind_step(self, skip):
            self.asked.append(self.step)

    trainer, window = make("optim.warmup=4", kind=Watched), Window()
    trainer.prepare()
    batches, objective = trainer.dataset(), trainer.objective()
    trainer.train_step(objective, batches[0], window)
    again = len(seen) - 1
    assert again > 1
    assert [step for step, *_ in seen] == [0] * (again + 1)
    assert {rate for _, rate, *_ in seen} == {learning_rate(0, 12, trainer.config.optim)}
    scales = [scale for _, _, scale, _ in seen]
    assert scales == [2.0 ** (16 - number) for number in range(again + 1)]
    weights = [tensors[:4] for *_, tensors in seen]  # module and average; moments come later
    assert all(same(weights[0], each) for each in weights)
    assert trainer.parts == [trainer.parts[0]] * (again + 1)  # samples and dropout alike
    assert (trainer.step, trainer.asked, window.steps) == (1, [1], 1)
    assert window.means()["overflows"] == again
    assert 0 < window.means()["gnorm"] < 1e5


def test_a_run_that_overflows_is_a_run_that_does_not(make, tmp_path):
    class Calm(Half):
        distance = 0.25

        def prepare(self):
            super().prepare()
            self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)

    stumbling = fit(make(kind=Stumbling))
    calm = fit(make(f"out_dir={tmp_path / 'calm'}", kind=Calm))
    assert stumbling.scaler.get_scale() == calm.scaler.get_scale() == 2.0**4
    assert len(stumbling.parts) == 2 * len(calm.parts) == 24
    assert same(standing(stumbling), standing(calm))
    told = reports(stumbling)
    assert [line.pop("overflows") for line in told] == [1] * 12
    unstumbled = reports(calm)
    assert [line.pop("overflows") for line in unstumbled] == [0] * 12
    assert told == unstumbled


def test_a_gradient_that_overflows_at_any_scale_ends_the_run(make):
    trainer = make("loop.save_every=1", kind=Lost)
    with pytest.raises(Diverged) as error:
        trainer.fit()
    assert str(error.value) == (
        "The gradient of step 2 is not finite in fp16 however its loss is scaled; go on with "
        "precision=fp32, or begin anew with a lower optim.lr."
    )
    trainer.checkpoints.wait()
    assert trainer.step == fit(make("loop.steps=2")).log.start == 2


@pytest.mark.parametrize("kinds", [(Line, Half), (Half, Line)])
def test_a_run_goes_on_in_another_precision(make, kinds):
    first = fit(make("loop.steps=2", kind=kinds[0]))
    second = fit(make("loop.steps=4", kind=kinds[1]))
    assert (first.step, second.log.start, second.step) == (2, 2, 4)


def test_the_scale_of_losses_is_resumed(make):
    first, second = (fit(make("loop.steps=2", kind=Half)) for _ in range(2))
    assert second.log.start == 2
    assert second.scaler.state_dict() == first.scaler.state_dict()
    (fresh := make(kind=Half)).prepare()
    assert second.scaler.get_scale() < fresh.scaler.get_scale()


# Time, and what the end says


def test_the_rate_leaves_out_validation_and_checkpoints(make, monkeypatch):
    seconds = []

    class Slow(Line):
        def validate(self):
            time.sleep(0.3)
            return {}

    def timed(trainer, window):
        seconds.append(window.seconds)
        report(trainer, window)

    monkeypatch.setattr("Trainer.trainer.report", timed)
    fit(make("loop.steps=2", "loop.validate_every=1", kind=Slow))
    assert len(seconds) == 2
    assert max(seconds) < 0.3


def test_a_run_that_is_longer_than_asked_says_so(make, capsys):
    fit(make("loop.steps=3"))
    trainer = fit(make("loop.steps=2"))
    assert (trainer.asked, trainer.exported) == ([], [3])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("done: 3 steps (loop.steps=2 asks for fewer), ")


# Ranks


@pytest.mark.parametrize(("world_size", "accumulation"), [(2, 1), (4, 2), (1, 4)])
def test_the_order_of_samples_does_not_depend_on_ranks(make, monkeypatch, world_size, accumulation):
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    monkeypatch.setattr("Trainer.checkpoint.all_gather_texts", lambda text: [text])  # no group
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
        "optim.batch=16 is not divisible by 5, the number of ranks (1) times "
        "loop.accumulation (5); nearest: 15, 20."
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
