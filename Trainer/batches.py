"""Batches as pure functions of the step: item `step` of a dataset is one rank's share of it.

A DataLoader without batching fetches them, in this process or in workers: the same either way.
Shapes: B images of this rank of H x W pixels, h x w = N tokens, a caption of P tokens of width C.
"""

import multiprocessing
import signal
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from MaskGIL.cache import TokenCache
from MaskGIL.command import Failure
from MaskGIL.data import Images
from MaskGIL.data.buckets import Bucket, BucketOrder
from MaskGIL.data.captions import draw_captions, draw_dropped
from MaskGIL.data.crops import Size, crop_image
from MaskGIL.data.folders import BadFiles, UnreadableImage
from MaskGIL.data.sampler import Sampler
from MaskGIL.masking import hidden_counts
from Network.condition import Captions
from Network.config import UserError
from Trainer.config import RunConfig

Batch = dict[str, Tensor]


@dataclass
class ImageBatches(Dataset):
    """`images` (B, 3, H, W) uint8, `rows` (B,) that they are, `labels` (B,), `samples` (B,).

    The latter are numbers in the run's stream.
    """

    images: Images
    sampler: Sampler
    share: slice
    crops: str
    size: Size
    bad: BadFiles

    def __getitem__(self, step: int) -> Batch:
        rows, crops, samples = (array[self.share] for array in self.sampler.rows(step))
        found = [
            readable_crop(self.images, int(row), self.crops, int(crop), self.size, self.bad)
            for row, crop in zip(rows, crops)
        ]
        read = [row for _, row in found]
        return {
            "images": torch.stack([image for image, _ in found]),
            "rows": torch.tensor(read),
            "labels": torch.from_numpy(self.images.labels[read]),
            "samples": torch.from_numpy(samples.copy()),
        }


@dataclass
class TokenBatches(Dataset):
    """`tokens` (B, h, w) int64 of the cache, its `rows` (B,), `labels` (B,) and `samples` (B,)."""

    cache: TokenCache
    sampler: Sampler
    share: slice

    def __getitem__(self, step: int) -> Batch:
        rows, crops, samples = (array[self.share] for array in self.sampler.rows(step))
        return {
            "tokens": self.cache.tokens(rows, crops),
            "rows": torch.from_numpy(rows.copy()),
            "labels": torch.from_numpy(self.cache.labels[rows]),
            "samples": torch.from_numpy(samples.copy()),
        }


@dataclass
class BucketBatches(Dataset):
    """Batches of the buckets in turn; `rows` are those of the data set, `samples` of the run."""

    sources: Sequence[Dataset[Batch]]
    buckets: Sequence[Bucket]
    order: BucketOrder
    batch: int
    share: slice

    def __getitem__(self, step: int) -> Batch:
        bucket, number = self.order(step)
        found = self.sources[bucket][number]
        rows = torch.from_numpy(self.buckets[bucket].rows)[found["rows"]]
        samples = torch.arange(step * self.batch, (step + 1) * self.batch)[self.share]
        return {**found, "rows": rows, "samples": samples}


class CaptionFeatures(Protocol):
    """Captions of images, `counts` (N,) of each: a `CaptionCache`, or what encodes them online."""

    counts: np.ndarray

    def captions(self, rows: np.ndarray, which: np.ndarray) -> Captions:
        """Features (B, P, C) bf16 of caption `which` (B,) of image `rows` (B,), padded in front."""
        ...


@dataclass
class CaptionBatches(Dataset):
    """Adds `features` (B, P, C) bf16, `padding` (B, P), and `dropped` (B,), where none is to be.

    What stands in the place of a dropped caption has its padding: guidance will ask for the same.
    """

    source: Dataset[Batch]
    features: CaptionFeatures
    seed: int
    drop: float

    def __getitem__(self, step: int) -> Batch:
        batch = self.source[step]
        rows = batch["rows"].numpy()
        counts = torch.from_numpy(self.features.counts[rows])
        which = draw_captions(counts, self.seed, batch["samples"])
        captions = self.features.captions(rows, which.numpy())
        assert captions.mask is not None
        told = {"features": captions.features, "padding": captions.mask}
        told["dropped"] = draw_dropped(self.drop, self.seed, batch["samples"])
        return {**batch, **told}


@dataclass
class MaskedBatches(Dataset):
    """Adds `hidden` (B,), how many tokens to hide, and `hidden_total` (B,), that of all images."""

    source: Dataset[Batch]
    schedule: str
    batch: int
    stride: int  # of the tokenizer
    seed: int
    share: slice

    def __getitem__(self, step: int) -> Batch:
        batch = self.source[step]
        of_tokens = "tokens" in batch
        sides = batch["tokens" if of_tokens else "images"].shape[-2:]
        num_tokens = sides.numel() // (1 if of_tokens else self.stride**2)
        counts = hidden_counts(self.schedule, self.batch, num_tokens, self.seed, step)
        hidden = torch.from_numpy(counts[self.share].copy())
        total = torch.full_like(hidden, int(counts.sum()))
        return {**batch, "hidden": hidden, "hidden_total": total}


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
    """Where a run lists unreadable files, and how many there may be in the split of `images`."""
    count = len(images.images if isinstance(images, Bucket) else images)  # of the whole split
    return BadFiles(Path(config.out_dir) / "bad_files.txt", count, config.data.max_bad)


def center_crops(
    config: RunConfig, images: Images, rows: Sequence[int] | np.ndarray
) -> tuple[Tensor, Tensor]:
    """Crops (n, 3, H, W) uint8 of rows, as validation sees them, and which rows (n,) they are.

    An unreadable image gives way to the next one. Raises UserError as `readable_crop` does.
    """
    bad, size = bad_files(config, images), size_of(config, images)
    found = [readable_crop(images, int(row), "center", 0, size, bad) for row in rows]
    return torch.stack([crop for crop, _ in found]), torch.tensor([row for _, row in found])


def size_of(config: RunConfig, images: Images) -> Size:
    """The size that pictures are cut to: that of their bucket, if there are buckets."""
    return images.shape if isinstance(images, Bucket) else config.data.image_size


def readable_crop(
    images: Images, row: int, crops: str, crop: int, size: Size, bad: BadFiles
) -> tuple[Tensor, int]:
    """Crop (3, H, W) uint8 of a row, or of the next one that can be read, and which row it is.

    Raises UserError when `bad` has too many, or when nothing can be read.
    """
    for other in range(row, row + len(images)):
        other %= len(images)
        try:
            return crop_image(images.image(other), crops, crop, size), other
        except UnreadableImage as error:
            bad.add(other, error)
    raise UserError("The data set has no readable image; see bad_files.txt.")
