"""The law behind a study of sizes, and the hours that are derived from it."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from Network.config import UserError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def scaling(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import scaling

    return scaling


def test_a_law_is_found_with_its_error(scaling):
    sizes = np.array([3e4, 1e5, 3e5, 1e6, 4e6])
    exact = 100 + 9000 * sizes**-0.4
    found = scaling.fit_with_errors(sizes, exact)
    for name, value in (("floor", 100), ("scale", 9000), ("exponent", 0.4)):
        assert found[name] == pytest.approx(value, rel=1e-3)
        assert found[f"{name} error"] < 1e-2 * value
    noisy = scaling.fit_with_errors(sizes, exact * [1.01, 0.99, 1.01, 0.99, 1.01])
    assert noisy["exponent error"] > 10 * found["exponent error"]
    assert abs(noisy["exponent"] - 0.4) < 3 * noisy["exponent error"]


def test_a_law_needs_four_sizes(scaling):
    row = {"numbers": {f"train: {name}": {"mean": 1.0} for name in ("parameters", scaling.LOSS)}}
    with pytest.raises(UserError, match="The study has 3 sizes, of which 3 are trained"):
        scaling.points({"means": [row] * 3}, "parameters")
    for other in ({"numbers": {}}, {"numbers": {"train: parameters": {"mean": None}}}):  # diverged
        with pytest.raises(UserError) as error:
            scaling.points({"means": [*[row] * 4, other]}, "parameters")
        assert str(error.value) == (
            "The study has 5 sizes, of which 4 are trained with all seeds; a law and its error "
            "need four, and all of them."
        )


def test_the_law_is_drawn_with_a_band_that_holds_the_points(scaling, tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: found.extend(figure.axes))
    sizes, losses = [1e4, 1e5, 1e6, 1e7], [190.0, 150.0, 131.0, 119.0]
    rows = [
        {
            "arm": str(size),
            "numbers": {
                "train: parameters": {"mean": size},
                "train: training teraFLOPs": {"mean": 2 * size},
                "train: bits per image": {"mean": loss, "deviation": 1.0},
            },
        }
        for size, loss in zip(sizes, losses)
    ]
    scaling.draw({"means": rows}, tmp_path / "scaling.png")
    assert [panel.get_xlabel() for panel in found] == list(scaling.AXES)
    for panel in found:
        line, points = panel.lines[0].get_ydata(), panel.containers[0].lines[0].get_ydata()
        assert list(points) == losses
        assert line[[0, -1]] == pytest.approx([losses[0], losses[-1]], rel=0.03)
        assert (np.diff(line) < 0).all()
        assert panel.get_ylim() == (119.0 - 35.5, 190.0 + 35.5)
        (band,) = panel.collections[:1]
        low, high = band.get_paths()[0].get_extents().intervaly
        assert low <= line.min()
        assert high >= line.max()


def test_hours_follow_from_counted_operations(scaling):
    hours = scaling.gpu_hours("b", 0.4)
    assert 100 < hours < 200  # README: 137 h of one A100 with rounding of the plan's shape
    assert scaling.gpu_hours("b", 0.2) == pytest.approx(2 * hours)
