import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import AdamW

from Network.config import UserError
from Trainer.checkpoint import Checkpoints, damaged_file, restore, take_snapshot

STATE = {"step": 5, "content": {"tokenizer": "abc"}}
FILES = {"model", "ema", "optim", "extra"}


class Run:
    """A tiny module, its optimiser with two groups, its average and one extra tensor."""

    def __init__(self, seed):
        torch.manual_seed(seed)
        self.module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
        matrices = [p for p in self.module.parameters() if p.dim() > 1]
        others = [p for p in self.module.parameters() if p.dim() < 2]
        self.optimizer = AdamW([{"params": matrices}, {"params": others, "weight_decay": 0.0}])
        self.ema = {name: t + seed for name, t in self.module.state_dict().items()}
        self.extra = {"counts": torch.arange(6.0) + seed}
        for _ in range(seed):
            self.step()

    def step(self):
        self.module(torch.ones(2, 3)).square().sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def snapshot(self):
        return take_snapshot(self.module, self.optimizer, self.ema, self.extra, STATE)

    def restore(self, folder):
        return restore(folder, self.module, self.optimizer, self.ema, self.extra)

    def tensors(self):
        moments = {
            f"{number} {name}": value.clone()
            for number, parameter in enumerate(self.module.parameters())
            for name, value in self.optimizer.state[parameter].items()
        }
        averages = {f"average {name}": value.clone() for name, value in self.ema.items()}
        current = {name: t.clone() for name, t in self.module.state_dict().items()}
        return {**moments, **averages, **current, "counts": self.extra["counts"].clone()}


def equal(first, second):
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.fixture
def run():
    return Run(seed=3)


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path, keep=2)


def save(checkpoints, run, *steps):
    for step in steps:
        checkpoints.save(step, run.snapshot())
    checkpoints.wait()


def names(checkpoints):
    return sorted(path.name for path in checkpoints.folder.iterdir())


def flip_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_loading_gives_the_same_tensors(run, checkpoints):
    save(checkpoints, run, 5)
    other = Run(seed=1)
    assert not equal(other.tensors(), run.tensors())
    assert other.restore(checkpoints.latest()) == STATE
    assert equal(other.tensors(), run.tensors())
    for each in (run, other):
        each.step()
    assert equal(other.tensors(), run.tensors())


def test_restoring_goes_before_the_first_step_too(run, checkpoints):
    """A fresh optimiser has no moments yet."""
    save(checkpoints, run, 5)
    fresh = Run(seed=0)
    fresh.restore(checkpoints.latest())
    assert equal(fresh.tensors(), run.tensors())


def test_a_snapshot_does_not_move_with_the_run(run, checkpoints):
    before, snapshot = run.tensors(), run.snapshot()
    run.step()
    run.extra["counts"] += 1
    assert not equal(run.tensors(), before)
    checkpoints.save(5, snapshot)
    checkpoints.wait()
    other = Run(seed=1)
    other.restore(checkpoints.latest())
    assert equal(other.tensors(), before)


def test_the_newest_two_are_kept_and_latest_names_the_newest(run, checkpoints):
    for step, kept in ((1, [1]), (2, [1, 2]), (3, [2, 3]), (4, [3, 4])):
        save(checkpoints, run, step)
        assert names(checkpoints) == ["latest", *(f"step-{each:07d}" for each in kept)]
        assert checkpoints.latest().name == f"step-{step:07d}"
        assert (checkpoints.folder / "latest").read_text() == f"step-{step:07d}"


def test_without_any_there_is_none(checkpoints):
    assert checkpoints.latest() is None
    assert Checkpoints(checkpoints.folder / "missing", 2).latest() is None


def test_other_ranks_read_nothing_and_take_what_rank_0_names(run, checkpoints, monkeypatch):
    save(checkpoints, run, 5, 10)
    said = ["step-0000005"]  # by rank 0, which has found the other one damaged
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("Trainer.checkpoint.all_gather_texts", lambda text: [*said, text])
    monkeypatch.setattr("Trainer.checkpoint.damaged_file", lambda _: pytest.fail("it has read"))
    assert checkpoints.latest() == checkpoints.folder / "step-0000005"
    for said[0] in ("", "step-0000007"):  # there is none, or it is on another disk
        assert checkpoints.latest() is None


