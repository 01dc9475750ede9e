"""Signals that ask a job to end: noted, so that the loop ends it when all is saved."""

import os
import signal
import socket
import sys
import threading
import time
from types import FrameType

from MaskGIL.distributed import all_gather_texts, rank, world_size

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Signals:
    """A context in which signals are noted only; after one, later ones are of no effect.

    A rank that waits for another in the driver of a device cannot act upon a signal. If that other
    one is dead, as torchrun's signal then means, a thread ends the process.
    """

    def __init__(self):
        self.received = ""  # the name of the first one

    def __enter__(self) -> "Signals":
        self._before = {number: signal.signal(number, self._note) for number in STOPPING}
        self._watches = world_size() > 1
        if self._watches:
            mine = f"{socket.gethostname()} {os.getpid()}"
            homes = [text.split() for text in all_gather_texts(mine)]
            here = socket.gethostname()
            self._siblings = {
                number: int(process)
                for number, (home, process) in enumerate(homes)
                if home == here and number != rank() and _is_alive(int(process))
            }  # not one whose number counts in another container
            reading, self._writing = os.pipe()
            os.set_blocking(self._writing, False)
            self._wakeup = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=(reading,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.rest()
        for number, handler in self._before.items():
            # Once received they are ignored until the process has ended: a handler of Python's
            # would be taken away before that, and leave the effect that ends a process unsaid
            signal.signal(number, signal.SIG_IGN if self.received else handler)

    def rest(self) -> None:
        """Watch no longer: from now on other ranks may end."""
        if self._watches:
            self._watches = False
            signal.set_wakeup_fd(self._wakeup)
            os.close(self._writing)

    def _note(self, number: int, _: FrameType | None) -> None:
        if not self.received:
            self.received = signal.Signals(number).name
            hint = f"kill -KILL {os.getpid()} would end it unsaved"
            told = f"{self.received}: the run is saved and ends when this step is done ({hint})\n"
            os.write(2, told.encode())  # print is not made for handlers

    def _watch(self, reading: int) -> None:
        """Wait for a signal, then end this process as soon as a sibling is found dead."""
        while (number := os.read(reading, 1)) and number[0] not in STOPPING:
            pass
        while self._watches:
            for number, process in self._siblings.items():
                if self._watches and not _is_alive(process):
                    print(
                        f"error on rank {rank()}: rank {number} (process {process}) has died; the "
                        "same command goes on from the last checkpoint.",
                        file=sys.stderr,
                        flush=True,
                    )
                    os._exit(1)
            time.sleep(0.2)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # alive, and another user's
    return True
