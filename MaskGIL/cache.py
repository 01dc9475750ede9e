"""The token cache: every crop of every image encoded once, then read through a memory map.

A folder of `index.json`, `tokens-HxW.bin` (little-endian codes) and `labels.bin` (int32, -1 for a
file that could not be read). Chunks of 256 images are the unit of work, hash and resume: the
bytes depend on neither ranks nor interruptions. R rows, C crops, B batch, h w token grid.
"""

import mmap
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from MaskGIL.cache_index import (
    Index,
    Part,
    check_classes,
    check_files,
    check_same,
    check_tokenizer,
    dtype_of,
    new_index,
    read_index,
)
from MaskGIL.chunk_log import finished, log_line, log_path, read_logs, remove_logs
from MaskGIL.data import Images
from MaskGIL.data.crops import Size, all_crops, shape_of, to_float
from MaskGIL.data.folders import BadFiles, UnreadableImage
from MaskGIL.device import without_tf32
from MaskGIL.durable import replace_file, sha256, to_json, write_durably
from Network.config import UserError
from Network.tokenizer import Tokenizer


def write_cache(
    folder: str | Path,
    images: Images,
    tokenizer: Tokenizer,
    *,
    crops: str,
    image_size: Size,
    bad: BadFiles,
    device: torch.device | str = "cpu",
    encode_batch: int = 64,
    precision: str = "fp32",
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    progress: Callable[[int], object] = lambda num_images: None,
) -> None:
    """Encode this rank's chunks, rank::world_size, unless an earlier run has finished them.

    Afterwards all ranks meet and rank 0 calls `finish_cache`. The tokenizer stands on `device`;
    `precision` is that of `encode_crops`, `progress` gets the number of images of each chunk.
    Raises UserError when the folder was begun with another tokenizer, transform or classes, when
    the disk is too small, and for too many unreadable files.
    """
    folder = Path(folder)
    wanted = new_index(images, tokenizer, crops, image_size, encode_batch, precision)
    index = _begin(folder, wanted)
    if index["complete"]:
        return
    part = Part.of(folder, index)
    with part.path.open("ab") as file:
        file.truncate(part.size)  # other ranks may have done so; nothing is lost by it
    chunks = range(rank, part.num_chunks, world_size)
    done = finished(read_logs(folder), part.hash_of, chunks)
    for chunk in done:
        progress(len(part.rows_of(chunk)))
    pending = [chunk for chunk in chunks if chunk not in done]
    rows = [row for chunk in pending for row in part.rows_of(chunk)]
    samples = _load(images, rows, index["transform"], workers)
    with part.path.open("r+b") as file, log_path(folder, rank).open("ab") as log:
        for chunk in pending:
            data, skipped = _encode_chunk(samples, part.rows_of(chunk), index, tokenizer, device)
            for row, error in skipped.items():
                bad.add(row, error)
            file.seek(part.rows_of(chunk).start * part.row_bytes)
            write_durably(file, data)
            write_durably(log, log_line(chunk, data, list(skipped)))
            progress(len(part.rows_of(chunk)))


def finish_cache(folder: str | Path, images: Images, bad: BadFiles) -> None:
    """Read every chunk again, then write the labels and the complete index.

    For rank 0, once every rank is back from `write_cache`. `bad` gets the files that other ranks
    and earlier runs skipped. Raises UserError when these are too many together.
    """
    folder = Path(folder)
    index = read_index(folder)
    if not index["complete"]:
        part, logs = Part.of(folder, index), read_logs(folder)
        hashes = [part.hash_of(chunk) for chunk in range(part.num_chunks)]
        missing = [chunk for chunk in enumerate(hashes) if chunk not in logs]
        assert not missing, f"chunks {missing} are not written: has every rank returned?"
        skipped = [row for chunk in enumerate(hashes) for row in logs[chunk]]
        for row in skipped:
            bad.add(row, UnreadableImage(images.name(row), "unreadable when it was its turn"))
        bad.check(len(skipped))
        labels = images.labels.astype("<i4")
        labels[skipped] = -1
        replace_file(folder / "labels.bin", labels.tobytes())
        index["parts"][0]["sha256"] = hashes
        index |= {"labels_sha256": sha256(labels.tobytes()), "skipped": len(skipped)}
        replace_file(folder / "index.json", to_json(index | {"complete": True}))
    remove_logs(folder)
    for pattern in (".index.json.*", ".labels.bin.*"):
        for leftover in folder.glob(pattern):
            leftover.unlink()


@torch.no_grad()
def encode_crops(tokenizer: Tokenizer, crops: Tensor, precision: str = "fp32") -> Tensor:
    """Tokens (B, h, w) of crops (B, 3, H, W) uint8, on their device, whatever surrounds the call.

    `fp32` is full float32, without the TF32 that cuDNN has on by default. `bf16` autocasts: faster,
    but a latent between two codes may go to the other one. Never fp16: activations overflow it.
    """
    autocast = torch.autocast(crops.device.type, torch.bfloat16, enabled=precision == "bf16")
    with autocast, without_tf32():
        return tokenizer.encode(to_float(crops))


def cache_size(num_rows: int, crops: int, grid: tuple[int, int], codebook_size: int) -> int:
    """Bytes of the tokens and labels on disk."""
    return num_rows * (crops * grid[0] * grid[1] * dtype_of(codebook_size).itemsize + 4)


