"""`python -m MaskGIL prepare NAME DIR`: a data set that is fetched and laid out in class folders.

emoji64 are the emoji of two vendors, 64x64 pixels on white, in the nine groups of Unicode. They
come out of two npm packages, which npm fetches unless they are at hand.
"""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from MaskGIL.command import Flags
from MaskGIL.data.folders import SPLITS, UnreadableImage, read_image
from MaskGIL.output import check_writable
from Network.config import UserError, setting

VERSION = "16.0.0"
VENDORS = {"google": 75, "twitter": 62}  # megabytes of the package
MEGABYTES = 40  # of the files laid out
# sha256 over path and pixels of all images; their PNG bytes differ between versions of Pillow
FINGERPRINT = "bb7b1975009350f79e3895a3fa603b292fd2b690ded1d0490e61cc0e259efe14"
CREDITS = """# emoji64
Files `google_*` are Noto Emoji by Google, under the Apache License 2.0
(https://github.com/googlefonts/noto-emoji). Files `twitter_*` are Twemoji by Twitter and
contributors, under CC-BY 4.0 (https://creativecommons.org/licenses/by/4.0/). Both were taken at
64x64 pixels from the npm packages `emoji-datasource-google` and `emoji-datasource-twitter`,
version {version}, and set on white. Pass this credit on with pictures made from them.
"""


@dataclass(frozen=True)
class PrepareConfig:
    """A data set and the folder that it is laid out in."""

    name: Literal["emoji64"] = setting("emoji64", "data set")
    path: str = setting("", "folder to make, with train/CLASS/*.png and val/CLASS/*.png")
    packages: str = setting("", "folder that holds the .tgz files, as npm pack names them")


class Row(NamedTuple):
    """One line of `index.tsv`."""

    split: str
    class_name: str
    file: str
    vendor: str
    subcategory: str
    short_name: str


def prepare(config: PrepareConfig, flags: Flags) -> None:
    """Build emoji64 in `config.path`, or tell that it is there.

    Raises UserError for a folder of something else, without npm or network, for damaged packages,
    and where the pictures are not those of FINGERPRINT; only those stay, beside `path`.
    """
    if not config.path:
        raise UserError("path is empty; name a new folder: python -m MaskGIL prepare emoji64 DIR.")
    folder = Path(config.path).resolve()
    if folder.is_dir() and any(folder.iterdir()):
        if not _is_emoji64(folder):
            raise UserError(f"path={config.path} is not empty and not emoji64; name a new folder.")
        print(f"{config.path} is emoji64 already: all pictures are as they should be")
    else:
        for place in (folder, folder.parent):
            check_writable("path", place)
        at_hand = Path(config.packages) if config.packages else folder.parent
        archives = {vendor: at_hand / _archive(vendor) for vendor in VENDORS}
        missing = [vendor for vendor, archive in archives.items() if not archive.is_file()]
        npm = ""
        if missing:
            npm = _find_npm(config, at_hand, missing)
            size = sum(VENDORS[vendor] for vendor in missing)
            names = " and ".join(map(_package, missing))
            print(f"fetching   {names}, {size} MB, removed afterwards")
        print(f"making     {config.path}, {MEGABYTES} MB", flush=True)
        if flags.dry_run:
            return
        _build(folder, archives, npm)
    _tell(folder, config.path)


