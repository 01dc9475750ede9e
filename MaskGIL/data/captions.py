"""The captions of pictures, and which one a training sample gets: a pure function of its number.

They come from files beside the pictures (`captioned.py`, `coco.py`), from tar files (`shards.py`)
or from what is drawn (`scenes.py`). N pictures, B samples.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from MaskGIL.data.captioned import SIDECARS, TABLES, find_table, read_sidecar, read_table, sidecar
from MaskGIL.data.coco import coco_file, is_coco, read_coco
from MaskGIL.data.file_list import Files
from MaskGIL.data.folders import Folder, Split, is_image
from MaskGIL.data.shards import Packed
from MaskGIL.noise import random_bits, uniform
from Network.config import UserError


class CaptionTable(Sequence[tuple[str, ...]]):
    """The captions of each of N pictures, at least one. `counts` (N,) int64 says how many.

    Blanks around and line breaks within a caption are taken away, and so are empty ones. Raises
    UserError, with the names of some, for pictures that are left without any.
    """

    counts: np.ndarray

    def __init__(self, captions: Iterable[Iterable[str]], names: Sequence[str]) -> None:
        rows = [[text for text in (" ".join(t.split()) for t in said) if text] for said in captions]
        assert len(rows) == len(names), (len(rows), len(names))
        self.counts = np.array([len(row) for row in rows], np.int64)
        if not self.counts.all():
            without = [name for name, count in zip(names, self.counts) if not count]
            raise _alone(without, "picture", "caption")
        # One block of bytes: worker processes would copy millions of str bit by bit
        texts = [text.encode("utf-8", "replace") for text in chain.from_iterable(rows)]
        self._bytes = np.frombuffer(b"".join(texts), np.uint8)
        self._ends = np.cumsum([0, *map(len, texts)])
        self._firsts = np.concatenate([[0], self.counts.cumsum()])

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(  # pyright: ignore[reportIncompatibleMethodOverride]: no slices
        self, row: int
    ) -> tuple[str, ...]:
        if not 0 <= row < len(self):
            raise IndexError(f"picture {row} of {len(self)}")
        first, last = self._firsts[row], self._firsts[row + 1]
        bounds = zip(self._ends[first:last], self._ends[first + 1 : last + 1])
        return tuple(bytes(self._bytes[a:b]).decode() for a, b in bounds)


def draw_captions(counts: Tensor, seed: int, samples: Tensor) -> Tensor:
    """Which of its captions each sample gets: (B,) int64.

    counts (B,) captions of the samples' pictures, samples (B,) their numbers in the run's stream.
    The same sample has the same one on any rank and after any resume; when its picture comes
    again, another is drawn.
    """
    return random_bits(torch.tensor(seed), "caption", samples, 0) % counts


def draw_dropped(share: float, seed: int, samples: Tensor) -> Tensor:
    """Which samples lose their caption, for guidance: (B,) bool, drawn as `draw_captions` does."""
    return uniform(torch.tensor(seed), "caption drop", samples, 0) < share


def folder_captions(
    path: str | Path, split: Split, images: Folder | Files | Packed, key: str = "data.path"
) -> CaptionTable:
    """The captions of the pictures of a split that `open_layout` has opened at `path`.

    Raises UserError naming `key` where there are none, and for pictures without a caption and for
    captions without a picture, with their names.
    """
    names = [images.name(row) for row in range(len(images))]
    if isinstance(images, Packed):
        if len(images.orphans):
            raise _alone(images.orphans, "caption", "picture")
        return CaptionTable((images.captions(row) for row in range(len(images))), names)
    root = Path(path)
    files = [images.path(row) for row in range(len(images))]
    if is_coco(root):
        table, folder = coco_file(root, split), files[0].parent
        found = read_coco(table)
    else:
        table = find_table(root) or (find_table(root / split) if (root / split).is_dir() else None)
        if table is None:
            return _sidecar_captions(root, files, names, key)
        folder, found = table.parent, read_table(table)
    keys = [file.relative_to(folder).as_posix() for file in files]
    known = set(keys)  # a table may have those of the other split too
    lost = [key for key in found if key not in known and not (folder / key).is_file()]
    if lost:
        raise _alone([f"{key} in {table}" for key in lost], "caption", "picture")
    return CaptionTable((found.get(key, ()) for key in keys), names)


def _sidecar_captions(root: Path, files: list[Path], names: list[str], key: str) -> CaptionTable:
    beside = [sidecar(file) for file in files]
    if not any(beside):
        raise UserError(
            f"{key}={root} has no captions; put NAME.txt beside each picture, or one of "
            f"{', '.join(TABLES[:3])} above them, with columns file_name and caption."
        )
    lost = [text for folder in sorted({file.parent for file in files}) for text in _lost(folder)]
    if lost:
        raise _alone([text.relative_to(root).as_posix() for text in lost], "caption", "picture")
    return CaptionTable((read_sidecar(file) if file else () for file in beside), names)


def _lost(folder: Path) -> list[Path]:
    """The captions of a folder of which no picture is beside them."""
    files = sorted(folder.iterdir())
    pictures = {file.stem for file in files if is_image(file.name)}
    return [f for f in files if f.suffix in SIDECARS and f.stem not in pictures]


def _alone(names: Sequence[str], what: str, other: str, limit: int = 5) -> UserError:
    """For one thing that comes without the other, with its names."""
    number = f"1 {what} has" if len(names) == 1 else f"{len(names)} {what}s have"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    shown = ", ".join(names[:limit])
    return UserError(f"{number} no {other}: {shown}{more}; add the {other}s or remove the {what}s.")
