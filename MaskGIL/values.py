"""What a text means for a type: `a,b` is a list, `1e-4` a number, and which words a choice knows.

A setting is a bool, int, float or text, a Literal of them, a list of one of these, or one or None.
"""

import difflib
from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

Value = str | None | list["Value"]  # as a file or a command line gives it

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def read_value(value: Value, kind: Any) -> object:
    """Value that the text stands for in a setting of type `kind`; numbers may stay text.

    A conversion of text to numbers is left to OmegaConf, and so is refusing what is no number.
    Raises ValueError for a word that is none of the choices and for NaN, which equals nothing.
    """
    kind = _required(kind)
    if value is None:
        return None
    if _is_list(kind):
        items = _split(value) if isinstance(value, str) else value
        return [read_value(item, _item_type(kind)) for item in items]
    if isinstance(value, list):
        raise ValueError(f"{value} is a list")
    if kind is float:
        number = value.lower().replace(".inf", "inf")  # YAML's spelling
        if number.endswith("nan"):
            raise ValueError(f"{value} is not a number")
        return number
    word = value.lower() if kind is bool else value
    known = choices(kind)
    if known and word not in known:
        raise ValueError(f"{value} is none of {list(known)}")
    return known.get(word, value)


def show_value(value: object) -> str:
    """Text of a value as a command line takes it; empty ones as \"\", a word null in quotes."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    if isinstance(value, tuple | list):
        return ",".join(map(show_value, value)) or '""'
    return '"null"' if value == "null" else str(value) or '""'


def quote(value: object) -> str:
    """Value for a sentence: in quotes if it is text, cut if it is long."""
    shown = "null" if value is None else repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def choices(kind: Any) -> dict[str, Any]:
    """Return {text: value} of a type with few values; of a list, those of its items; else {}."""
    kind = _required(kind)
    if kind is bool:
        return {"true": True, "false": False}
    if get_origin(kind) is Literal:
        return {str(choice): choice for choice in get_args(kind)}
    return choices(_item_type(kind)) if _is_list(kind) else {}


def describe_type(kind: Any) -> str:
    """Words for what a setting of type `kind` takes: "a whole number", "one of a, b"."""
    if kind != _required(kind):
        return f"{describe_type(_required(kind))} or null"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(choices(kind))}"
    if not _is_list(kind):
        return _WORDS[kind]
    members = get_args(kind)
    length = "" if ... in members or get_origin(kind) is list else f"{len(members)} "
    return f"a list of {length}values (a,b), each {describe_type(_item_type(kind))}"


def amount(number: int, what: str) -> str:
    """`1 image`, `2,000 images`, `2 processes`: for a noun whose plural ends in an s."""
    plural = "es" if what.endswith("s") else "s"
    return f"{number:,} {what}{'' if number == 1 else plural}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'name'?" for the known name closest to `word`, "" if none is close."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""


def _split(text: str) -> list[str]:
    """Items of `a,b`, `a,` or `[a, 'b']`; none of an empty text."""
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    items = [item.strip().strip("'\"") for item in text.split(",")]
    return items if items[-1] else items[:-1]


def _required(kind: Any) -> Any:
    """Type without its None."""
    if get_origin(kind) not in (Union, UnionType):
        return kind
    kinds = [member for member in get_args(kind) if member is not NoneType]
    assert len(kinds) == 1, f"a setting has one type, perhaps or None, not {kind}"
    return kinds[0]


def _is_list(kind: Any) -> bool:
    return get_origin(kind) in (tuple, list)


def _item_type(kind: Any) -> Any:
    first, *others = get_args(kind)
    assert all(other in (first, ...) for other in others), f"items of one type, not {kind}"
    return first
