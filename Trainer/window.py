"""Numbers between two lines of the log: sums that stay on the device, a clock that can pause."""

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
        self._sums: dict[str, Tensor] = {}
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
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def behind_step(self, norm: Tensor, lr: float) -> None:
        """Close a step: the norm of its gradient, and its learning rate."""
        self._norms = self._norms + norm
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
        """Means over the steps, summed over ranks. The one place that waits for the device."""
        names = list(self._sums)
        values = all_reduce(torch.stack([self._sums[name] for name in names])) / self.steps
        means = dict(zip(names, values.tolist()))
        return {**means, "gnorm": float(self._norms) / self.steps, "lr": self._lr}
