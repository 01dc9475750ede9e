"""The pictures of a sweep: what is drawn, read from the figures themselves."""

import pytest
from matplotlib.figure import Figure
from test_sweep_table import cell, record

from Metrics.sweep_picture import draw_axes, draw_fronts, lines_along

CELLS = [
    cell("num_steps=1 guidance_scale=1", 40.0, 0.1, 1, 0.1, num_steps=1, guidance_scale=1.0),
    cell("num_steps=8 guidance_scale=1", 8.0, 0.8, 8, 0.8, 8.0, num_steps=8, guidance_scale=1.0),
    cell(
        "num_steps=16 guidance_scale=1", 9.0, 0.9, 16, 1.6, 16.0, num_steps=16, guidance_scale=1.0
    ),
    cell("num_steps=8 guidance_scale=2", 7.0, 0.7, 8, 1.0, 16.0, num_steps=8, guidance_scale=2.0),
    {**cell("plan=ar", 6.0, 0.6, 64, 0.7, 4.0, plan="ar"), "series": "plan=ar"},
]


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """The figure that a function draws."""
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))

    def drawn(draw, *cells):
        draw(record(*cells), tmp_path / "a.png")
        return figures[-1] if figures else None

    return drawn


def test_three_costs_by_two_measures_and_the_fronts(drawn):
    figure = drawn(draw_fronts, *CELLS)
    panels = figure.axes
    assert len(panels) == 6
    assert [panel.get_xlabel() for panel in panels[3:]] == [
        "seconds per image",
        "sequential steps",
        "GFLOP per image",
    ]
    assert panels[0].get_ylabel() == "distance (less is better)"
    assert panels[3].get_ylabel() == "class accuracy (more is better)"
    steps = panels[1]
    assert [text.get_text() for text in steps.texts] == ["5", "2", "1"]  # rows of the table
    (line,) = [each for each in steps.lines if each.get_drawstyle() == "steps-post"]
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([1, 8, 64], [40.0, 7.0, 6.0])
    points = [each for each in steps.lines if each.get_marker() in "os"]
    assert [len(each.get_xdata()) for each in points] == [4, 1]
    assert len({each.get_color() for each in points}) == 2
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["all", "plan=ar"]


def test_a_panel_for_each_setting_that_is_a_number(drawn):
    panels = drawn(draw_axes, *CELLS).axes
    assert [panel.get_xlabel() for panel in panels[2:]] == ["num_steps", "guidance_scale"]
    by_steps, by_guidance = panels[:2]
    assert [list(line.get_xdata()) for line in by_steps.lines] == [[1, 8, 16]]
    assert [list(line.get_ydata()) for line in by_guidance.lines] == [[8.0, 7.0]]
    assert (by_steps.get_xscale(), by_guidance.get_xscale()) == ("log", "linear")
    assert by_steps.get_yscale() == "log"  # 40 is more than 5 times 6


def test_a_line_joins_samplers_that_differ_in_one_number_alone():
    by_steps = lines_along(CELLS, "num_steps")
    assert {name: len(line) for name, line in by_steps.items()} == {"guidance_scale=1": 3}
    assert list(lines_along(CELLS, "guidance_scale")) == ["num_steps=8"]
    assert lines_along(CELLS, "plan") == {}
    usual = cell("num_steps=8", 8.5, steps=8, num_steps=8)  # names no guidance, and has some
    usual["sampling"]["guidance_scale"] = 1.5
    (line,) = lines_along([*CELLS, usual], "guidance_scale").values()
    assert [each["sampling"]["guidance_scale"] for each in line] == [1.0, 1.5, 2.0]


def test_without_numbers_there_are_no_axes(drawn, tmp_path):
    (tmp_path / "a.png").write_bytes(b"of before")
    assert drawn(draw_axes, CELLS[4]) is None
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize("draw", [draw_fronts, draw_axes])
def test_the_file_is_a_picture(draw, tmp_path):
    draw(record(*CELLS), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[1:4] == b"PNG"