def fingerprint(folder: Path) -> str:
    """Hash of the images below `folder`: sha256 over relative path and RGB pixels, sorted by path.

    Raises UnreadableImage.
    """
    digest = hashlib.sha256()
    for name in sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*/*.png")):
        digest.update(name.encode() + b"\n" + read_image(folder / name).tobytes())
    return digest.hexdigest()


def _is_emoji64(folder: Path) -> bool:
    with suppress(UnreadableImage):
        # Without our index it may be ImageNet, which would take hours to hash
        return (folder / "index.tsv").is_file() and fingerprint(folder) == FINGERPRINT
    return False


def _tell(folder: Path, path: str) -> None:
    """Print the number of images per class and split, and what to type next."""
    counts = Counter(image.parts[-3:-1] for image in folder.glob("*/*/*.png"))
    classes = sorted({class_name for _, class_name in counts})
    rows = [(name, *(counts[split, name] for split in SPLITS)) for name in classes]
    totals = [sum(column) for column in list(zip(*rows))[1:]]
    print(f"{'class':16s} {SPLITS[0]:>6s} {SPLITS[1]:>6s}")
    for name, train, val in [*rows, ("together", *totals)]:
        print(f"{name:16s} {train:6,} {val:6,}")
    word = shlex.quote(f"data.path={path}")
    print(f"next       python main.py MaskGIL/configs/emoji64/tokenizer.yaml {word}")


# ------------------------------------------------------------------------------------ packages
def _package(vendor: str) -> str:
    return f"emoji-datasource-{vendor}@{VERSION}"


def _archive(vendor: str) -> str:
    return f"emoji-datasource-{vendor}-{VERSION}.tgz"


def _find_npm(config: PrepareConfig, at_hand: Path, missing: Sequence[str]) -> str:
    names = " and ".join(map(_archive, missing))
    if config.packages:
        commands = " ".join(["npm pack", *map(_package, missing)])
        raise UserError(
            f"packages={config.packages} has no {names}; run `{commands}` there, "
            "or leave packages out."
        )
    if npm := shutil.which("npm"):
        return npm
    raise UserError(
        f"There is no npm here to fetch {names}: install Node.js, or put them into "
        f"{at_hand}, or say packages=FOLDER."
    )


def _fetch(npm: str, vendor: str, folder: Path) -> Path:
    command = [npm, "pack", _package(vendor), "--json", "--loglevel=error", "--fetch-retries=1"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise UserError(
            f"npm could not fetch {_package(vendor)} ({_reason(done)}); try again, or fetch "
            f"{_archive(vendor)} on another machine and say packages=FOLDER."
        )
    return folder / _archive(vendor)


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """What npm says in its JSON, else its last line but for the one that names a log."""
    with suppress(ValueError, KeyError, TypeError):
        return " ".join(str(json.loads(done.stdout)["error"]["summary"]).split())
    lines = [
        line for line in done.stderr.splitlines() if line.strip() and "log of this" not in line
    ]
    return lines[-1] if lines else f"exit code {done.returncode}"


def _read_package(archive: Path, vendor: str) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Entries of emoji.json and {VENDOR_NAME.png: PNG}, in one pass and without unpacking.

    Only plain names pass, so that none leads out of a folder. Raises UserError.
    """
    wanted = re.compile(rf"package/(emoji\.json|img/{vendor}/64/[\w-]+\.png)")
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r|gz") as members:
            for member in members:
                stream = members.extractfile(member) if wanted.fullmatch(member.name) else None
                if stream:
                    contents[member.name] = stream.read()
        listed = json.loads(contents.pop("package/emoji.json"))
    except (OSError, EOFError, KeyError, ValueError, tarfile.TarError, zlib.error) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{archive} is not a whole package {_package(vendor)} ({reason}); fetch it again."
        ) from error
    return listed, {f"{vendor}_{name.rpartition('/')[2]}": png for name, png in contents.items()}


# -------------------------------------------------------------------------------------- layout
def _build(folder: Path, archives: Mapping[str, Path], npm: str) -> None:
    """Lay the data set out aside, check it and put it in its place."""
    place = next(parent for parent in folder.parents if parent.exists())
    aside = place / f"{folder.name}.maskgil-tmp"
    shutil.rmtree(aside, ignore_errors=True)  # what a kill or other pictures have left
    try:
        aside.mkdir()
        with TemporaryDirectory(dir=aside) as fetched:
            at_hand = {
                vendor: archive if archive.is_file() else _fetch(npm, vendor, Path(fetched))
                for vendor, archive in archives.items()
            }
            _lay_out(aside, at_hand)
        if (found := fingerprint(aside)) == FINGERPRINT:
            folder.parent.mkdir(parents=True, exist_ok=True)
            if folder.exists():  # empty; Windows does not rename onto it
                folder.rmdir()
            os.replace(aside, folder)
            return
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(f"Cannot make {folder}: {error}; choose another folder.") from error
        raise
    raise UserError(
        f"The pictures have the hash {found[:16]} instead of {FINGERPRINT[:16]}, so the packages "
        f"are not those of version {VERSION}; fetch them again (what came out is in {aside})."
    )


def _lay_out(folder: Path, archives: Mapping[str, Path]) -> None:
    rows: list[Row] = []
    for vendor, archive in archives.items():
        listed, drawings = _read_package(archive, vendor)
        drawn = [row for row in _rows(listed, vendor) if row.file in drawings]
        for row in tqdm(drawn, desc=vendor, unit="image", disable=None, leave=False):
            class_folder = folder / row.split / row.class_name
            class_folder.mkdir(parents=True, exist_ok=True)
            _on_white(drawings[row.file]).save(class_folder / row.file)
        rows += drawn
    lines = [Row("split", "class", "file", "vendor", "subcategory", "short_name"), *sorted(rows)]
    index = "".join("\t".join(line) + "\n" for line in lines)
    (folder / "index.tsv").write_text(index, "utf-8", newline="\n")
    (folder / "CREDITS.md").write_text(CREDITS.format(version=VERSION), "utf-8")


def _rows(listed: Sequence[dict[str, Any]], vendor: str) -> Iterator[Row]:
    """Every emoji of the vendor and its skin tones, which are on one side of the split."""
    for emoji in listed:
        if emoji["category"] == "Component":  # hair and skin without a face
            continue
        first_byte = hashlib.sha256(emoji["unified"].encode()).digest()[0]
        split = "val" if first_byte % 10 == 0 else "train"
        class_name = re.sub("[^a-z]+", "_", emoji["category"].lower())
        for shown in [emoji, *emoji.get("skin_variations", {}).values()]:
            file = f"{vendor}_{shown['image']}"
            yield Row(split, class_name, file, vendor, emoji["subcategory"], emoji["short_name"])


def _on_white(png: bytes) -> Image.Image:
    """The drawing as RGB, (alpha colour + (255 - alpha) 255) / 255 rounded half up."""
    pixels = np.asarray(Image.open(BytesIO(png), formats=["PNG"]).convert("RGBA"), np.int32)
    colour, alpha = pixels[..., :3], pixels[..., 3:]  # (64, 64, 3), (64, 64, 1)
    return Image.fromarray(((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8))
