"""The picture of swept settings: quality against seconds."""

from itertools import count

from matplotlib.figure import Figure

from Trainer.equal_cost import DISTANCE
from Trainer.study_points import draw_points, lines_of

NUMBERS = count()


def cell(arm, stage, *points, **values):
    """A seed, whose part no other has. Points are (title, distance, seconds per image)."""
    told = [{"title": title, "measures": {DISTANCE: distance}} for title, distance, _ in points]
    clock = {stage: {"seconds per image of points": [seconds for *_, seconds in points]}}
    found = {"arm": arm, "values": values, "points": {stage: told}, "clock": clock}
    return {**found, "parts": {stage: str(next(NUMBERS))}}


SWEPT = [
    cell("mar", "sweep", ("plan=hybrid num_ar=0", 2.0, 0.1), ("plan=ar", 5.0, 0.5)),
    cell("mar", "sweep", ("plan=hybrid num_ar=0", 4.0, 0.3), ("plan=ar", 5.0, 0.5)),
    cell("ar", "sweep", ("guidance_scale=1.5", 7.0, 1.0)),
]


def test_points_are_means_over_seeds_with_their_deviation():
    first, last = lines_of({"cells": SWEPT})["mar"]
    assert first == (0.2, 3.0, 2.0**0.5, "0")
    assert last == (0.5, 5.0, 0.0, "ar")
    assert lines_of({"cells": SWEPT})["ar"] == [(1.0, 7.0, 0.0, "1.5")]


def test_a_sweep_that_all_seeds_share_counts_once():
    shared = cell("mar", "sweep", ("plan=ar", 5.0, 0.5))
    other = cell("mar", "sweep", ("plan=ar", 8.0, 0.5))
    (point,) = lines_of({"cells": [shared, shared, other]})["mar"]
    assert point == (0.5, 6.5, 3.0 / 2**0.5, "ar")


def test_lines_are_told_apart_by_arm_value_and_stage():
    point = ("num_steps=4", 1.0, 1.0)
    cells = [cell("", "one", point, lr="1"), cell("", "two", point, lr="1")]
    assert [*lines_of({"cells": cells[:1]})] == ["1"]
    both = {**cells[0], "points": {}, "clock": {}, "parts": {}}
    for each in cells:
        both["parts"] |= each["parts"]
        both["points"] |= each["points"]
        both["clock"] |= each["clock"]
    assert [*lines_of({"cells": [both]})] == ["1 one", "1 two"]


def test_a_line_and_names_of_points_are_drawn(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: found.extend(figure.axes))
    draw_points({"cells": SWEPT}, tmp_path / "points.png")
    (panel,) = found
    assert panel.get_legend_handles_labels()[1] == ["mar", "ar"]
    assert [text.get_text() for text in panel.texts] == ["0", "ar", "1.5"]


def test_without_a_sweep_nothing_is_drawn(tmp_path):
    draw_points({"cells": [{"arm": "", "values": {}, "points": {}}]}, tmp_path / "points.png")
    assert not [*tmp_path.iterdir()]
