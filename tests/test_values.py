from typing import Literal

import pytest

from MaskGIL.values import (
    amount,
    choices,
    describe_type,
    did_you_mean,
    quote,
    read_value,
    show_value,
)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (bool, True),
        (str, "a b"),
        (str, "1e-4"),
        (int | None, None),
        (Literal["a", "b"], "b"),
        (Literal[1, 2] | None, 2),
        (tuple[str, ...], ["a", "b"]),
        (tuple[str, ...], []),
        (list[Literal[1, 2]], [2, 1]),
        (tuple[bool, bool], [True, False]),
    ],
)
def test_read_value_undoes_show_value(kind, value):
    text = show_value(value).replace('""', "")
    assert read_value(None if value is None else text, kind) == value


def test_numbers_stay_text_for_omegaconf_except_yamls_infinity():
    assert read_value("1e-4", float) == "1e-4"
    assert float(read_value("-.INF", float)) == float("-inf")  # pyright: ignore
    assert read_value(["1", "2"], tuple[int, int]) == ["1", "2"]


@pytest.mark.parametrize(
    ("kind", "text"),
    [(bool, "2"), (float, "nan"), (float, "-.NaN"), (Literal["a"], "b"), (str, ["a"])],
)
def test_read_value_refuses(kind, text):
    with pytest.raises(ValueError, match="is"):
        read_value(text, kind)


def test_choices_look_through_lists_and_none():
    assert choices(tuple[Literal[1, 2], ...] | None) == {"1": 1, "2": 2}
    assert choices(list[str]) == choices(float) == {}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (int | None, "a whole number or null"),
        (Literal["a", "b"], "one of a, b"),
        (tuple[float, float], "a list of 2 values (a,b), each a number"),
        (tuple[str, ...], "a list of values (a,b), each text"),
        (list[bool], "a list of values (a,b), each true or false"),
    ],
)
def test_describe_type(kind, words):
    assert describe_type(kind) == words


def test_words_for_sentences():
    assert did_you_mean("tenn", ["five", "ten"]) == " Did you mean 'ten'?"
    assert did_you_mean("zebra", ["five", "ten"]) == ""
    assert [amount(number, "crop") for number in (0, 1, 1000)] == [
        "0 crops",
        "1 crop",
        "1,000 crops",
    ]
    assert (quote(None), quote(3), quote("a\nb")) == ("null", "3", r"'a\nb'")
    assert len(quote("x" * 1000)) == 80
