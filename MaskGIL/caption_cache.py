"""The caption cache: every caption encoded once, then read through a memory map.

A folder of `index.json`, the offsets and `features.bin` (bf16, no padding); see `caption_index`.
Chunks of 1,024 captions are the unit of work, hash and resume: tokens are counted first, so that
every chunk has its place, and the bytes depend on neither ranks nor interruptions.
R images, B batch, P condition tokens, C width of features.
"""

import mmap
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from MaskGIL.caption_index import (
    Captioned,
    Features,
    Index,
    Offsets,
    check_captions,
    check_encoder,
    check_features,
    new_index,
    read_index,
)
from MaskGIL.chunk_log import finished, log_line, log_path, read_logs, remove_logs
from MaskGIL.durable import replace_file, to_json, write_durably
from Network.condition import Captions
from Network.config import UserError
from Network.text import EncoderFacts, TextEncoder


def write_captions(
    folder: str | Path,
    captions: Captioned,
    encoder: TextEncoder,
    *,
    rank: int = 0,
    world_size: int = 1,
    progress: Callable[[int], object] = lambda num_captions: None,
) -> None:
    """Encode this rank's chunks, rank::world_size, unless an earlier run has finished them.

    Afterwards all ranks meet and rank 0 calls `finish_captions`. `progress` gets the number of
    captions of each chunk. Raises UserError for an image without captions, when the folder was
    begun with another encoder or other captions, and when the disk is too small.
    """
    folder = Path(folder)
    index, offsets = _begin(folder, captions, encoder)
    if index["complete"]:
        return
    features, texts = Features.of(folder, index, offsets), _flat(captions)
    with features.path.open("ab") as file:
        file.truncate(features.size)  # other ranks may have done so; nothing is lost by it
    chunks = range(rank, offsets.num_chunks, world_size)
    done = finished(read_logs(folder), features.hash_of, chunks)
    with features.path.open("r+b") as file, log_path(folder, rank).open("ab") as log:
        for chunk in chunks:
            rows = offsets.captions_of(chunk)
            if chunk not in done:
                data = _encode(encoder, texts[rows.start : rows.stop])
                assert len(data) == features.size_of(chunk)
                file.seek(features.start_of(chunk))
                write_durably(file, data)
                write_durably(log, log_line(chunk, data))
            progress(len(rows))


def finish_captions(folder: str | Path) -> None:
    """Read every chunk again, then write the complete index.

    For rank 0, once every rank is back from `write_captions`.
    """
    folder = Path(folder)
    index = read_index(folder)
    if not index["complete"]:
        offsets, logs = Offsets.read(folder, index), read_logs(folder)
        features = Features.of(folder, index, offsets)
        hashes = [features.hash_of(chunk) for chunk in range(offsets.num_chunks)]
        missing = [chunk for chunk in enumerate(hashes) if chunk not in logs]
        assert not missing, f"chunks {missing} are not written: has every rank returned?"
        replace_file(folder / "index.json", to_json(index | {"sha256": hashes, "complete": True}))
    remove_logs(folder)
    for pattern in (".*.bin.*", ".*.json.*"):  # what a kill has left of `replace_file`
        for leftover in folder.glob(pattern):
            leftover.unlink()


class CaptionCache:
    """A finished cache, read-only.

    `counts` (R,) int64 are the captions of every image; `encoder` says what made the features.
    """

    def __init__(self, folder: Path, index: Index) -> None:
        self._source = folder, index
        self.encoder: dict[str, int | str] = index["encoder"]
        self.width, self.num_tokens = index["encoder"]["width"], index["encoder"]["num_tokens"]
        self._offsets = Offsets.read(folder, index)
        self.counts = np.diff(self._offsets.images)
        with (folder / "features.bin").open("rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._features = np.frombuffer(memory, "<u2").reshape(
            -1, self.width
        )  # (T, C), bits of bf16

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        encoder: TextEncoder | EncoderFacts | None = None,
        captions: Captioned | None = None,
        verify: bool = True,
    ) -> "CaptionCache":
        """Check a cache and map it; `verify` compares the hashes of all chunks.

        Raises UserError for a missing, unfinished or damaged cache, and for one of another encoder
        or of other captions than given.
        """
        folder = Path(folder)
        index = read_index(folder)
        if not index["complete"]:
            raise UserError(f"The caption cache {folder} is unfinished; run its command again.")
        if encoder is not None:
            check_encoder(folder, index, encoder)
        if captions is not None:
            check_captions(folder, index, captions)
        check_features(folder, index, Offsets.read(folder, index), verify)
        return cls(folder, index)

    def __len__(self) -> int:
        return len(self.counts)

    def __reduce__(self):
        return CaptionCache, self._source  # a spawned worker maps the files instead of a copy

    @property
    def usual_length(self) -> int:
        """Tokens of the median caption: half of all have no more."""
        return int(np.quantile(np.diff(self._offsets.captions), 0.5, method="lower"))

    @property
    def num_bytes(self) -> int:
        """Size of the features on disk."""
        return self._features.nbytes

    def captions(self, rows: np.ndarray, which: np.ndarray) -> Captions:
        """Features (B, P, C) bf16 of caption `which` (B,) of image `rows` (B,), padded in front."""
        assert ((which >= 0) & (which < self.counts[rows])).all()
        numbers = self._offsets.images[rows] + which
        starts, stops = self._offsets.captions[numbers], self._offsets.captions[numbers + 1]
        firsts = self.num_tokens - (stops - starts)  # (B,) where padding ends
        features = np.zeros((len(rows), self.num_tokens, self.width), np.uint16)
        for row, first, start, stop in zip(features, firsts, starts, stops):
            row[first:] = self._features[start:stop]
        mask = np.arange(self.num_tokens) < firsts[:, None]
        return Captions(torch.from_numpy(features).view(torch.bfloat16), torch.from_numpy(mask))


def _begin(folder: Path, captions: Captioned, encoder: TextEncoder) -> tuple[Index, Offsets]:
    """What is known of a folder begun before, if for the same work; else of one begun here.

    All ranks may come here at once: each would write the same.
    """
    if (folder / "index.json").exists():
        found = read_index(folder)
        check_encoder(folder, found, encoder)
        check_captions(folder, found, captions)
        return found, Offsets.read(folder, found)
    counts = [len(group) for group in captions]
    if not counts:
        raise UserError(f"There are no captions for {folder}; give at least one.")
    if 0 in counts:
        raise UserError(
            f"Image {counts.index(0)} (the first is 0) has no caption; give it one or leave it out."
        )
    offsets = Offsets.of(counts, encoder.lengths(_flat(captions)))
    index = new_index(captions, encoder, offsets)
    folder.mkdir(parents=True, exist_ok=True)
    size, free = Features.of(folder, index, offsets).size, shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"The caption cache {folder} needs {size / 1e9:.1f} GB, its disk has only "
            f"{free / 1e9:.1f} GB left; choose another folder or fewer captions."
        )
    for name, data in offsets.contents().items():
        replace_file(folder / name, data)
    replace_file(folder / "index.json", to_json(index))
    return index, offsets


def _encode(encoder: TextEncoder, texts: Sequence[str]) -> bytes:
    """Features of all tokens of the captions, one after the other, as bytes."""
    features = torch.cat([each.bfloat16() for each in encoder.features(texts)])  # (tokens, C)
    return features.view(torch.uint16).cpu().numpy().astype("<u2").tobytes()


def _flat(captions: Captioned) -> list[str]:
    return [text for group in captions for text in group]
