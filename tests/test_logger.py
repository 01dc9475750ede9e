import json
import re
from pathlib import Path

import pytest

from Trainer.logger import Logger, format_bytes, format_seconds, format_value

VALUES = {"loss": 5.9123, "acc": 0.0321, "gnorm": 0.8, "lr": 4e-4}


@pytest.fixture
def log(tmp_path):
    log = Logger(tmp_path, 0, 4000, "tensorboard")
    yield log
    log.close()


def test_the_line_of_a_step(log, tmp_path, capsys):
    log._clock -= 180 * 500 / 3500  # so long for 500 steps: the other 3,500 take 180 seconds
    log.progress(500, VALUES, 210.4, 0.012)
    (line,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"step  500/4000  12% \| loss 5\.912 \| acc 3\.2% \| gnorm 0\.8 \| lr 4\.0e-04 \| "
        r"210 img/s \| data 1% \| eta 3m\d\ds",
        line,
    ), line
    assert (tmp_path / "log.txt").read_text() == line + "\n"


@pytest.mark.parametrize(
    ("step", "start"), [(1, "step    1/4000   0% |"), (4000, "step 4000/4000 100% |")]
)
def test_lines_stand_in_columns(log, capsys, step, start):
    log.progress(step, VALUES, 1234.5, 0.5)
    line = capsys.readouterr().out
    assert line.startswith(start)
    assert "| 1,234 img/s | data 50% |" in line
    assert line.endswith("| eta 0s\n") == (step == 4000)


def test_the_rest_is_estimated_from_this_start_on(tmp_path, capsys):
    log = Logger(tmp_path, 300, 400)
    log._clock -= 100  # 50 steps took 100 s, so the other 50 take as long
    log.progress(350, {}, 1, 0)
    log.close()
    assert "| eta 1m4" in capsys.readouterr().out


def test_metrics_are_lines_of_json_and_curves(log, tmp_path):
    log.record(1, "train", {"loss": 2.5})
    log.record(1, "validation", {"psnr": 20.0})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "kind": "train", "loss": 2.5},
        {"step": 1, "kind": "validation", "psnr": 20.0},
    ]
    log.close()
    assert any(path.stat().st_size for path in (tmp_path / "tb").iterdir())


def test_lines_behind_the_resumed_step_are_dropped(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "kind": "train", "loss": step}) for step in (1, 2, 3, 4)]
    metrics.write_text("\n".join(lines) + '\n{"step": 5, "ki')  # the last one torn by a kill
    Logger(tmp_path, 3, 10).close()
    assert metrics.read_text().splitlines() == lines[:3]
    Logger(tmp_path, 0, 10).close()
    assert metrics.read_text() == ""


def test_a_kill_while_lines_are_dropped_loses_none(tmp_path, monkeypatch):
    metrics = tmp_path / "metrics.jsonl"
    lines = "".join(json.dumps({"step": step}) + "\n" for step in (1, 2))
    metrics.write_text(lines)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        Logger(tmp_path, 1, 10)
    assert metrics.read_text() == lines
    monkeypatch.undo()
    Logger(tmp_path, 1, 10).close()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["metrics.jsonl"]


def test_log_txt_is_continued(tmp_path, capsys):
    for step, text in ((0, "first"), (3, "second")):
        log = Logger(tmp_path, step, 10)
        log.line(text)
        log.close()
    assert (tmp_path / "log.txt").read_text() == "first\nsecond\n"
    assert capsys.readouterr().out == "first\nsecond\n"


def test_other_ranks_are_silent(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    log = Logger(tmp_path, 0, 10)
    log.line("text")
    log.advance(1)
    log.record(1, "train", VALUES)
    log.progress(1, VALUES, 1, 0)
    log.close()
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


def test_a_pipe_sees_no_bar(log, capsys):
    for step in range(1, 4):
        log.advance(step)
    assert capsys.readouterr() == ("", "")


def test_the_score_of_a_loss_stands_beside_it(log, capsys):
    log.progress(500, {**VALUES, "skip": 0, "z": 0.31}, 210.4, 0.012)
    line = capsys.readouterr().out
    assert "| loss 5.912 (z+0.3) | acc 3.2% | gnorm 0.8 | lr 4.0e-04 | skip 0 | 210 img/s" in line


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("z", -1.26, "-1.3"),
        ("loss", 5.91234, "5.912"),
        ("loss", 0.0001234, "0.0001234"),
        ("acc", 0.0321, "3.2%"),
        ("mar_acc", 0.0321, "3.2%"),
        ("ar_acc", 0.0321, "3.2%"),
        ("usage", 1.0, "100.0%"),
        ("lr", 0.0004, "4.0e-04"),
        ("ppl", 211.26, "211.3"),
    ],
)
def test_format_value(name, value, text):
    assert format_value(name, value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"), (59.4, "59s"), (59.6, "1m00s"), (200, "3m20s"), (3599.4, "59m59s"),
        (3599.6, "1h00m"), (18449, "5h07m"), (360000, "100h00m"),
    ],
)  # fmt: skip
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"), (512, "512 B"), (999, "999 B"), (1000, "1.0 kB"), (3.2e6, "3.2 MB"),
        (6.6e9, "6.6 GB"), (2.5e12, "2500.0 GB"),
    ],
)  # fmt: skip
def test_format_bytes(count, text):
    assert format_bytes(count) == text
