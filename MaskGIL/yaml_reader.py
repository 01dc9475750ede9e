"""Reads a YAML file into plain settings: dotted keys with text, as a command line gives them.

Stands on the events of PyYAML's parser alone, so a file can construct nothing. What a value means
is decided by the type of its key, not by its spelling: see `config.py`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import yaml

from MaskGIL.values import Value, did_you_mean
from Network.config import UserError

BASE_KEY = "base"  # a file may start from another one
_MAX_DEPTH = 16
_NULL_WORDS = ("null", "Null", "NULL", "~")


def read_settings(path: str | Path) -> dict[str, tuple[Value, Path]]:
    """Return {dotted key: (value, file it stands in)} of a YAML file and the files it starts from.

    A file may name another with the key `base`, relative to itself; its own keys win. Scalars stay
    text, a bare null is None. Raises UserError with file, line and remedy for anything that is
    not plain nested keys with values.
    """
    settings: dict[str, tuple[Value, Path]] = {}
    for file, values in reversed(list(_files(Path(path)))):
        settings.update({key: (value, file) for key, value in values.items()})
    return settings


def _files(path: Path) -> Iterator[tuple[Path, dict[str, Value]]]:
    """Yield `path`, the file it starts from, and so on, each with its own settings."""
    visited: list[Path] = []
    while True:
        if path.resolve() in visited:
            raise UserError(
                f"{path} starts from itself through its key '{BASE_KEY}'; leave that out."
            )
        visited.append(path.resolve())
        values = _Reader(_read_text(path), str(path)).settings()
        base = values.pop(BASE_KEY, "")
        yield path, values
        if not base:
            return
        if not isinstance(base, str):
            raise UserError(f"The key '{BASE_KEY}' of {path} names one YAML file, not a list.")
        path = path.parent / base


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise UserError(f"No such file: {path}, nor is there a folder {path.parent}.") from None
        near = sorted(file.name for file in path.parent.glob("*.y*ml"))
        hint = did_you_mean(path.name, near)
        if near and not hint:
            hint = f" Its folder holds {', '.join(near)}."
        raise UserError(f"No such file: {path}.{hint}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a YAML file: it holds bytes that are no text.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None


class _Reader:
    """One pass over the parser's events of one text; `source` names it in sentences."""

    def __init__(self, text: str, source: str):
        self.source = source
        # Lazily: too deep a nesting is refused while it is being scanned.
        self.events = yaml.parse(text, Loader=yaml.SafeLoader)
        self.seen: set[str] = set()

    def settings(self) -> dict[str, Value]:
        """Flat settings of a document that is a mapping; an empty document has none."""
        root = self._document()
        if root is None:
            return {}
        values: dict[str, Value] = {}
        if not isinstance(root, yaml.MappingStartEvent):
            self._refuse(root, "a configuration consists of lines 'key: value'")
        self._mapping(root, "", values, depth=0)
        self._end()
        return values

    def _document(self) -> yaml.Event | None:
        self._next()  # start of the stream
        document = self._next()
        return None if isinstance(document, yaml.StreamEndEvent) else self._next()

    def _end(self) -> None:
        self._next()  # end of the document
        event = self._next()
        if not isinstance(event, yaml.StreamEndEvent):
            self._refuse(event, "a second document starts here; write one only")

    def _next(self) -> yaml.Event:
        try:
            return next(self.events)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else "?"
            sentence = f"{self.source} is not valid YAML: line {line}, {error.problem}."
        except yaml.YAMLError:
            sentence = f"{self.source} is not valid YAML: it holds a control character."
        raise UserError(sentence)

    def _mapping(
        self, start: yaml.Event, prefix: str, values: dict[str, Value], depth: int
    ) -> None:
        self._check(start, prefix, depth)
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                self._refuse(event, "a key must be a plain word")
            key = f"{prefix}.{event.value}" if prefix else event.value
            self._check(event, key, depth)
            if key in self.seen:
                self._refuse(event, f"the key '{key}' stands here for the second time")
            self.seen.add(key)
            value = self._next()
            if isinstance(value, yaml.MappingStartEvent):
                self._mapping(value, key, values, depth + 1)
            else:
                values[key] = self._value(value, key, depth + 1)

    def _value(self, event: yaml.Event, key: str, depth: int) -> Value:
        self._check(event, key, depth)
        if isinstance(event, yaml.ScalarEvent):
            is_plain = event.style is None  # a quoted 'null' is a word
            return None if is_plain and event.value in _NULL_WORDS else event.value
        if not isinstance(event, yaml.SequenceStartEvent):
            self._refuse(event, f"the list '{key}' holds keys; it may hold values only")
        items: list[Value] = []
        while not isinstance(item := self._next(), yaml.SequenceEndEvent):
            items.append(self._value(item, key, depth + 1))
        return items

    def _check(self, event: yaml.Event, key: str, depth: int) -> None:
        """Refuse what is not plain, before descending into it."""
        where = f"the key '{key}'" if key else "the text"
        if depth > _MAX_DEPTH:
            self._refuse(event, f"{where} is nested more than {_MAX_DEPTH} levels deep")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            self._refuse(event, f"{where} uses an anchor (& or *); write the value out")
        if tag := getattr(event, "tag", None):
            tag = tag.replace("tag:yaml.org,2002:", "!!")
            self._refuse(event, f"{where} carries the tag '{tag}'; write a plain value")

    def _refuse(self, event: yaml.Event, reason: str) -> NoReturn:
        raise UserError(f"{self.source}, line {event.start_mark.line + 1}: {reason}.")
