"""How pictures lie under `data.path`: the layouts that are recognised, ImageNet's above all.

Whatever the layout, the same pictures have the same names, order and labels, so that one token
cache serves them all. N pictures.
"""

import csv
import io
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.io

from MaskGIL.data.captioned import has_captions
from MaskGIL.data.coco import is_coco, open_coco
from MaskGIL.data.file_list import Files
from MaskGIL.data.folders import SPLITS, Folder, Split, is_image
from MaskGIL.data.members import read_members
from MaskGIL.data.shards import Packed, open_shards
from Network.config import UserError

KAGGLE = Path("ILSVRC", "Data", "CLS-LOC")
KAGGLE_LABELS = "LOC_val_solution.csv"
TARS = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
HELD_OUT = 20  # of a folder without split and classes one picture in so many validates


def open_layout(path: str | Path, split: Split) -> "Folder | Files | Packed":
    """The pictures of a split, in the first of LAYOUTS that fits; else as class folders.

    Raises UserError for what is missing, and for labels that do not fit the pictures.
    """
    if str(path).startswith("pipe:"):
        raise UserError(f"data.path={path} is a command and is never run; name a folder.")
    root = Path(path)
    for layout in LAYOUTS:
        if root.is_dir() and layout.fits(root):
            return layout.open(root, split)
    return Folder(root, split)


# ------------------------------------------------------------------------- ImageNet of Kaggle
def _is_flat_val(root: Path) -> bool:
    """Whether there is a train, and a val of bare pictures."""
    return (root / "train").is_dir() and {"pictures"} == _contents(root / "val")


def _is_kaggle(root: Path) -> bool:
    return _is_flat_val(root / KAGGLE) or _is_flat_val(root)


def _open_kaggle(root: Path, split: Split) -> Folder | Files:
    data = root / KAGGLE if _is_flat_val(root / KAGGLE) else root
    train = Folder(data, "train")
    if split == "train":
        return train
    places = [data, *data.absolute().parents[: len(KAGGLE.parts)]]
    table = next((p / KAGGLE_LABELS for p in places if (p / KAGGLE_LABELS).is_file()), None)
    if table is None:
        raise UserError(
            f"{data / 'val'} holds pictures and no class folders; put Kaggle's {KAGGLE_LABELS} "
            f"into {data}, or sort the pictures into val/CLASS."
        )
    class_of = _read_kaggle(table)
    files = sorted(name for name in os.listdir(data / "val") if is_image(name))
    odd = sorted({Path(file).stem for file in files} ^ class_of.keys())
    if odd:
        raise UserError(
            f"{table} lists {len(class_of)} pictures, {data / 'val'} holds {len(files)}; the first "
            f"that only one of them has is {odd[0]}: copy what is missing."
        )
    classes = [class_of[Path(file).stem] for file in files]
    return Files(data / "val", "val", files, _numbers(classes, train.classes, table), train.classes)


def _read_kaggle(table: Path) -> dict[str, str]:
    """WordNet id of each picture, by its name without .JPEG."""
    try:  # a spreadsheet that saved it may have put a byte-order mark first
        with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            rows = csv.DictReader(file)
            if not {"ImageId", "PredictionString"} <= set(rows.fieldnames or ()):
                raise UserError(f"{table} has no columns ImageId and PredictionString.")
            pairs = {
                (row["ImageId"] or "", (row["PredictionString"] or "").partition(" ")[0])
                for row in rows
            }
    except csv.Error as error:
        raise UserError(f"{table} is not a table ({error}); download it again.") from error
    class_of = dict(pairs)
    if len(class_of) < len(pairs):
        twice = min(name for name, label in pairs if class_of[name] != label)
        raise UserError(f"{table} gives {twice} more than one class; delete the wrong rows.")
    return class_of


# --------------------------------------------------------------------- ImageNet as downloaded
def _is_official(root: Path) -> bool:
    return any((root / name).is_file() for name in TARS.values()) and not _is_unpacked(root)


def _open_official(root: Path, split: Split) -> Packed:
    missing = [name for name in (*TARS.values(), DEVKIT) if not (root / name).is_file()]
    if missing:
        raise UserError(
            f"{root} holds a tar file of ImageNet, but not {' and '.join(missing)}; download "
            "what is missing from image-net.org into the same folder."
        )
    train = [root / TARS["train"]]
    known = open_shards(train, "train", train)
    if split == "train":
        return known
    tar = root / TARS["val"]
    members = read_members([tar])
    classes = _read_devkit(root / DEVKIT)
    if len(classes) != len(members.names):
        raise UserError(
            f"{DEVKIT} has labels of {len(classes)} pictures, {tar} holds {len(members.names)}; "
            "download them again."
        )
    order = np.argsort(members.names)  # the labels follow the numbers in the files' names
    labels = np.empty(len(classes), np.int64)
    labels[order] = _numbers(classes, known.classes, root / DEVKIT)
    return Packed("val", [tar], members, known.classes, labels)


