"""Numbers between two lines of the log: sums that stay on the device, a clock that can pause.

Not every step has every number: a generator that learns in two modes tells those of one at a time.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from MaskGIL.distributed import all_reduce

Metrics = dict[str, Tensor]
Item = TypeVar("Item")


class Window:
    """Sums over the steps since the last line of the log; they stay on the device until then."""

    def __init__(self):
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self._sums: dict[str, Tensor] = {}  # (2,) of each number: the sum, the steps that told it
        self._parts: dict[str, Tensor] = {}  # of this step, which may not be taken
        self._skipped: Tensor | float = 0.0
        self._norms: Tensor | float = 0.0
        self._lr = 0.0
        self._waited = 0.0
        self._started = time.monotonic()
        self.steps = 0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside belongs to no step: the rate of steps leaves it out."""
        begun = time.monotonic()
        yield
        self._started += time.monotonic() - begun

    def timed(self, batches: Iterator[Item]) -> Iterator[Item]:
        """Pass batches on, counting the time that is spent waiting for them."""
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            self._waited += time.monotonic() - asked
            if batch is None:
                return
            yield batch

    def add(self, metrics: Metrics) -> None:
        """Add the numbers of one part."""
        for name, value in metrics.items():
            self._parts[name] = self._parts[name] + value if name in self._parts else value

    def behind_step(self, norm: Tensor, lr: float, skip: Tensor) -> None:
        """Close a step: the norm of its gradient, its learning rate, 1.0 () if it is not taken."""
        parts, self._parts = self._parts, {}
        for name, value in parts.items():
            counted = torch.stack([torch.where(skip > 0, 0.0, value), 1 - skip])
            self._sums[name] = self._sums[name] + counted if name in self._sums else counted
        self._norms = self._norms + torch.where(skip > 0, 0.0, norm)
        self._skipped = self._skipped + skip
        self._lr = lr
        self.steps += 1

    @property
    def seconds(self) -> float:
        """Wall time of the window, without its pauses."""
        return time.monotonic() - self._started

    @property
    def data_share(self) -> float:
        """Share of the time that was spent waiting for data."""
        return self._waited / max(self.seconds, 1e-9)

    def means(self) -> dict[str, float]:
        """Means, over the steps that told a number and were taken, of its sum over ranks.

        They are nan where no step was taken. The one place that waits for the device.
        """
        sums, told = torch.stack(list(self._sums.values()), 1)  # of each number, on this rank
        means = dict(zip(self._sums, (all_reduce(sums) / told).tolist()))
        gnorm = self._norms / (self.steps - self._skipped)
        return {**means, "gnorm": float(gnorm), "lr": self._lr}