def test_a_truncated_newest_is_passed_over_with_a_warning_that_names_it(run, checkpoints, capsys):
    save(checkpoints, run, 5, 10)
    file = checkpoints.folder / "step-0000010" / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert checkpoints.latest().name == "step-0000005"
    assert capsys.readouterr().out == (
        "warning: checkpoint step-0000010 is passed over: model.safetensors is damaged\n"
    )


def test_the_main_process_alone_warns(run, checkpoints, capsys, monkeypatch):
    save(checkpoints, run, 5)
    flip_byte(checkpoints.folder / "step-0000005" / "state.json")
    monkeypatch.setenv("RANK", "1")
    assert checkpoints.latest() is None
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", [*(f"{name}.safetensors" for name in sorted(FILES)), "state.json"])
def test_a_flipped_byte_is_noticed(run, checkpoints, name):
    save(checkpoints, run, 5)
    folder = checkpoints.folder / "step-0000005"
    assert damaged_file(folder) is None
    flip_byte(folder / name)
    assert damaged_file(folder) == f"{name} is damaged"


@pytest.mark.parametrize("name", ["manifest.json", "optim.safetensors"])
def test_a_missing_file_is_noticed(run, checkpoints, name):
    save(checkpoints, run, 5, 6)
    (checkpoints.folder / "step-0000006" / name).unlink()
    assert "is missing or unreadable" in damaged_file(checkpoints.folder / "step-0000006")
    assert checkpoints.latest().name == "step-0000005"


def test_another_format_is_told_and_not_passed_over(run, checkpoints):
    save(checkpoints, run, 5)
    manifest = checkpoints.folder / "step-0000005" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 2', '"format": 3'))
    with pytest.raises(UserError) as error:
        checkpoints.latest()
    assert str(error.value) == (
        f"The checkpoint {manifest.parent} has format 3, this version reads 2; resume with the "
        "version that wrote it, or name another out_dir."
    )


def test_the_first_format_is_read_of_generators_and_told_of_tokenizers(run, checkpoints):
    save(checkpoints, run, 5)
    folder = checkpoints.folder / "step-0000005"
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 1}))
    assert damaged_file(folder) is None
    save_file({"encoder.conv_in.bias": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"has format 1, this version reads 2; resume with the ver"):
        damaged_file(folder)


def test_a_torn_manifest_is_noticed(run, checkpoints):
    save(checkpoints, run, 5)
    manifest = checkpoints.folder / "step-0000005" / "manifest.json"
    manifest.write_text(manifest.read_text()[:50])
    assert damaged_file(manifest.parent).startswith("manifest.json or a file of it is missing")


def test_damaged_later_ones_do_not_count_as_kept(run, checkpoints):
    """Else the checkpoint just written would be the one to go."""
    save(checkpoints, run, 300, 400)
    for folder in checkpoints.folder.glob("step-*"):
        flip_byte(folder / "ema.safetensors")
    save(checkpoints, run, 100, 110, 120)
    assert checkpoints.latest().name == "step-0000120"
    assert {"step-0000110", "step-0000120"} < set(names(checkpoints))
    assert "step-0000100" not in names(checkpoints)


def test_a_folder_that_was_never_finished_is_ignored_and_written_anew(run, checkpoints):
    save(checkpoints, run, 5)
    aside = checkpoints.folder / "step-0000010.tmp"
    aside.mkdir()
    (aside / "left-over.safetensors").write_bytes(b"half of")
    assert checkpoints.latest().name == "step-0000005"
    save(checkpoints, run, 10)
    assert names(checkpoints) == ["latest", "step-0000005", "step-0000010"]
    assert not (checkpoints.folder / "step-0000010" / "left-over.safetensors").exists()


def test_writing_that_fails_leaves_the_old_one_and_is_told(run, checkpoints, monkeypatch):
    save(checkpoints, run, 5)

    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("Trainer.checkpoint.save_tensors", broken)
    checkpoints.save(10, run.snapshot())
    with pytest.raises(OSError, match="Input/output error"):
        checkpoints.wait()
    checkpoints.wait()  # it is told once
    assert checkpoints.latest().name == "step-0000005"
    assert (checkpoints.folder / "latest").read_text() == "step-0000005"


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        OSError(122, "Disk quota exceeded"),
        SafetensorError('I/O error: Os { message: "No space left on device (os error 28)" }'),
    ],
)
def test_a_full_disk_is_told_and_leaves_nothing_behind(run, checkpoints, monkeypatch, error):
    told = []
    checkpoints.warn = told.append
    save(checkpoints, run, 5)
    with monkeypatch.context() as patch:
        patch.setattr("Trainer.checkpoint.save_tensors", Full(error, after=2))
        save(checkpoints, run, 10)
    (sentence,) = told
    assert sentence.startswith(f"warning: the disk of {checkpoints.folder} is full: step-0000010 ")
    assert checkpoints.is_lost
    assert names(checkpoints) == ["latest", "step-0000005"]
    assert checkpoints.latest().name == "step-0000005"
    save(checkpoints, run, 15)
    assert (checkpoints.is_lost, len(told)) == (False, 1)
    assert names(checkpoints) == ["latest", "step-0000005", "step-0000015"]


