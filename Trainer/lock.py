"""One job at a time in a folder: a file that is locked while its process lives."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from MaskGIL.distributed import barrier, is_main
from Network.config import UserError

NAME = "run.lock"


@contextmanager
def only_job(folder: Path, key: str = "out_dir") -> Iterator[None]:
    """Hold the lock of a folder, which is made; it goes with the process, however that ends.

    Rank 0 holds it for all. Raises UserError, naming the `key` of the folder, if another job has
    it; warns where a job of another machine has left it behind, or where the file system has no
    locks.
    """
    made = not folder.exists()
    handle = _locked(folder, key) if is_main() else None
    barrier()
    try:
        yield
    finally:
        if handle is not None:
            (folder / NAME).unlink(missing_ok=True)
            os.close(handle)
            if made and not any(folder.iterdir()):  # a mistake was told before anything was done
                folder.rmdir()


def _locked(folder: Path, key: str) -> int | None:
    """The open file that holds the lock, or None where there are no locks."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / NAME
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        holder = os.read(handle, 1000).decode("utf-8", "replace").strip()
        try:
            # Of POSIX: data workers do not inherit it, so it does not outlive the job in them
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            os.close(handle)
            raise UserError(
                f"{key}={folder} is in use by {holder or 'another job'}; wait until it has ended, "
                f"or name another {key}."
            ) from None
        except OSError as error:
            os.close(handle)
            print(f"warning: {file} cannot be locked ({error}); start no second job in {folder}")
            return None
        if file.exists() and os.fstat(handle).st_ino == file.stat().st_ino:
            break
        os.close(handle)  # the job before has just removed it
    here = socket.gethostname()
    if holder and not holder.endswith(f" on {here}"):
        print(
            f"warning: {file} was left by {holder}: if that still runs, end this job, for the two "
            "would write over each other.",
            flush=True,
        )
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()} on {here}".encode(), 0)
    return handle
