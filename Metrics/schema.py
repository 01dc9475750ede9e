"""Whether a JSON value is of a kind, and a sentence that names file and key where it is not.

A kind is a type; None; a tuple of kinds, one of which it may be; [kind], a list of it; {key: kind},
these keys and no other, of which those with a question mark may be missing; {str: kind}, any keys;
or `object`, anything.
"""

from pathlib import Path
from typing import Any

from MaskGIL.values import did_you_mean, quote
from Network.config import UserError

Kind = Any
WORDS = {str: "text", bool: "true or false", int: "a whole number", float: "a number", None: "null"}


def check_kind(value: object, kind: Kind, file: Path, place: str = "") -> None:
    """Raise UserError unless the `value` that stands at a `place` of a file is of a kind."""
    if isinstance(kind, tuple):
        kind = next((each for each in kind if _is_of(value, each)), kind)
    if not _is_of(value, kind):
        raise UserError(f"{file}: {place or 'it'} must be {_told(kind)}, not {quote(value)}.")
    if isinstance(value, list) and isinstance(kind, list):
        for number, item in enumerate(value):
            check_kind(item, kind[0], file, f"{place}[{number}]")
    if isinstance(value, dict) and isinstance(kind, dict):
        for key, inner in _kinds(value, kind, file, place).items():
            check_kind(value[key], inner, file, _inside(place, key))


def _kinds(value: dict, kind: dict, file: Path, place: str) -> dict[str, Kind]:
    """The kind of each key of a value. Raises UserError for a missing and for an unknown key."""
    if str in kind:
        return dict.fromkeys(value, kind[str])
    for key in kind:
        if not key.endswith("?") and key not in value:
            raise UserError(f"{file} has no {_inside(place, key)}; add it.")
    known = {key.removesuffix("?"): inner for key, inner in kind.items()}
    for key in value:
        if key not in known:
            hint = did_you_mean(key, known) or " Leave it out."
            raise UserError(f"{file} has an unknown key {_inside(place, key)}.{hint}")
    return {key: known[key] for key in value}


def _is_of(value: object, kind: Kind) -> bool:
    if kind is None or isinstance(kind, tuple):
        return kind is None and value is None
    if isinstance(kind, list | dict):
        return isinstance(value, type(kind))
    return isinstance(value, kind) and (kind in (bool, object) or not isinstance(value, bool))


def _told(kind: Kind) -> str:
    if isinstance(kind, tuple):
        return " or ".join(dict.fromkeys(map(_told, kind)))
    if isinstance(kind, list | dict):
        return "a list" if isinstance(kind, list) else "keys with values"
    return WORDS[kind]


def _inside(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key
