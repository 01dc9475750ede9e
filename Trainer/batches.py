"""Batches as pure functions of the step: item `step` of a dataset is one rank's share of it.

A DataLoader without batching fetches them, in this process or in workers: the same either way.
Shapes: B images of this rank, S pixels, h x w tokens.
"""

import multiprocessing
import signal
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from MaskGIL.cache import TokenCache
from MaskGIL.command import Failure
from MaskGIL.data import Images
from MaskGIL.data.crops import crop_image
from MaskGIL.data.folders import BadFiles, UnreadableImage
from MaskGIL.data.sampler import Sampler
from MaskGIL.masking import hidden_counts
from Network.config import UserError
from Trainer.config import RunConfig

Batch = dict[str, Tensor]


@dataclass
class ImageBatches(Dataset):
    """`images` (B, 3, S, S) uint8, `labels` (B,), `samples` (B,) numbers in the run's stream."""

    images: Images
    sampler: Sampler
    share: slice
    crops: str
    size: int
    bad: BadFiles

    def __getitem__(self, step: int) -> Batch:
        rows, crops, samples = (array[self.share] for array in self.sampler.rows(step))
        found = [
            readable_crop(self.images, int(row), self.crops, int(crop), self.size, self.bad)
            for row, crop in zip(rows, crops)
        ]
        return {
            "images": torch.stack([image for image, _ in found]),
            "labels": torch.tensor([label for _, label in found]),
            "samples": torch.from_numpy(samples.copy()),
        }


@dataclass
class TokenBatches(Dataset):
    """`tokens` (B, h, w) int64 of the cache, `labels` (B,) and `samples` (B,)."""

    cache: TokenCache
    sampler: Sampler
    share: slice

    def __getitem__(self, step: int) -> Batch:
        rows, crops, samples = (array[self.share] for array in self.sampler.rows(step))
        return {
            "tokens": self.cache.tokens(rows, crops),
            "labels": torch.from_numpy(self.cache.labels[rows]),
            "samples": torch.from_numpy(samples.copy()),
        }


@dataclass
class MaskedBatches(Dataset):
    """Adds `hidden` (B,), how many tokens to hide, and `hidden_total` (B,), that of all images."""

    source: Dataset[Batch]
    schedule: str
    batch: int
    num_tokens: int
    seed: int
    share: slice

    def __getitem__(self, step: int) -> Batch:
        counts = hidden_counts(self.schedule, self.batch, self.num_tokens, self.seed, step)
        hidden = torch.from_numpy(counts[self.share].copy())
        total = torch.full_like(hidden, int(counts.sum()))
        return {**self.source[step], "hidden": hidden, "hidden_total": total}


@dataclass
class Shielded(Dataset):
    """Hands over a UserError: raised in a worker it would become the text of a traceback."""

    source: Dataset[Batch]

    def __getitem__(self, step: int) -> Batch | UserError:
        try:
            return self.source[step]
        except UserError as error:
            return error


def fetched(
    data: Dataset[Batch], steps: range, workers: int, pinned: bool, timeout: int = 0
) -> Generator[Batch, None, None]:
    """Items `steps`, fetched by this process or by workers. Raises the UserError they meet.

    Close it: workers take no signals but SIGKILL, so that those which end a job do not end them
    before it. PyTorch tells of one that died, or sent nothing for `timeout` seconds.
    """
    loader = DataLoader(
        Shielded(data),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        pin_memory=pinned,
        generator=torch.Generator(),  # the global one must not move
        timeout=timeout if workers else 0,
        worker_init_fn=_ignore_signals,
    )
    before = set(multiprocessing.active_children())
    batches = iter(loader)
    started = set(multiprocessing.active_children()) - before
    try:
        for batch in batches:
            if isinstance(batch, UserError):
                raise batch
            yield batch
    except (OSError, EOFError) as error:  # as of reading from one that is gone, if one is
        for worker in started:
            worker.join(0.2)
            if worker.exitcode:
                told = f"DataLoader worker (pid {worker.pid}) has left with {worker.exitcode}"
                raise RuntimeError(told) from error
        raise
    finally:
        if workers:  # told to leave, and for 5 seconds waited for; an error would keep them
            getattr(batches, "_shutdown_workers")()  # noqa: B009
        for worker in started:
            worker.kill()  # one that hangs
            worker.join()


@contextmanager
def told_of_workers(timeout: int) -> Iterator[None]:
    """Turn what PyTorch raises about a data worker, anywhere in this process, into a Failure."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        again = "the same command goes on from the last checkpoint."
        if text.startswith("DataLoader timed out"):
            raise Failure(
                f"No batch has come from the data workers for data.timeout={timeout} seconds: the "
                f"disk hangs, or reading takes longer; with another data.timeout or data.workers "
                f"{again}"
            ) from error
        if text.startswith("DataLoader worker"):
            raise Failure(
                f"A data worker has died ({text.rstrip('. ')}), as happens when memory runs out; "
                f"with fewer data.workers, or the same, {again}"
            ) from error
        raise


def _ignore_signals(_: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def bad_files(config: RunConfig, images: Images) -> BadFiles:
    """Where a run lists the unreadable ones of `images`, and how many there may be."""
    return BadFiles(Path(config.out_dir) / "bad_files.txt", len(images), config.data.max_bad)


def center_crops(
    config: RunConfig, images: Images, rows: Sequence[int] | np.ndarray
) -> tuple[Tensor, Tensor]:
    """Crops (n, 3, S, S) uint8 and labels (n,) of rows, as validation sees them.

    An unreadable image gives way to the next one. Raises UserError as `readable_crop` does.
    """
    bad, size = bad_files(config, images), config.data.image_size
    found = [readable_crop(images, int(row), "center", 0, size, bad) for row in rows]
    return torch.stack([crop for crop, _ in found]), torch.tensor([label for _, label in found])


def readable_crop(
    images: Images, row: int, crops: str, crop: int, size: int, bad: BadFiles
) -> tuple[Tensor, int]:
    """Crop (3, S, S) uint8 and label of a row, or of the next one that can be read.

    Raises UserError when `bad` has too many, or when nothing can be read.
    """
    for other in range(row, row + len(images)):
        other %= len(images)
        try:
            return crop_image(images.image(other), crops, crop, size), int(images.labels[other])
        except UnreadableImage as error:
            bad.add(other, error)
    raise UserError("The data set has no readable image; see bad_files.txt.")
