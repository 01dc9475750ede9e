"""Batches from the token cache as the trainer takes them, beside plain ways to read the same file.

A cache of ten crops of every image (512 MB of 16x16 grids for 100,000 images): images in a random
order, one of the ten crops chosen at random, tokens and labels as int64. Ours is the trainer's own
DataLoader with everything in it, hidden counts and sample numbers too; "ours, tokens alone" goes
without both. "plain, whole batch" indexes an np.memmap once for a batch; "plain, by item" reads one
row at a time and collates. CPU only.
"""

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from paired import Way, against_ours, command, in_turns, write
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from MaskGIL.cache import TokenCache
from MaskGIL.cache_index import Part, new_index
from MaskGIL.config import MaskingConfig, require_at_least, to_dict
from MaskGIL.data.crops import num_crops
from MaskGIL.data.sampler import Sampler
from MaskGIL.durable import sha256, to_json
from Network.config import setting
from Trainer.batches import MaskedBatches, Shielded, TokenBatches

GRID, CODEBOOK, CLASSES, BATCH = (16, 16), 16384, 1000, 256
NUM_TOKENS = GRID[0] * GRID[1]
CROPS = num_crops("ten")


@dataclass(frozen=True)
class CacheBenchmark:
    """What to measure."""

    num_rows: int = setting(100_000, "images in the cache, ten grids each")
    rounds: int = setting(3, "how often every way has its turn")
    seconds: float = setting(5.0, "least duration of a turn")

    def __post_init__(self):
        require_at_least("num_rows", self.num_rows, BATCH)
        require_at_least("rounds", self.rounds, 1)


def main(config: CacheBenchmark) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_synthetic(folder, config.num_rows)
        started = time.perf_counter()
        cache = TokenCache.open(folder)  # reads all, so that every way finds a warm page cache
        opening = time.perf_counter() - started
        batches = {
            "ours": ours(cache),
            "ours, tokens alone": tokens_alone(cache),
            "plain, whole batch": whole_batch(folder, cache),
            "plain, by item": by_item(folder, cache, 0),
            "plain, by item, 2 workers": by_item(folder, cache, 2),
        }
        ways = {name: partial(next, way) for name, way in batches.items()}
        check_equal(ways)
        times = in_turns(ways, config.rounds, config.seconds, torch.device("cpu"))
    cases = {"a batch": against_ours(times), "open, verify": against_ours({"ours": [opening]})}
    write("cache", f"seconds for a batch of {BATCH} sequences", to_dict(config), cases)


Batch = tuple[Tensor, Tensor]  # tokens (B, 16, 16), labels (B,)


def ours(cache: TokenCache) -> Iterator[Batch]:
    """As Trainer/vit.py and Trainer/trainer.py put it together."""
    schedule, share = MaskingConfig().schedule, slice(0, BATCH)
    masked = MaskedBatches(token_batches(cache), schedule, BATCH, 16, 0, share)
    loader = DataLoader(
        Shielded(masked), batch_size=None, sampler=range(sys.maxsize), generator=torch.Generator()
    )
    for batch in loader:
        yield batch["tokens"], batch["labels"]


def tokens_alone(cache: TokenCache) -> Iterator[Batch]:
    batches = token_batches(cache)
    for step in range(sys.maxsize):
        batch = batches[step]
        yield batch["tokens"], batch["labels"]


def token_batches(cache: TokenCache) -> TokenBatches:
    sampler = Sampler(cache.labels, BATCH, seed=0, num_crops=CROPS)
    return TokenBatches(cache, sampler, slice(0, BATCH))


def whole_batch(folder: Path, cache: TokenCache) -> Iterator[Batch]:
    tokens, labels = mapped(folder, cache), torch.from_numpy(cache.labels)
    while True:
        for rows in torch.randperm(len(cache)).split(BATCH)[: len(cache) // BATCH]:
            crops = torch.randint(CROPS, (BATCH,))
            drawn = tokens[rows.numpy(), crops.numpy()].astype(np.int64)
            yield torch.from_numpy(np.asarray(drawn)), labels[rows]


def by_item(folder: Path, cache: TokenCache, workers: int) -> Iterator[Batch]:
    items = Items(mapped(folder, cache), cache.labels)
    while True:
        yield from DataLoader(items, BATCH, shuffle=True, num_workers=workers, drop_last=True)


class Items(Dataset):
    """A random crop of one row of the map at a time."""

    def __init__(self, tokens: np.memmap, labels: np.ndarray) -> None:
        self.tokens, self.labels = tokens, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        codes = self.tokens[row, int(torch.randint(CROPS, ()))]
        return torch.from_numpy(codes.astype(np.int64)), int(self.labels[row])


def mapped(folder: Path, cache: TokenCache) -> np.memmap:
    return np.memmap(folder / "tokens-16x16.bin", "<u2", "r", shape=(len(cache), CROPS, *GRID))


def check_equal(ways: Mapping[str, Way]) -> None:
    for way in ways.values():
        tokens, labels = way()
        assert tokens.dtype == labels.dtype == torch.int64
        assert tokens.shape == (BATCH, *GRID)
        assert torch.equal(tokens[:, 0, 0] % CLASSES, labels)  # as written below
        assert tokens[:, 0, 1].unique().tolist() == list(range(CROPS))


def write_synthetic(folder: Path, num_rows: int) -> None:
    """A cache of random codes; the first code of a grid tells its label, the second its crop."""
    random = np.random.default_rng(0)
    tokenizer = SimpleNamespace(name="", fingerprint="", codebook_size=CODEBOOK, stride=16)
    index = new_index(Rows(num_rows), tokenizer, "ten", 256, 64)
    part = Part.of(folder, index)
    labels = np.empty(num_rows, "<i4")
    with part.path.open("wb") as file:
        for chunk in range(part.num_chunks):
            rows = part.rows_of(chunk)
            codes = random.integers(0, CODEBOOK, (len(rows), CROPS, *GRID), dtype=np.uint16)
            codes[:, :, 0, 0] = codes[:, :1, 0, 0]
            codes[:, :, 0, 1] = range(CROPS)
            labels[rows.start : rows.stop] = codes[:, 0, 0, 0] % CLASSES
            file.write(codes.tobytes())
            index["parts"][0]["sha256"].append(sha256(codes.tobytes()))
    (folder / "labels.bin").write_bytes(labels.tobytes())
    index |= {"labels_sha256": sha256(labels.tobytes()), "complete": True}
    (folder / "index.json").write_bytes(to_json(index))


class Rows:
    """A data set of which only the size and the classes matter."""

    classes = tuple(str(label) for label in range(CLASSES))

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows

    @property
    def labels(self) -> np.ndarray:
        """All 0."""
        return np.zeros(self.num_rows, np.int64)

    def __len__(self) -> int:
        return self.num_rows

    def name(self, index: int) -> str:
        """Its number."""
        return str(index)


if __name__ == "__main__":
    sys.exit(command(main, CacheBenchmark, "cache", __doc__ or ""))
