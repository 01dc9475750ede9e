"""Images in class folders, ROOT/train/CLASS/* and ROOT/val/CLASS/*, as torchvision's ImageFolder.

Every picture becomes 8-bit RGB. A file that cannot be read is skipped and named in a list, and
too many of them end the run. Stands on Pillow, restricted to the formats of photographs.
"""

import os
import re
import warnings
from pathlib import Path
from typing import IO, Literal

import numpy as np
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from Network.config import UserError

# Pillow looks at the content, not the name: without this list an .eps named .jpg starts Ghostscript
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 50_000_000  # 200 MB as RGB: Pillow keeps four bytes a pixel
Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
LAYOUT = "train/CLASS/*.jpg and val/CLASS/*.jpg inside"


class UnreadableImage(Exception):
    """A file that is no picture of the supported kinds. Has the `name` and the `reason`."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"cannot read {self.name}: {self.reason}"


class Folder:
    """The pictures of one split. Rows follow the sorted class names, then the sorted file names.

    `labels` (N,) int64 index `classes`. Nested and linked folders count, hidden ones do not.
    Raises UserError when a folder or the pictures of a class are missing, or when the classes are
    not those of the split `classes_of`.
    """

    classes: list[str]
    labels: np.ndarray
    draft = 0  # as `read_image` has it

    def __init__(self, root: str | Path, split: Split, classes_of: Split = "train") -> None:
        self.root = Path(root)
        self.classes = _class_names(self.root, split, classes_of)
        files = [_image_files(self.root / split, name) for name in self.classes]
        _check_counts(self.root / split, self.classes, [len(names) for names in files])
        self.labels = np.repeat(np.arange(len(files)), [len(names) for names in files])
        # One block of bytes: worker processes would copy a list of a million str bit by bit
        self._names = np.array([name for names in files for name in names])

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """Path of the file below the root, for instance `train/cat/01.jpg`."""
        return os.fsdecode(self._names[index])

    def image(self, index: int) -> Image.Image:
        """The picture as RGB, upright. Raises UnreadableImage."""
        return read_image(self.path(index), self.name(index), self.draft)

    def shape(self, index: int) -> tuple[int, int]:
        """Height and width of the picture. Raises UnreadableImage."""
        return read_shape(self.path(index), self.name(index))

    def path(self, index: int) -> Path:
        """Where the file is."""
        return self.root / self.name(index)


class BadFiles:
    """The files that could not be read: each is one line of `path`, too many of them end the run.

    `max_bad` is the largest allowed part of the `num_images` in the split. All ranks and workers
    write to the same `path`, and what counts is how many files of the split stand there.
    """

    def __init__(self, path: str | Path, num_images: int, max_bad: float) -> None:
        self.path, self.num_images, self.max_bad = Path(path), num_images, max_bad
        self.found: dict[int, UnreadableImage] = {}

    def add(self, index: int, error: UnreadableImage) -> None:
        """Note the file of a row, once. Raises UserError when there are too many now."""
        if index in self.found:
            return
        self.found[index] = error
        self.check(self._write(error))

    def check(self, num_bad: int) -> None:
        """Raise UserError if `num_bad` files are more than the data set may have."""
        if num_bad <= self.max_bad * self.num_images:
            return
        first = next(iter(self.found.values()), None)
        example = f" First: {first.name}: {first.reason}." if first else ""
        raise UserError(
            f"{num_bad} of {self.num_images} images cannot be read (limit data.max_bad="
            f"{self.max_bad}); mend or remove those in {self.path}, then delete that list.{example}"
        )

    def _write(self, error: UnreadableImage) -> int:
        """List a file, unless it is listed, and count the listed ones of its split."""
        name, reason = (
            re.sub(r"[\n\t]", " ", text.encode("utf-8", "backslashreplace").decode())
            for text in (error.name, error.reason)  # a file name may be any bytes
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+", encoding="utf-8") as file:
            file.seek(0)
            names = {line.partition("\t")[0] for line in file}
            if name not in names:  # else another rank or an earlier run has met the file
                file.write(f"{name}\t{reason}\n")
        split = name.partition("/")[0]
        return sum(other.partition("/")[0] == split for other in names | {name})


def read_image(
    path: str | Path | IO[bytes], name: str = "", draft: int = 0, behind: str = "white"
) -> Image.Image:
    """An image file or its bytes as 8-bit RGB, upright by its EXIF tag; of an animation the start.

    Transparent pixels are laid on the colour `behind`. A JPEG may come at a half, a quarter or an
    eighth of its size as long as its shorter side keeps `draft` pixels; 0 keeps its size. Raises
    UnreadableImage, of `name`, for anything else than a whole picture of FORMATS with at most
    MAX_PIXELS pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow would remark on large pictures and odd tags
            return _open(path, draft, behind)
    except Exception as error:  # broken files raise whatever the decoder stumbled over
        reason = str(error) or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = f"not an image of the formats {', '.join(FORMATS)}"
        raise UnreadableImage(name or str(path), reason) from error


