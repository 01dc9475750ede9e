"""How far a job is: a bar where somebody looks, else lines."""

from io import StringIO

import pytest
import torch

from Metrics import progress
from Metrics.progress import counted


class Batches:
    def __len__(self):
        return 300

    def __iter__(self):
        return iter(torch.zeros(300, 1).split(100))


@pytest.fixture
def bars(monkeypatch):
    """The bars that are drawn, as if somebody looked."""
    found, bar = [], progress.tqdm

    def drawn(**words):
        found.append(bar(**{**words, "disable": False, "file": StringIO()}))
        return found[-1]

    monkeypatch.setattr(progress, "tqdm", drawn)
    return found


def test_a_bar_counts_images_and_ends_with_the_last(bars, capsys):
    assert [len(batch) for batch in counted(Batches(), "train")] == [100, 100, 100]
    assert [(bar.n, bar.total, bar.unit, bar.desc) for bar in bars] == [(300, 300, "img", "train")]
    assert capsys.readouterr().out == ""


def test_only_the_main_rank_tells(bars, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert len(list(counted(Batches(), "train"))) == 3
    assert bars == []


def test_where_nobody_looks_a_line_a_minute_tells_the_time_left(monkeypatch, capsys):
    clock = iter([0.0, 50.0, 70.0, 150.0])  # at the start, and behind every batch
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    assert len(list(counted(Batches(), "train"))) == 3
    assert capsys.readouterr().out == (
        "train      200 of 300, 2.9 img/s, 0:00:35 left\n"  # 100 images at 200 in 70 seconds
        "train      300 of 300, 2.0 img/s, 0:00:00 left\n"
    )
