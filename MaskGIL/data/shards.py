"""Pictures inside tar files, read where they lie: nothing is unpacked.

ImageNet as downloaded is a tar of tars, whose members are named `n01440764.tar/x.JPEG` here;
WebDataset shards keep the class of `KEY.jpg` in `KEY.cls` or `KEY.json`, and its captions in
`KEY.txt`, `KEY.caption` or `KEY.json`. Stands on what `members.py` reads. N pictures.
"""

import io
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from MaskGIL.data.folders import read_image, read_shape
from MaskGIL.data.members import CAPTION_FILES, LABEL_KEYS, Members, captions_of, read_members
from MaskGIL.data.shard_counts import check_counts
from Network.config import UserError

SYNSET = re.compile(r"n[0-9]{8}(?=[_.]|$)")  # a WordNet id at the start of a file or folder name


class Packed:
    """The pictures of one split; rows follow the labels, then the file names.

    `labels` (N,) int64 index `classes`; without classes all are 0. A row is called
    SPLIT/CLASS/FILE, as in class folders. `orphans` are the names of captions without a picture.
    """

    draft = 0  # as `read_image` has it

    def __init__(
        self,
        split: str,
        tars: Sequence[Path],
        members: Members,
        classes: Sequence[str],
        labels: np.ndarray,
    ) -> None:
        files = np.array([name.rpartition(b"/")[2] for name in members.names.tolist()])
        order = np.lexsort((files, labels))
        self.classes, self.labels, self._split = list(classes), labels[order], split
        self._files, self._tars = files[order], [str(tar) for tar in tars]
        self._places = np.stack([members.tars, members.offsets, members.sizes], 1)[order]  # (N, 3)
        self._captions = members.captions[order]  # (N, 3)
        self.orphans = [os.fsdecode(name) for name in members.orphans.tolist()]

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """SPLIT/CLASS/FILE, for instance `train/n01440764/n01440764_10026.JPEG`."""
        folders = [self._split, *self.classes[self.labels[index] :][:1]]
        return "/".join([*folders, self._files[index].decode("utf-8", "surrogateescape")])

    def image(self, index: int) -> Image.Image:
        """The picture as RGB, upright. Raises UnreadableImage."""
        return read_image(self._file(index), self.name(index), self.draft)

    def shape(self, index: int) -> tuple[int, int]:
        """Height and width of the picture. Raises UnreadableImage."""
        return read_shape(self._file(index), self.name(index))

    def captions(self, index: int) -> list[str]:
        """The captions of a row, none if it has no file of them. Raises UserError for damage."""
        offset, size, kind = self._captions[index].tolist()
        if offset < 0:
            return []
        try:
            text = self._read(index, offset, size).decode("utf-8-sig")
            return (
                captions_of(json.loads(text))
                if CAPTION_FILES[kind] == ".json"
                else text.split("\n")
            )
        except ValueError as error:
            raise UserError(
                f"The captions of {self.name(index)} are no text in UTF-8 ({error}); mend "
                f"{self._tars[self._places[index, 0]]}."
            ) from error

    def _file(self, index: int) -> io.BytesIO:
        return io.BytesIO(self._read(index, *self._places[index, 1:].tolist()))

    def _read(self, index: int, offset: int, size: int) -> bytes:
        with open(self._tars[self._places[index, 0]], "rb") as file:
            file.seek(offset)
            return file.read(size)


def open_shards(tars: Sequence[Path], split: str, train: Sequence[Path]) -> Packed:
    """The pictures in `tars`; class names come from `train`, the tar files of the training split.

    A class is a number in KEY.cls or KEY.json, or else the folder (or inner tar) of the picture.
    Numbers take their names from `classes.txt` beside the tar files, one per line, or from WordNet
    ids at the start of the training pictures' names. Raises UserError where classes are missing or
    contradict each other.
    """
    members = read_members(tars)
    check_counts(tars, members)
    known = members if tars == train else read_members(train)
    folder = train[0].parent
    if not len(members.names) or not len(known.names):
        raise UserError(f"The tar files of {folder} hold no pictures for {split}.")
    if members.labels.all() and known.labels.all():
        labels, classes = _numbers(members.labels, folder), _names_of_numbers(known, folder)
        if labels.max() >= len(classes):
            raise UserError(
                f"A picture for {split} in the tar files of {folder} has the class "
                f"{labels.max()}, train has 0 to {len(classes) - 1}."
            )
        return Packed(split, tars, members, classes, labels)
    found = [_folder_of(name) for name in members.names.tolist()]
    classes = sorted({_folder_of(name) for name in known.names.tolist()})
    if "" in classes or not set(found) <= set(classes):
        if (known.captions >= 0).all() and (members.captions >= 0).all():
            return Packed(split, tars, members, [], np.zeros(len(found), np.int64))
        odd = next((name for name in found if name not in classes), "")
        what = f"class {odd} is not among those of train" if odd else "a picture has no class"
        raise UserError(
            f"In the tar files of {folder} {what}: each needs KEY.cls or KEY.json with a number, "
            "or a folder named like its class; or all need captions, in KEY.txt or KEY.json."
        )
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers[name] for name in found], np.int64)
    return Packed(split, tars, members, classes, labels)


# ------------------------------------------------------------------------------------ classes
def _folder_of(name: bytes) -> str:
    """The folder, or the inner tar file, that a picture lies in."""
    folder = name.decode("utf-8", "surrogateescape").rpartition("/")[0].rpartition("/")[2]
    return folder.removesuffix(".tar")


def _numbers(labels: np.ndarray, folder: Path) -> np.ndarray:
    longest = max(map(len, labels.tolist()))
    if longest > 6:
        raise UserError(
            f"A picture in the tar files of {folder} has a class number of {longest} digits in "
            f"KEY.cls or KEY.json ({', '.join(LABEL_KEYS)}): that is no class."
        )
    return labels.astype(np.int64)


def _names_of_numbers(train: Members, folder: Path) -> list[str]:
    numbers = _numbers(train.labels, folder)
    count, listed = int(numbers.max()) + 1, folder / "classes.txt"
    if listed.is_file():
        names = listed.read_text("utf-8").split("\n")
        names = [name.strip() for name in names if name.strip()]
        if len(names) < count:
            raise UserError(
                f"{listed} names {len(names)} classes, but a picture has the class {count - 1}."
            )
        return names
    starts = [SYNSET.match(name.rpartition(b"/")[2].decode("latin-1")) for name in train.names]
    pairs = {(number, start[0]) for number, start in zip(numbers.tolist(), starts) if start}
    ids = dict(sorted(pairs))
    if len(pairs) == len(ids) == count and all(starts):
        return list(ids.values())
    return [str(number) for number in range(count)]
