"""How far a job is and how long it takes: a bar where somebody looks, else a line a minute."""

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Protocol

from torch import Tensor
from tqdm import tqdm

from MaskGIL.distributed import is_main

PAUSE = 60.0  # seconds between two lines


class Batches(Protocol):
    """Images that come in batches."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def __iter__(self) -> Iterator[Tensor]:
        """Images (B, 3, H, W)."""
        ...


Progress = Callable[[Batches, str], Iterable[Tensor]]  # as `counted`


def counted(images: Batches, name: str) -> Iterator[Tensor]:
    """The batches of a set, or of this rank's share of it, each image counted by the main rank."""
    if not is_main():
        yield from images
        return
    with tqdm(total=len(images), desc=name, unit="img", leave=False, disable=None) as bar:
        count, started = 0, time.monotonic()
        told = started
        for batch in images:
            yield batch
            count += len(batch)
            bar.update(len(batch))
            now = time.monotonic()
            if bar.disable and now - told >= PAUSE:
                told = now
                print(_line(name, count, len(images), now - started), flush=True)


def _line(name: str, count: int, total: int, seconds: float) -> str:
    left = timedelta(seconds=round(seconds / count * (total - count)))
    return f"{name:10} {count:,} of {total:,}, {count / seconds:.1f} img/s, {left} left"
