"""Charts show numbers where they belong, on round ticks, and nothing that is no number."""

import math
import re
from xml.etree import ElementTree

import pytest

from Trainer.chart import HEIGHT, LEFT, MOST_POINTS, RIGHT, TOP, WIDTH, Axis, Line, draw_chart, nice


def path_of(svg):
    (path,) = ElementTree.fromstring(svg).findall("path[@class='line']")
    return [tuple(map(float, place.split())) for place in path.get("d")[1:].split("L")]


def test_a_line_goes_from_end_to_end():
    places = path_of(draw_chart([Line("a", {0: 1.0, 50: 3.0, 100: 2.0}, "#000")], 100))
    middle = (LEFT + WIDTH - RIGHT) / 2
    assert [x for x, _ in places] == [LEFT, middle, WIDTH - RIGHT]
    low, high, between = (y for _, y in places)
    assert high == TOP < between < low < HEIGHT  # y goes down
    assert between == pytest.approx((low + high) / 2)


def test_equal_factors_are_equally_high_on_a_logarithmic_axis():
    line = Line("a", {0: 1.0, 1: 10.0, 2: 100.0}, "#000")
    first, second, third = (y for _, y in path_of(draw_chart([line], 2, logarithmic=True)))
    assert second == pytest.approx((first + third) / 2)


def test_lines_share_the_axes():
    lines = [Line("a", {0: 0.0, 10: 1.0}, "#000"), Line("b", {10: 2.0, 20: 4.0}, "#111")]
    paths = ElementTree.fromstring(draw_chart(lines, 20)).findall("path[@class='line']")
    assert [path.get("d").count("L") for path in paths] == [1, 1]
    assert paths[0].get("d").startswith(f"M{LEFT}.0 ")
    middle = (LEFT + WIDTH - RIGHT) / 2
    assert f"L{middle:.1f} " in paths[0].get("d")
    assert paths[1].get("d").endswith(f"L{WIDTH - RIGHT}.0 {TOP}.0")


def test_dots_tell_their_numbers_as_text():
    svg = draw_chart([Line("<b>loss", {1000: 2.5}, "#000", dots=True)], 2000)
    assert ElementTree.fromstring(svg).findtext("circle/title") == "<b>loss: 2.5 at step 1,000"


def test_what_is_no_number_is_left_out():
    nan, infinite = math.nan, math.inf
    places = path_of(draw_chart([Line("a", {0: 1.0, 1: nan, 2: infinite, 3: 2.0}, "#000")], 3))
    assert len(places) == 2
    assert draw_chart([Line("a", {0: nan}, "#000"), Line("b", {}, "#000")], 3) == ""
    assert draw_chart([Line("a", {0: 0.0}, "#000")], 3, logarithmic=True) == ""


def test_of_many_points_some_are_drawn_and_the_last_one():
    places = path_of(draw_chart([Line("a", {s: float(s) for s in range(10_001)}, "#000")], 10_000))
    assert MOST_POINTS / 2 < len(places) <= MOST_POINTS
    assert places[-1] == (WIDTH - RIGHT, TOP)


def test_a_constant_has_an_axis():
    for value in (0.0, 5.0, -2.0):
        ((x, y), *_) = path_of(draw_chart([Line("a", {0: value, 1: value}, "#000")], 1))
        assert (x, TOP < y < HEIGHT) == (LEFT, True)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.13, 0.62, [0.2, 0.3, 0.4, 0.5, 0.6]),
        (-7, 13, [-5, 0, 5, 10]),
        (0, 100_000, [0, 20_000, 40_000, 60_000, 80_000, 100_000]),
    ],
)
def test_ticks_are_round(low, high, ticks):
    assert Axis([low, high], 0, 1).ticks() == pytest.approx(ticks)


def test_ticks_of_a_logarithmic_axis_are_powers_or_the_ends():
    assert Axis([0.5, 200], 0, 1, logarithmic=True).ticks() == pytest.approx([1, 10, 100])
    assert Axis([2, 8], 0, 1, logarithmic=True).ticks() == pytest.approx([2, 8])


@pytest.mark.parametrize(("number", "found"), [(1, 1), (1.1, 2), (2.1, 5), (6, 10), (0.03, 0.05)])
def test_nice_numbers(number, found):
    assert nice(number) == pytest.approx(found)


def test_words_are_of_the_page():
    classes = set(re.findall(r'class="([\w ]+)"', draw_chart([Line("a", {0: 1.0}, "#1", True)], 1)))
    assert classes == {"grid", "tick", "tick end", "line", "dots"}
