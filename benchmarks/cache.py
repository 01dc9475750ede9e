"""Batches from the token cache, beside the plain way: np.memmap, one item at a time, DataLoader.

    python benchmarks/cache.py [num_rows=1000000] [seconds=5]

Both read the same file of 16x16 grids (512 MB for a million), in a random order, and hand over
tokens and labels as int64 tensors. Writes benchmarks/results/cache.json. CPU only, a minute.
"""

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from MaskGIL.cache import TokenCache
from MaskGIL.cache_index import Part, new_index, sha256, to_json
from MaskGIL.data.sampler import Sampler

GRID, CODEBOOK, CLASSES, BATCH, ROUNDS = (16, 16), 16384, 1000, 256, 3
RESULT = Path(__file__).parent / "results" / "cache.json"


def main() -> None:
    given = [argument.split("=") for argument in sys.argv[1:]]
    options = {"num_rows": 1_000_000, "seconds": 5} | {key: int(value) for key, value in given}
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_synthetic(folder, options["num_rows"])
        started = time.perf_counter()
        cache = TokenCache.open(folder)  # reads all, so that every way finds a warm page cache
        verify_seconds = time.perf_counter() - started
        ways = {
            "ours": lambda: ours(cache),
            "plain, 0 workers": lambda: running(plain(folder, cache, 0)),
            "plain, 2 workers": lambda: running(plain(folder, cache, 2)),
        }
        check_equal(ways)
        rounds = [
            {name: speed(way(), options["seconds"]) for name, way in ways.items()}
            for _ in range(ROUNDS)  # in turn, so that a busy machine disturbs all alike
        ]
    speeds = {name: [round(each[name]) for each in rounds] for name in ways}
    middle = {name: statistics.median(values) for name, values in speeds.items()}
    best_plain = max(value for name, value in middle.items() if name != "ours")
    result = {
        "what": "sequences of 256 tokens per second in batches of 256; ours with the time for the "
        "order of each epoch, plain without that and without the start of its workers",
        "settings": options | {"grid": GRID, "batch": BATCH, "bytes": options["num_rows"] * 512},
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "load": os.getloadavg()},
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
        },
        "rounds": speeds,
        "median": middle,
        "ratio_to_best_plain": round(middle["ours"] / best_plain, 1),
        "open_and_verify_seconds": round(verify_seconds, 2),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


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


def running(batches: Iterator[Batch]) -> Iterator[Batch]:
    next(batches)
    return batches


def speed(batches: Iterator[Batch], seconds: float) -> float:
    """Sequences per second."""
    started = time.perf_counter()
    count = 0
    while (passed := time.perf_counter() - started) < seconds:
        tokens, _ = next(batches)
        count += len(tokens)
    return count / passed


def check_equal(ways: dict) -> None:
    for way in ways.values():
        tokens, labels = next(way())
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


def cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
