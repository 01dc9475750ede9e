"""Curves of a run as a picture."""

import json

import pytest
from PIL import Image

from Network.config import UserError
from Trainer.curves import read_curves
from Trainer.report import compare, write_report
from Trainer.report_page import report_page


def log(folder, *lines):
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def train(step, **values):
    return {"step": step, "kind": "train", **values}


def test_a_picture_of_every_curve_that_the_run_has(tmp_path):
    lines = [train(s, loss=3 - s, acc=s / 3) for s in range(3)]
    lines += [{"step": 2, "kind": "validation", "loss": 1.5, "acc": 0.4}]
    two = Image.open(write_report(log(tmp_path, *lines))[0]).size
    one = Image.open(write_report(log(tmp_path, train(1, loss=1)))[0]).size
    assert two == (2 * one[0], one[1])


def test_a_page_of_all_lies_beside_the_picture(tmp_path):
    page = write_report(log(tmp_path, train(1, loss=1.5)))[2]
    assert page == tmp_path / "report.html"
    assert page.read_text("utf-8") == report_page(read_curves(tmp_path))


def test_the_curves_are_kept_as_a_file_too(tmp_path):
    lines = [train(s, loss=3.0 - s, images_per_second=9.0) for s in range(3)]
    _, file, _ = write_report(log(tmp_path, *lines))
    assert file.name == "run.curves.json"
    kept, run = read_curves(file), read_curves(tmp_path)
    assert kept.config == run.config
    assert kept.values("train", "loss") == run.values("train", "loss") == {0: 3.0, 1: 2.0, 2: 1.0}
    assert kept.values("train", "images_per_second") == {}


def test_a_folder_without_metrics_is_refused(tmp_path):
    with pytest.raises(UserError, match="report=.* is no run folder: it has no metrics.jsonl"):
        write_report(tmp_path)


def test_a_last_line_torn_by_a_kill_is_left_out(tmp_path):
    expected = write_report(log(tmp_path, train(1, loss=1.0)))[0].read_bytes()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "kind": "tra')
    assert write_report(tmp_path)[0].read_bytes() == expected


@pytest.mark.parametrize("text", ["", '{"step": 1, "ki', '{"step": 1, "kind": "train", "lr": 1}\n'])
def test_a_run_without_curves_is_refused(tmp_path, text):
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(UserError) as error:
        write_report(tmp_path)
    assert str(error.value) == (
        f"report={tmp_path} has no curves yet: train it for loop.log_every steps first."
    )
    assert not (tmp_path / "curves.png").exists()


def test_two_runs_are_compared_and_drawn(tmp_path):
    one = log(tmp_path / "one", train(1, loss=2.0), train(2, loss=1.0))
    two = log(tmp_path / "two", train(1, loss=2.0), train(2, loss=0.8))
    told = compare([str(one), str(two)])
    assert f"wrote       {one / 'compare.png'}" in told
    assert Image.open(one / "compare.png").size == Image.open(write_report(one)[0]).size
    assert (one / "compare.png").read_bytes() != (one / "curves.png").read_bytes()


def test_three_runs_are_too_many(tmp_path):
    with pytest.raises(UserError) as error:
        compare(["a", "b", "c"])
    assert str(error.value) == "compare=a,b,c names more than two runs: name two."
