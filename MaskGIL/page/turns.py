"""Turns: one drawing at a time, a few wait in a fair order, and more are turned away."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition
from typing import NamedTuple


class Busy(Exception):
    """As many are waiting as may."""


class _Place(NamedTuple):
    visitor: str
    before: int  # of the same visitor, when this one came
    token: object  # which no other place has


class Turns:
    """A queue with room for `most`, the one who is served among them, `each` of one visitor.

    Who has none in it yet goes before the second ones of others, so nobody fills the line alone.
    """

    def __init__(self, most: int, each: int):
        self.most, self.each = most, each
        self._line: deque[_Place] = deque()
        self._moved = Condition()

    @contextmanager
    def turn(
        self, visitor: str, on_wait: Callable[[int], None], every: float = 1.0
    ) -> Iterator[None]:
        """Within it the caller alone is served. Raises Busy where there is no room.

        While it waits, `on_wait` is told how many are before it, at once and then `every` so many
        seconds; what it raises, as for a visitor who has left, gives the place up.
        """
        place = self._enter(visitor)
        try:
            while before := self._before(place):
                on_wait(before)
                with self._moved:
                    self._moved.wait_for(lambda: self._line[0] is place, every)
            yield
        finally:
            with self._moved:
                self._line.remove(place)
                self._moved.notify_all()

    def _enter(self, visitor: str) -> _Place:
        """A place behind all that are as many of their visitor's own, the served one among them."""
        with self._moved:
            own = sum(place.visitor == visitor for place in self._line)
            if len(self._line) >= self.most or own >= self.each:
                raise Busy
            place = _Place(visitor, own, object())
            later = (n for n, other in enumerate(self._line) if n and other.before > own)
            self._line.insert(next(later, len(self._line)), place)
            return place

    def _before(self, place: _Place) -> int:
        with self._moved:
            return self._line.index(place)
