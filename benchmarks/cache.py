"""Batches from the token cache, beside the plain way: np.memmap, one item at a time, DataLoader.

Both read the same file of 16x16 grids (512 MB for a million), in a random order, and hand over
tokens and labels as int64 tensors. Ours pays for the order of each epoch; the plain way does not,
and its workers are running when its turn begins. CPU only, a minute.
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
from MaskGIL.cache_index import Part, new_index, sha256, to_json
from MaskGIL.config import require_at_least, to_dict
from MaskGIL.data.sampler import Sampler
from Network.config import setting

GRID, CODEBOOK, CLASSES, BATCH = (16, 16), 16384, 1000, 256


@dataclass(frozen=True)
class CacheBenchmark:
    """What to measure."""

    num_rows: int = setting(1_000_000, "grids in the cache")
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
            "plain, 0 workers": plain(folder, cache, 0),
            "plain, 2 workers": plain(folder, cache, 2),
        }
        ways = {name: partial(next, way) for name, way in batches.items()}
        check_equal(ways)
        times = in_turns(ways, config.rounds, config.seconds, torch.device("cpu"))
    cases = {"a batch": against_ours(times), "open, verify": against_ours({"ours": [opening]})}
    write("cache", f"seconds for a batch of {BATCH} sequences", to_dict(config), cases)


Batch = tuple[Tensor, Tensor]  # tokens (B, 16, 16), labels (B,)


def ours(cache: TokenCache) -> Iterator[Batch]:
    sampler = Sampler(cache.labels, BATCH, seed=0)
    step = 0
    while True:
        rows, crops, _ = sampler.rows(step)
        yield cache.tokens(rows, crops), torch.from_numpy(cache.labels[rows])
        step += 1


class Items(Dataset):
    """One row of the map at a time."""

    def __init__(self, tokens: np.memmap, labels: np.ndarray) -> None:
        self.tokens, self.labels = tokens, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return torch.from_numpy(self.tokens[row].astype(np.int64)), int(self.labels[row])


def plain(folder: Path, cache: TokenCache, workers: int) -> Iterator[Batch]:
    path = folder / "tokens-16x16.bin"
    tokens = np.memmap(path, "<u2", "r", shape=(len(cache), *GRID))
    items = Items(tokens, cache.labels)
    while True:
        yield from DataLoader(items, BATCH, shuffle=True, num_workers=workers, drop_last=True)


def check_equal(ways: Mapping[str, Way]) -> None:
    for way in ways.values():
        tokens, labels = way()
        assert tokens.dtype == labels.dtype == torch.int64
        assert tokens.shape == (BATCH, *GRID)
        assert torch.equal(tokens[:, 0, 0] % CLASSES, labels)  # as written below


def write_synthetic(folder: Path, num_rows: int) -> None:
    """A cache of random codes, in which the first code of a grid tells its label."""
    random = np.random.default_rng(0)
    tokenizer = SimpleNamespace(name="", fingerprint="", codebook_size=CODEBOOK, stride=16)
    index = new_index(Rows(num_rows), tokenizer, "center", 256, 64)
    part = Part.of(folder, index)
    labels = np.empty(num_rows, "<i4")
    with part.path.open("wb") as file:
        for chunk in range(part.num_chunks):
            rows = part.rows_of(chunk)
            codes = random.integers(0, CODEBOOK, (len(rows), *GRID), dtype=np.uint16)
            labels[rows.start : rows.stop] = codes[:, 0, 0] % CLASSES
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

    def __len__(self) -> int:
        return self.num_rows


if __name__ == "__main__":
    sys.exit(command(main, CacheBenchmark, "cache", __doc__ or ""))
