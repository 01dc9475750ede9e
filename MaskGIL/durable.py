"""Files that are whole or not there: written under another name, flushed to the disk, renamed."""

import ctypes
import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from safetensors.torch import save_file
from torch import Tensor


def sha256(data: bytes) -> str:
    """In hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def to_json(value: Any) -> bytes:
    """For people to read too; the same value gives the same bytes."""
    return json.dumps(value, indent=1).encode()


def write_durably(file: IO[bytes], data: bytes) -> None:
    """Return when the bytes are on the disk."""
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


def replace_file(path: Path, data: bytes) -> None:
    """Write under a temporary name, then rename: the file is old or new, never half."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")  # ranks may do it at once
    with temporary.open("wb") as file:
        write_durably(file, data)
    temporary.replace(path)


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file, not flushed, that others may read as far as the umask lets them.

    safetensors itself makes one for its owner alone.
    """
    path.touch()  # with the mode of any other new file
    mode = path.stat().st_mode
    save_file(dict(tensors), path, metadata)
    path.chmod(mode)


def exchange(first: Path, second: Path) -> bool:
    """Give two files or folders the name of each other at once, where the system can do that.

    Linux's renameat2, which Python does not offer; False where it fails or is not there.
    """
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    at_once, here = 2, -100  # RENAME_EXCHANGE, AT_FDCWD
    return rename(here, os.fsencode(first), here, os.fsencode(second), at_once) == 0


def is_full(error: Exception) -> bool:
    """Whether this is what a full disk, or a quota, answers to writing; safetensors has its own."""
    found = re.search(r"os error (\d+)", str(error))
    number = int(found[1]) if found else error.errno if isinstance(error, OSError) else None
    return number in (errno.ENOSPC, errno.EDQUOT)
