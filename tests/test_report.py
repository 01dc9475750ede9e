"""Curves of a run as a picture."""

import json

import pytest
from PIL import Image

from Network.config import UserError
from Trainer.report import write_report


def test_a_picture_of_every_curve_that_the_run_has(tmp_path):
    lines = [{"step": s, "kind": "train", "loss": 3 - s, "acc": s / 3} for s in range(3)]
    lines += [{"step": 2, "kind": "validation", "loss": 1.5, "acc": 0.4}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    two = Image.open(write_report(tmp_path)).size
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "kind": "train", "loss": 1}))
    one = Image.open(write_report(tmp_path)).size
    assert two == (2 * one[0], one[1])


def test_a_folder_without_metrics_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no run folder: it has no metrics.jsonl"):
        write_report(tmp_path)


def test_a_last_line_torn_by_a_kill_is_left_out(tmp_path):
    whole = json.dumps({"step": 1, "kind": "train", "loss": 1.0}) + "\n"
    (tmp_path / "metrics.jsonl").write_text(whole)
    expected = write_report(tmp_path).read_bytes()
    (tmp_path / "metrics.jsonl").write_text(whole + '{"step": 2, "kind": "tra')
    assert write_report(tmp_path).read_bytes() == expected


@pytest.mark.parametrize("text", ["", '{"step": 1, "ki', '{"step": 1, "kind": "train", "lr": 1}\n'])
def test_a_run_without_curves_is_refused(tmp_path, text):
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(UserError) as error:
        write_report(tmp_path)
    assert str(error.value) == (
        f"report={tmp_path} has no curves yet: train it for loop.log_every steps first."
    )
    assert not (tmp_path / "curves.png").exists()
