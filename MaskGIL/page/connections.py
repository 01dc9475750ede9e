"""Connections: not too many at once, not too many from one address, and none that lingers."""

import socket
import time
from contextlib import suppress
from threading import Lock
from typing import NamedTuple


class _Open(NamedTuple):
    address: str
    until: float  # by time.monotonic; infinite for one that may stay


class Connections:
    """Those that are open: `most` in all, `each` from one address, for `seconds` at first."""

    def __init__(self, most: int, each: int, seconds: float):
        self.most, self.each, self.seconds = most, each, seconds
        self._open: dict[socket.socket, _Open] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: socket.socket, address: str) -> bool:
        """Whether there is room for another one, which is counted from then on."""
        with self._lock:
            own = sum(other.address == address for other in self._open.values())
            if len(self._open) >= self.most or own >= self.each:
                return False
            self._open[connection] = _Open(address, time.monotonic() + self.seconds)
            return True

    def remove(self, connection: socket.socket) -> None:
        """It is closed, and leaves room for another one."""
        with self._lock:
            self._open.pop(connection, None)

    def let_stay(self, connection: socket.socket) -> None:
        """It is no longer in a hurry: somebody who may watches a drawing."""
        with self._lock:
            self._open[connection] = self._open[connection]._replace(until=float("inf"))

    def end_late(self) -> None:
        """Nothing more is read from those whose time is over; they may be answered."""
        self._end(time.monotonic(), socket.SHUT_RD)

    def end_all(self) -> None:
        """Nothing more is read from anybody or told to them."""
        self._end(float("inf"), socket.SHUT_RDWR)

    def _end(self, now: float, how: int) -> None:
        with self._lock:
            for connection, each in self._open.items():
                if each.until <= now:
                    with suppress(OSError):  # it is closed already
                        connection.shutdown(how)