class Full:
    """Stands in for save_tensors on a disk that has room for `after` files."""

    def __init__(self, error, after):
        self.error, self.room = error, after

    def __call__(self, tensors, path):
        if not self.room:
            path.write_bytes(b"half of a f")
            raise self.error
        self.room -= 1
        save_file(tensors, path)


def test_every_third_is_kept_for_ever(run, tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2, keep_every=3)
    save(checkpoints, run, *range(1, 9))
    kept = [3, 6, 7, 8]  # the multiples of 3, and the newest two
    assert names(checkpoints) == ["latest", *(f"step-{step:07d}" for step in kept)]


def test_a_deletion_that_fails_is_told_and_no_more(run, checkpoints, monkeypatch):
    told = []
    checkpoints.warn = told.append
    save(checkpoints, run, 1, 2)

    def forbidden(path, *_, **__):
        if Path(path).suffix != ".tmp" and Path(path).exists():
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("Trainer.checkpoint.shutil.rmtree", forbidden)
    save(checkpoints, run, 3)
    old = checkpoints.folder / "step-0000001"
    assert told == [
        f"warning: the old checkpoint {old} cannot be deleted: [Errno 13] Permission denied"
    ]
    assert checkpoints.latest().name == "step-0000003"
    assert old.exists()


def test_weights_are_exported_behind_the_checkpoint_from_its_snapshot(run, checkpoints):
    seen = []

    def export(snapshot):
        seen.append((names(checkpoints), snapshot["state.json"]["step"]))

    checkpoints.save(5, run.snapshot(), export)
    checkpoints.wait()
    assert seen == [(["latest", "step-0000005"], 5)]


def test_the_same_step_again_replaces_its_folder(run, checkpoints):
    save(checkpoints, run, 5)
    first = run.tensors()
    run.step()
    save(checkpoints, run, 5)
    other = Run(seed=1)
    other.restore(checkpoints.latest())
    assert equal(other.tensors(), run.tensors())
    assert not equal(other.tensors(), first)


def test_files_hold_tensors_and_numbers_no_pickle(run, checkpoints):
    save(checkpoints, run, 5)
    folder = checkpoints.latest()
    assert {path.name for path in folder.iterdir()} == {
        *(f"{name}.safetensors" for name in sorted(FILES)), "state.json", "manifest.json",
    }  # fmt: skip
    for path in folder.iterdir():
        if path.suffix == ".json":
            json.loads(path.read_text())
        else:
            assert load_file(path)
            assert not path.read_bytes().startswith((b"PK", b"\x80"))
    assert load_file(folder / "model.safetensors").keys() == run.module.state_dict().keys()