def read_shape(path: str | Path | IO[bytes], name: str = "") -> tuple[int, int]:
    """Height and width of what `read_image` reads, from its first bytes. Raises UnreadableImage."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            turned = _TRANSPOSITIONS.get(_orientation(image)) in _SIDEWAYS
            return image.size if turned else image.size[::-1]
    except Exception as error:  # as in `read_image`
        raise UnreadableImage(name or str(path), str(error) or type(error).__name__) from error


# ---------------------------------------------------------------------------------- pictures
_ORIENTATION = 0x0112  # the EXIF tag; EXIF 2.32, table of orientations
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # TIFF 6.0, section 15
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_SIDEWAYS = [_TRANSPOSITIONS[number] for number in (5, 6, 7, 8)]


def _open(path: str | Path | IO[bytes], draft: int, behind: str) -> Image.Image:
    with Image.open(path, formats=FORMATS) as image:
        tags = getattr(image, "tag_v2", {})  # of TIFF, where a small picture may be a giant tile
        tile = tags.get(_TILE_WIDTH, 0), tags.get(_TILE_LENGTH, 0)
        for width, height in (image.size, tile):  # asked before a pixel is decoded
            if width * height > MAX_PIXELS:
                raise ValueError(f"{width} x {height} pixels are more than {MAX_PIXELS:,}")
        if draft:
            image.draft(None, (draft, draft))  # formats without a smaller size ignore it
        image.load()
        return upright_rgb(image, behind)


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block says nothing against the pixels
        return 1


def upright_rgb(image: Image.Image, behind: str = "white") -> Image.Image:
    """An open image as `read_image` has it. Raises ValueError for floating-point pixels."""
    rgb, transposition = _to_rgb(image, behind), _TRANSPOSITIONS.get(_orientation(image))
    if transposition is None:
        return rgb
    turned = rgb.transpose(transposition)
    turned.info = {}  # which holds the tag: who reads it again would turn the picture again
    return turned


def _to_rgb(image: Image.Image, behind: str) -> Image.Image:
    """In as few copies as possible: one of the largest allowed picture takes 200 MB."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed white")
    if image.mode.startswith("I"):
        return _eight_bits(image).convert("RGB")
    if image.has_transparency_data:
        clear = image if image.mode == "RGBA" else image.convert("RGBA")
        laid = Image.new("RGB", image.size, behind)
        laid.paste(clear, mask=clear)
        return laid
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Of 16 bits, scaled; Pillow would clip."""
    deep = np.asarray(image).clip(0, 65535).astype(np.int32)
    deep += 128
    deep //= 257
    return Image.fromarray(deep.astype(np.uint8))


# ----------------------------------------------------------------------------------- folders
def _class_names(root: Path, split: Split, classes_of: Split) -> list[str]:
    known = _subfolders(_existing(root, classes_of))
    if not known:
        raise UserError(f"{root / classes_of} holds no class folders; data.path needs {LAYOUT}.")
    if split == classes_of:
        return known
    other = _subfolders(_existing(root, split))
    if other != known:
        odd = sorted(set(known) ^ set(other))
        raise UserError(
            f"{root / split} has {len(other)} classes, {root / classes_of} has {len(known)}; "
            f"only one of them has {_some(odd)}: give both the same class folders."
        )
    return known


def _existing(root: Path, split: str) -> Path:
    """ROOT/SPLIT, or UserError that tells what is there instead."""
    if not root.is_dir():
        parent = next(folder for folder in root.absolute().parents if folder.is_dir())
        raise UserError(
            f"No such folder: data.path={root}; it must have {LAYOUT}. "
            f"{parent} holds {_some(_subfolders(parent))}."
        )
    if not (root / split).is_dir():
        raise UserError(
            f"data.path={root} has no folder {split} inside; it must have {LAYOUT}. "
            f"It holds {_some(_subfolders(root))}{_hint(root, split)}."
        )
    return root / split


def _hint(root: Path, split: str) -> str:
    if root.name in SPLITS and (root.parent / split).is_dir():
        return f"; use data.path={root.parent}"
    classes = [name for name in _subfolders(root) if name not in SPLITS]
    if any(is_image(file.name) for name in classes for file in os.scandir(root / name)):
        return f"; move those class folders into {root / split}"
    return ""


def _check_counts(folder: Path, classes: list[str], counts: list[int]) -> None:
    empty = [name for name, count in zip(classes, counts) if count == 0]
    if empty:
        raise UserError(
            f"{len(empty)} of {len(classes)} class folders in {folder} have no image "
            f"({', '.join(IMG_EXTENSIONS)}): {_some(empty)}; fill or remove them."
        )


def _image_files(folder: Path, class_name: str) -> list[bytes]:
    """Paths below the root, as bytes, sorted."""
    prefix = len(str(folder.parent / "_")) - 1
    names = []
    for place, folders, files in os.walk(folder / class_name, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        # A slice, because pathlib would take ten seconds for ImageNet
        names += [os.path.join(place, name)[prefix:] for name in files if is_image(name)]
    return sorted(os.fsencode(name.replace(os.sep, "/")) for name in names)  # on Windows too


def is_image(name: str) -> bool:
    """Whether a file of this name counts as a picture."""
    return name.lower().endswith(IMG_EXTENSIONS) and not name.startswith(".")


def _subfolders(folder: Path) -> list[str]:
    return sorted(
        entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != "."
    )


def _some(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "no folders") + more
