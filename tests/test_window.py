import itertools
import math

import pytest
import torch

from Trainer.window import Window


@pytest.fixture
def clock(monkeypatch):
    """Shows 0, 2, 4, ... seconds, one after the other."""
    counter = itertools.count(0, 2)
    monkeypatch.setattr("Trainer.window.time.monotonic", lambda: next(counter))


def test_a_window_means_over_steps_and_sums_over_parts():
    window = Window()
    for step in range(3):
        for part in (1.0, 2.0):
            window.add({"loss": torch.tensor(part + step)})
        window.behind_step(torch.tensor(4.0 + step), step, torch.tensor(0.0))
    assert window.means() == {"loss": 5.0, "gnorm": 5.0, "lr": 2}  # (3 + 5 + 7) / 3
    window.clear()
    window.add({"loss": torch.tensor(1.0)})
    window.behind_step(torch.tensor(2.0), 0.5, torch.tensor(0.0))
    assert window.means() == {"loss": 1.0, "gnorm": 2.0, "lr": 0.5}


def test_a_number_is_a_mean_over_the_steps_that_told_it_and_were_taken():
    window = Window()
    told = [("mar", 4.0, 0.0), ("ar", 9.0, 0.0), ("mar", 6.0, 0.0), ("mar", torch.nan, 1.0)]
    for mode, loss, skip in told:
        window.add({"loss": torch.tensor(loss), f"{mode}_loss": torch.tensor(loss)})
        window.behind_step(torch.tensor(2.0), 0.5, torch.tensor(skip))
    expected = {"loss": 19 / 3, "mar_loss": 5.0, "ar_loss": 9.0, "gnorm": 2.0, "lr": 0.5}
    assert window.means() == pytest.approx(expected)


def test_a_window_knows_the_time_that_data_took(clock):
    window = Window()  # 0
    batches = window.timed(iter([1, 2]))
    assert next(batches) == 1  # asked at 2, got at 4
    assert math.isclose(window.data_share, 2 / 6)  # looked at at 6
    assert list(batches) == [2]


def test_a_pause_is_left_out(clock):
    window = Window()  # 0
    with window.paused():  # 2 to 4
        pass
    assert window.seconds == 4  # at 6
