"""Places for results, looked at before the first expensive line."""

import os
from pathlib import Path

from Network.config import UserError


def output_path(key: str, value: str, suffix: str) -> Path:
    """`value` as the path of a file that can be written. Raises UserError naming `key`."""
    path = Path(value)
    if path.suffix.lower() != suffix:
        raise UserError(f"{key}={value} must end in {suffix}.")
    if path.is_dir():
        raise UserError(
            f"{key}={value} is a folder; name a file in it, {key}={path / 'NAME'}{suffix}."
        )
    check_writable(key, path.absolute().parent)
    return path


def new_folder(key: str, value: str) -> Path:
    """`value` as a folder that is new or empty. Raises UserError naming `key`."""
    folder = Path(value)
    check_writable(key, folder.absolute())
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{key}={value} is not empty; name a new folder.")
    return folder


def check_writable(key: str, folder: Path) -> None:
    """Raise UserError naming `key` unless `folder` exists or can be made, and can be written to."""
    place = next(p for p in (folder, *folder.parents) if os.access(p, os.F_OK))
    if not place.is_dir():
        raise UserError(f"{key} lies in {place}, which is a file; choose another folder.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(
            f"{key} lies in {place}, which you may not write to; choose another folder."
        )