class TokenCache:
    """A finished cache, read-only.

    `labels` (R,) int64, -1 where no tokens are; `classes` their names; `grid` (h, w).
    """

    def __init__(self, folder: Path, index: Index) -> None:
        self._source = folder, index
        (part,) = index["parts"]
        self.grid: tuple[int, int] = tuple(part["grid"])
        self.num_crops: int = part["crops"]
        self.codebook_size: int = index["tokenizer"]["codebook_size"]
        self.classes = list(index["classes"])
        self.labels = np.fromfile(folder / "labels.bin", "<i4").astype(np.int64)
        with (folder / part["file"]).open("rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        # A plain array: each piece of an np.memmap would pay for the subclass
        codes = np.frombuffer(memory, index["dtype"])
        self._sequences = codes.reshape(part["rows"] * part["crops"], -1)  # (R * C, h * w)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        tokenizer: Tokenizer | None = None,
        classes: Sequence[str] | None = None,
        verify: bool = True,
    ) -> "TokenCache":
        """Check a cache and map it; `verify` compares the hashes of all chunks.

        Raises UserError for a missing, unfinished or damaged cache, and for one of another
        tokenizer or other classes than given.
        """
        folder = Path(folder)
        index = read_index(folder)
        if not index["complete"]:
            raise UserError(f"The token cache {folder} is unfinished; run its command again.")
        if tokenizer is not None:
            check_tokenizer(folder, index, tokenizer.fingerprint)
        if classes is not None:
            check_classes(folder, index, classes)
        check_files(folder, index, verify)
        return cls(folder, index)

    def __len__(self) -> int:
        return len(self.labels)

    def __reduce__(self):
        return TokenCache, self._source  # a spawned worker maps the files instead of a copy

    @property
    def num_bytes(self) -> int:
        """Size of the tokens on disk."""
        return self._sequences.nbytes

    def tokens(self, rows: np.ndarray, crops: np.ndarray) -> Tensor:
        """Tokens (B, h, w) int64 of rows (B,) and crops (B,)."""
        sequences = self._sequences.take(rows * self.num_crops + crops, axis=0)  # (B, h * w)
        return torch.from_numpy(sequences.astype(np.int64)).view(-1, *self.grid)


def _begin(folder: Path, index: Index) -> Index:
    """The index of a folder begun before, if for the same work; else of a folder begun here.

    All ranks may come here at once: each would write the same.
    """
    if (folder / "index.json").exists():
        found = read_index(folder)
        check_tokenizer(folder, found, index["tokenizer"]["fingerprint"])
        check_same(folder, "transform", found["transform"], index["transform"])
        check_classes(folder, found, list(index["classes"]))
        check_same(folder, "data set", found["images"], index["images"])
        layouts = ({**each["parts"][0], "sha256": []} for each in (found, index))
        check_same(folder, "layout", *layouts)
        return found
    folder.mkdir(parents=True, exist_ok=True)
    size, free = Part.of(folder, index).size, shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"The token cache {folder} needs {size / 1e9:.1f} GB, its disk has only "
            f"{free / 1e9:.1f} GB left; choose another data.cache or fewer data.crops."
        )
    replace_file(folder / "index.json", to_json(index))
    return index


# ------------------------------------------------------------------------------------ chunks
class _Crops(Dataset):
    """All crops of a row (C, 3, H, W) uint8, or why there are none; read in worker processes."""

    def __init__(self, images: Images, crops: str, size: Size) -> None:
        self.images, self.crops, self.size = images, crops, size

    def __getitem__(self, row: int) -> Tensor | UnreadableImage:
        try:
            return all_crops(self.images.image(row), self.crops, self.size)
        except UnreadableImage as error:
            return error


def _load(images: Images, rows: list[int], transform: dict, workers: int) -> Iterator:
    dataset = _Crops(images, transform["crops"], transform["image_size"])
    generator = torch.Generator()  # else the loader would draw from the global one
    return iter(DataLoader(dataset, None, sampler=rows, num_workers=workers, generator=generator))


def _encode_chunk(
    samples: Iterator, rows: range, index: Index, tokenizer: Tokenizer, device: torch.device | str
) -> tuple[bytes, dict[int, UnreadableImage]]:
    """Tokens of a chunk (rows, C, h, w) as bytes, and its unreadable rows, whose tokens are 0."""
    num_crops, shape = index["parts"][0]["crops"], shape_of(index["transform"]["image_size"])
    batch = max(1, index["transform"]["encode_batch"] // num_crops)
    codes, skipped = [], {}
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        pictures = torch.zeros(len(part), num_crops, 3, *shape, dtype=torch.uint8)
        for picture, row in zip(pictures, part):
            sample = next(samples)
            if isinstance(sample, UnreadableImage):
                skipped[row] = sample
            else:
                picture.copy_(sample)
        crops = pictures.flatten(0, 1).to(device)  # (B * C, 3, H, W)
        tokens = encode_crops(tokenizer, crops, index["transform"]["precision"])
        codes.append(tokens.reshape(len(part), -1))  # (B, C * h * w)
    # Copied once a chunk: while a GPU encodes a batch, the next one is read
    data = torch.cat(codes).cpu().numpy()
    assert 0 <= data.min() <= data.max() < tokenizer.codebook_size
    data[[row - rows.start for row in skipped]] = 0
    return data.astype(index["dtype"]).tobytes(), skipped
