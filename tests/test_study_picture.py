"""The picture of a study, and the largest value up to which an arm is stable."""

import pytest
from matplotlib.figure import Figure

from Trainer import study_picture
from Trainer.study_picture import draw_study, largest_stable, number_axis


def cell(arm="", seed=0, diverged="", loss=(4.0, 3.0), kind="train", **values):
    curve = {"step": list(range(1, len(loss) + 1)), "loss": list(loss)}
    values = {key.replace("__", "."): value for key, value in values.items()}
    return {"arm": arm, "seed": seed, "diverged": diverged, "values": values,
            "curves": {kind: curve}}  # fmt: skip


def drawn(cells, tmp_path, monkeypatch):
    """Every panel of the picture."""
    found = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: found.extend(figure.axes))
    draw_study({"cells": cells, "largest_stable": largest_stable(cells)}, tmp_path / "study.png")
    return found


GRID = [
    cell("pre", 0, optim__lr="1e-3"),
    cell("pre", 1, optim__lr="1e-3"),
    cell("pre", 0, optim__lr="8e-3"),
    cell("pre", 1, "diverged", (4.0, None), optim__lr="8e-3"),
    cell("pre", 0, optim__lr="1e-2"),
    cell("post", 0, optim__lr="1e-3"),
    cell("post", 0, optim__lr="1e-2"),
    cell("none at all", 0, "diverged", optim__lr="1e-3"),
]


def test_the_largest_stable_value_has_none_below_it_that_diverges():
    assert largest_stable(GRID) == {"pre": "1e-3", "post": "1e-2", "none at all": "none"}


@pytest.mark.parametrize(
    ("cells", "axis"),
    [
        ([], ""),
        ([cell("a")], ""),
        ([cell(optim__lr="1")], "optim.lr"),
        ([cell(optim__lr="1", optim__beta2="0.9")], ""),
        ([cell(network__norm="pre")], ""),
    ],
)
def test_an_axis_of_numbers(cells, axis):
    assert number_axis(cells) == axis
    if not axis:
        assert largest_stable(cells) == {}


def test_a_panel_for_each_arm_and_one_for_the_last_losses(tmp_path, monkeypatch):
    panels = drawn(GRID, tmp_path, monkeypatch)
    assert [panel.get_title() for panel in panels] == [
        "pre: stable up to 1e-3",
        "post: stable up to 1e-2",
        "none at all: stable up to none",
        "last loss (x: diverged)",
    ]
    pre = panels[0].lines
    assert [line.get_linestyle() for line in pre] == ["-", "-", "-", ":", "-"]
    assert len({line.get_color() for line in pre}) == 3  # a value has one colour
    marks = [line.get_marker() for line in panels[3].lines if line.get_marker() != "None"]
    assert marks == [".", "o", "x", ".", ".", ".", "o", "x"]  # rings behind the largest stable one
    assert [text.get_text() for text in panels[3].get_xticklabels()] == ["1e-3", "8e-3", "1e-2"]


def test_a_run_that_ends_before_its_first_line_has_an_endless_loss(tmp_path, monkeypatch):
    cells = [cell("a", optim__lr="1"), cell("a", diverged="Over.", loss=(), optim__lr="2")]
    first, last = drawn(cells, tmp_path, monkeypatch)
    assert [len(line.get_xdata()) for line in first.lines] == [2, 0]
    assert list(last.lines[0].get_ydata()) == [3.0, last.get_ylim()[1]]  # above all others


def test_without_numbers_arms_share_a_panel(tmp_path, monkeypatch):
    cells = [cell("scratch", 0), cell("scratch", 1), cell("tuned", 0, kind="train")]
    for each in cells:
        each["curves"]["validation"] = {"step": [1, 2], "loss": [3.5, 2.5]}
    (panel,) = drawn(cells, tmp_path, monkeypatch)
    assert panel.get_title() == "validation loss, a line per seed"
    assert [text.get_text() for text in panel.get_legend().texts] == ["scratch", "tuned"]
    assert [list(line.get_ydata()) for line in panel.lines] == [[3.5, 2.5]] * 3


def test_the_file_is_a_picture(tmp_path):
    study = {"cells": GRID, "largest_stable": largest_stable(GRID)}
    draw_study(study, tmp_path / "study.png")
    assert (tmp_path / "study.png").read_bytes()[1:4] == b"PNG"
    assert study_picture.LINES.keys() == {False, True}
