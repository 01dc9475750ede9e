"""The hosted trackers by their three calls: neither package is installed here."""

import sys
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from Network.config import UserError
from Trainer.logger import Logger
from Trainer.trackers import check_tracker


@pytest.fixture
def calls(monkeypatch):
    """Every call of a fake wandb and a fake trackio."""
    calls = []
    for name in ("wandb", "trackio"):
        record = {
            verb: lambda *a, _call=f"{name}.{verb}", **k: calls.append((_call, a, k))
            for verb in ("init", "log", "finish")
        }
        monkeypatch.setitem(
            sys.modules, name, SimpleNamespace(**record, __spec__=SimpleNamespace(origin=name))
        )
    return calls


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_a_resumed_run_is_the_same_run(tmp_path, calls, tracker):
    for step in (0, 3):
        log = Logger(tmp_path, step, 5, tracker)
        log.record(step + 1, "train", {"loss": 2.0, "acc": 0.5})
        log.close()
    first, second = calls[:3], calls[3:]
    assert [name for name, _, _ in first] == [
        f"{tracker}.{verb}" for verb in ("init", "log", "finish")
    ]
    assert first[0] == second[0]  # project, name, and the id where there is one
    named = first[0][2]
    assert (named["project"], named["resume"]) == ("maskgil", "allow")
    assert named["name"].startswith(f"{tmp_path.name}-")
    assert (named.get("id") == named["name"]) == (tracker == "wandb")
    assert first[1][1:] == (({"train/loss": 2.0, "train/acc": 0.5},), {"step": 1})
    assert second[1][2] == {"step": 4}
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_two_runs_are_two(tmp_path, calls):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Logger(tmp_path / name, 0, 5, "wandb").close()
    assert calls[0][2]["id"] != calls[2][2]["id"]


def test_tensorboard_strikes_out_what_lies_behind_the_resumed_step(tmp_path):
    for start, steps in ((0, (1, 2, 3)), (1, (2,))):
        log = Logger(tmp_path, start, 5, "tensorboard")
        for step in steps:
            log.record(step, "train", {"loss": 10.0 * start + step})
        log.close()
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert found == [(1, 1.0), (2, 12.0)]


def test_none_writes_no_curves(tmp_path):
    log = Logger(tmp_path, 0, 5, "none")
    log.line("a line")
    log.record(1, "train", {"loss": 2.0})
    log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.txt", "metrics.jsonl"]


def test_a_tracker_that_cannot_start(tmp_path, calls, monkeypatch):
    def init(**_):
        raise RuntimeError("no API key")

    monkeypatch.setattr(sys.modules["wandb"], "init", init)
    with pytest.raises(UserError) as error:
        Logger(tmp_path, 0, 5, "wandb")
    assert str(error.value) == (
        "loop.tracker=wandb cannot start (no API key); log in as wandb asks, or use "
        "loop.tracker=tensorboard."
    )


def test_a_folder_of_its_name_is_not_the_package(tmp_path, monkeypatch):
    (tmp_path / "trackio").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"needs the package trackio"):
        check_tracker("trackio")


def test_a_tracker_that_is_not_installed():
    check_tracker("tensorboard")
    check_tracker("none")
    with pytest.raises(UserError) as error:
        check_tracker("trackio")
    assert str(error.value) == (
        "loop.tracker=trackio needs the package trackio: pip install trackio, or use "
        "loop.tracker=tensorboard."
    )
