"""The picture of a study's numbers."""

import pytest
from matplotlib.figure import Figure

from Trainer.study_numbers import draw_blocks, draw_numbers


def mean(arm, number, deviation):
    numbers = {"train: loss": {"mean": number, "deviation": deviation, "number": 2},
               "train: parameters": {"mean": 5, "deviation": None, "number": 1}}  # fmt: skip
    return {"arm": arm, "values": {"x": "1"}, "seeds": 2, "numbers": numbers}


@pytest.fixture
def panels(tmp_path, monkeypatch):
    def panels(*means):
        found = []
        monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: found.extend(figure.axes))
        draw_numbers({"means": list(means)}, tmp_path / "numbers.png")
        return found

    return panels


def test_each_number_has_a_panel_with_error_bars(panels):
    (panel,) = panels(mean("a", 2.0, 0.5), mean("b", 3.0, None), mean("c", None, None))
    assert panel.get_title() == "train: loss"
    assert [tick.get_text() for tick in panel.get_yticklabels()] == ["a 1", "b 1", "c 1"]
    points = [container.lines[0].get_xdata()[0] for container in panel.containers]
    assert points == [2.0, 3.0]
    (bar,) = panel.containers[0].lines[2]
    assert [end[0] for end in bar.get_segments()[0]] == [1.5, 2.5]


def test_a_number_that_tells_no_rows_apart_has_no_panel(panels):
    assert panels(mean("a", 2.0, 0.5), mean("b", 2.0, None)) == []
    assert panels(mean("a", 2.0, 0.5), mean("b", None, None)) == []
    assert len(panels(mean("a", 2.0, 0.5))) == 1


def test_hidden_states_are_drawn_by_depth(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: found.extend(figure.axes))
    curves = {"blocks": {"block": [1, 2], "size": [1.0, 9.0]}}
    cells = [{"arm": "a", "values": {}, "curves": curves}] * 2 + [{"arm": "b", "curves": {}}]
    draw_blocks({"cells": cells}, tmp_path / "blocks.png")
    (panel,) = found
    assert [line.get_label() for line in panel.lines] == ["a", "_child1"]
    assert panel.lines[0].get_ydata().tolist() == [1.0, 9.0]
    lines = [{**cells[0], "arm": arm, "values": {"x": x}} for arm in "ab" for x in "12"]
    draw_blocks({"cells": lines}, tmp_path / "blocks.png")
    told = [(line.get_color(), line.get_linestyle()) for line in found.pop().lines]
    assert told == [("C0", "-"), ("C0", "--"), ("C1", "-"), ("C1", "--")]
    draw_blocks({"cells": cells[2:]}, tmp_path / "none.png")
    assert len(found) == 1


def test_without_numbers_nothing_is_drawn(panels):
    assert panels({"arm": "a", "values": {}, "numbers": {}}) == []
