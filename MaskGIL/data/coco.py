"""The captions of COCO: train2017/, val2017/ and annotations/captions_train2017.json, of any year.

Five captions an image, by the number of the image: Chen et al. 2015, "Microsoft COCO Captions".
"""

import json
import os
from pathlib import Path

import numpy as np

from MaskGIL.data.file_list import Files
from MaskGIL.data.folders import Split, is_image
from Network.config import UserError


def is_coco(root: Path) -> bool:
    """Whether there are its annotations, and a folder of pictures to them."""
    return bool(_years(root, "train") or _years(root, "val"))


def open_coco(root: Path, split: Split) -> Files:
    """The pictures of a split, without classes. Raises UserError without one year of both."""
    folder = root / f"{split}{_year(root, split)}"
    files = sorted(name for name in os.listdir(folder) if is_image(name))
    return Files(folder, split, files, np.zeros(len(files), np.int64), [])


def coco_file(root: Path, split: Split) -> Path:
    """The annotations of a split."""
    return root / "annotations" / f"captions_{split}{_year(root, split)}.json"


def read_coco(path: Path) -> dict[str, list[str]]:
    """The captions of each file, in the order of their numbers. Raises UserError for damage."""
    try:
        content = json.loads(path.read_bytes())
        files = {image["id"]: str(image["file_name"]) for image in content["images"]}
        found: dict[str, list[str]] = {file: [] for file in files.values()}
        for annotation in sorted(content["annotations"], key=lambda each: each["id"]):
            found[files[annotation["image_id"]]].append(str(annotation["caption"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} has not the captions of COCO ({type(error).__name__}: {error}); download it "
            "again."
        ) from error
    return found


def _year(root: Path, split: str) -> str:
    years = _years(root, split)
    if len(years) != 1:
        what = f"of {' and '.join(years)}, keep one" if years else "none; add them"
        raise UserError(
            f"data.path={root} needs annotations/captions_{split}YEAR.json and the pictures in "
            f"{split}YEAR for one year, and has {what}."
        )
    return years[0]


def _years(root: Path, split: str) -> list[str]:
    start = f"captions_{split}"
    files = sorted((root / "annotations").glob(f"{start}[0-9]*.json"))
    years = [file.stem.removeprefix(start) for file in files]
    return [year for year in years if (root / f"{split}{year}").is_dir()]