def _read_devkit(path: Path) -> list[str]:
    """WordNet ids of the validation pictures, in the order of their numbers."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            contents = {
                Path(member.name).name: file.read()
                for member in archive
                if (file := archive.extractfile(member)) is not None
            }
        synsets = scipy.io.loadmat(io.BytesIO(contents["meta.mat"]), squeeze_me=True)["synsets"]
        names = {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
        numbers = contents["ILSVRC2012_validation_ground_truth.txt"].split()
        return [names[int(number)] for number in numbers]
    except (tarfile.TarError, EOFError, OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{path} is not ImageNet's development kit ({error}); download it again."
        ) from error


# --------------------------------------------------------------------------------- WebDataset
def _shards_of(root: Path, split: str) -> list[Path]:
    """Tar files in SPLIT/, or with the split as a word of their name; `validation` is val too."""
    inside = sorted((root / split).glob("*.tar"))
    word = re.compile(rf"(?<![a-z]){split}(id|idation)?(?![a-z])")
    return inside or sorted(tar for tar in root.glob("*.tar") if word.search(tar.name.lower()))


def _is_shards(root: Path) -> bool:
    if _shards_of(root, "train"):
        return not _is_unpacked(root)
    alone = not (root / "train").exists() and "pictures" not in _contents(root)
    return alone and any(root.glob("*.tar"))  # which `_open_shards` will refuse


def _open_shards(root: Path, split: Split) -> Packed:
    tars = _shards_of(root, split)
    if not _shards_of(root, "train"):
        raise UserError(
            f"data.path={root} has tar files, and none for train; put them into {root / 'train'} "
            f"and {root / 'val'}, or give them names with train and val."
        )
    if not tars:
        raise UserError(
            f"data.path={root} has tar files for train and none for {split}; put them into "
            f"{root / split}, or give them names with {split}."
        )
    train = _shards_of(root, "train")
    both = sorted(set(train) & set(_shards_of(root, "val")))
    if both:
        raise UserError(f"The name of {both[0]} says both train and val; rename it.")
    return open_shards(tars, split, train)


# ----------------------------------------------------------------- one folder without classes
def _is_unlabelled(root: Path) -> bool:
    """Pictures and no train; or captions, which tell that folders below are no classes."""
    if (root / "train").exists():
        return False
    return "pictures" in _contents(root) or has_captions(root)


def _open_unlabelled(root: Path, split: Split) -> Files:
    """All pictures below; which of them validate follows from their names alone."""
    names = []
    for place, folders, found in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names += [Path(place, n).relative_to(root).as_posix() for n in found if is_image(n)]
    if len(names) < 2:
        raise UserError(f"data.path={root} holds one picture; training needs two.")
    draws = {name: zlib.crc32(os.fsencode(name)) for name in names}
    held_out = {name for name in names if draws[name] % HELD_OUT == 0}
    held_out = held_out if 0 < len(held_out) < len(names) else {min(names, key=draws.__getitem__)}
    files = [name for name in names if (name in held_out) == (split == "val")]
    return Files(root, split, files, np.zeros(len(files), np.int64), [])


# ----------------------------------------------------------------- two folders without classes
def _is_split(root: Path) -> bool:
    return all({"pictures"} == _contents(root / split) for split in SPLITS)


def _open_split(root: Path, split: Split) -> Files:
    files = sorted(name for name in os.listdir(root / split) if is_image(name))
    return Files(root / split, split, files, np.zeros(len(files), np.int64), [])


def _is_unpacked(root: Path) -> bool:
    """Whether there are class folders for both splits: then tar files beside them are leftovers."""
    return all("folders" in _contents(root / split) for split in ("train", "val"))


class Layout(NamedTuple):
    """Whether the pictures lie so, and how they are opened."""

    fits: Callable[[Path], bool]
    open: Callable[[Path, Split], "Folder | Files | Packed"]


LAYOUTS = (
    Layout(is_coco, open_coco),
    Layout(_is_split, _open_split),
    Layout(_is_kaggle, _open_kaggle),
    Layout(_is_official, _open_official),
    Layout(_is_shards, _open_shards),
    Layout(_is_unlabelled, _open_unlabelled),
)


def _contents(folder: Path) -> set[str]:
    """Which of "folders" and "pictures" a folder holds, hidden ones aside."""
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:
        seen = [entry for entry in entries if not entry.name.startswith(".")]
        folders = {"folders" for entry in seen if entry.is_dir()}
        return folders | {"pictures" for entry in seen if is_image(entry.name)}


def _numbers(names: Sequence[str], classes: list[str], source: Path) -> np.ndarray:
    numbers = {name: number for number, name in enumerate(classes)}
    odd = next((name for name in names if name not in numbers), None)
    if odd is not None:
        raise UserError(f"{source} names the class {odd}, which train does not have.")
    return np.array([numbers[name] for name in names], np.int64)
