"""A file of the internet on this disk: whole and verified, or not there.

What has come is kept beside it as NAME.part, and the next call goes on from there. Hugging Face's
own download begins anew after a kill: its part has a name that belongs to the process.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, NamedTuple
from urllib.error import HTTPError, URLError

from tqdm import tqdm

from MaskGIL.distributed import is_main
from MaskGIL.durable import replace_file, to_json
from MaskGIL.web import ELSEWHERE, Broken, open_url
from Network.config import UserError

try:
    import fcntl
except ImportError:  # Windows: two downloads of one file at once are not kept apart there
    fcntl = None

WAITS = (1.0, 2.0, 4.0)  # seconds before a broken connection is tried again
BLOCK = 1 << 18


class _Offer(NamedTuple):
    """What a server says of its file, as far as it does; kept beside the part."""

    size: int  # in bytes
    sha256: str
    validator: str  # its ETag or date: the rest is sent only if this is still the same


def fetch(
    url: str, path: Path, *, sha256: str = "", size: int = 0, token: str | None = None
) -> Path:
    """Put the file at `url` to `path`; one that is there is left as it is.

    It is verified by `sha256` (the first eight digits or more) and by what the server says: the
    hub tells the hash of large files, others the size. `token` goes to the host of `url` alone.
    Raises UserError for what cannot be had, and if the file is another one.
    """
    assert not sha256 or len(sha256) >= 8
    if path.is_file():
        return path
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _held(part):
            if not path.is_file():  # else another process has fetched it meanwhile
                offer = _download(url, part, size, token)
                _verify(url, part, {sha256, offer.sha256} - {""})
                part.replace(path)
                _facts(part).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}); set TORCH_HOME to a folder "
            "with room that you may write to."
        ) from error
    return path


@contextmanager
def _held(part: Path) -> Iterator[None]:
    """Keep other processes from `part` meanwhile; an empty one is not left behind."""
    lock = _lock(part)
    try:
        yield
    finally:
        if _size(part) == 0:
            part.unlink(missing_ok=True)
        if lock:
            lock.close()


def _lock(part: Path) -> IO[bytes] | None:
    while fcntl:
        file = part.open("ab")
        with suppress(OSError):  # a network disk may know no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):  # else who held it has renamed or removed it
            if os.path.samestat(os.fstat(file.fileno()), part.stat()):
                return file
        file.close()
    return None


# ---------------------------------------------------------------------------------- transfer
def _download(url: str, part: Path, size: int, token: str | None) -> _Offer:
    """Fill `part` up to its end, over as many connections as that takes."""
    kept = _read_facts(part)
    begun = _size(part)
    if kept and begun == kept.size > 0:  # ended between its last byte and its name
        return kept
    for wait in (*WAITS, None):
        try:
            return _receive(url, part, size, token)
        except URLError as error:
            reason = getattr(error, "reason", error)
            if wait is None or _size(part) == begun:
                raise UserError(f"{url} cannot be reached ({reason}); {ELSEWHERE}.") from None
        except Broken as error:
            if wait is None:
                raise UserError(
                    f"{url} broke off {len(WAITS) + 1} times ({error}); try again, which goes on "
                    f"from there, or {ELSEWHERE}."
                ) from None
        time.sleep(wait)
    raise AssertionError


def _receive(url: str, part: Path, size: int, token: str | None) -> _Offer:
    """Append what one connection brings. Raises Broken and URLError when it may be tried again."""
    kept, start, wanted = _read_facts(part), _size(part), {}
    if start and kept and kept.validator:
        wanted = {"Range": f"bytes={start}-", "If-Range": kept.validator}
    try:
        response, said = open_url(url, wanted, token)
    except HTTPError as error:
        if error.code != 416:
            raise
        _clear(part)
        raise Broken("it is shorter than what is here") from None
    with response:
        offer = _offer(response, said, size)
        if response.status != 206:
            _check_offer(url, response, offer, size)
            _clear(part)
            replace_file(_facts(part), to_json(offer._asdict()))
        elif not (kept and _goes_on(response, start, offer, kept)):
            _clear(part)
            raise Broken("the file has changed meanwhile")
        _check_space(part, offer.size - _size(part))
        _append(part, response, offer.size)
    if offer.size and (found := _size(part)) != offer.size:
        raise Broken(f"{found:,} of {offer.size:,} bytes have come")
    return offer


def _append(part: Path, response: HTTPResponse, size: int) -> None:
    with (
        part.open("ab") as file,
        tqdm(
            total=size or None,
            initial=_size(part),
            desc=part.stem,
            unit="B",
            unit_scale=True,
            leave=False,
            disable=None if is_main() else True,
        ) as bar,
    ):
        for block in _blocks(response):
            file.write(block)
            file.flush()  # a kill loses nothing
            bar.update(len(block))
        os.fsync(file.fileno())


def _blocks(response: HTTPResponse) -> Iterator[bytes]:
    try:
        while block := response.read1(BLOCK):
            yield block
    except (OSError, HTTPException) as error:
        raise Broken(f"{type(error).__name__}: {error}") from error


# ------------------------------------------------------------------------------------- offer
def _offer(response: HTTPResponse, said: Mapping[str, str], size: int) -> _Offer:
    """What the answer says of the whole file; `size` is taken where it says none."""
    headers = response.headers
    total = headers.get("Content-Range", "").rpartition("/")[2] or headers["Content-Length"]
    total = total or said.get("X-Linked-Size") or "0"
    named = said.get("X-Linked-Etag", "").strip('"')
    etag = headers["ETag"] or ""
    return _Offer(
        (int(total) if total.isdigit() else 0) or size,
        named if re.fullmatch("[0-9a-f]{64}", named) else "",
        etag if etag and not etag.startswith("W/") else headers["Last-Modified"] or "",
    )


def _goes_on(response: HTTPResponse, start: int, offer: _Offer, kept: _Offer) -> bool:
    """Whether these bytes follow those that were kept; such an answer may leave out its date."""
    same = kept.size in (0, offer.size) and offer.sha256 == kept.sha256
    same &= offer.validator in ("", kept.validator)
    return same and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")


# ------------------------------------------------------------------------------------ checks
def _check_offer(url: str, response: HTTPResponse, offer: _Offer, size: int) -> None:
    if response.headers.get_content_type() == "text/html":
        raise UserError(f"{url} answers with a web page, not with a file; {ELSEWHERE}.")
    if size and offer.size and size != offer.size:
        raise UserError(
            f"{url} has {offer.size:,} bytes, the file that is known has {size:,}; {ELSEWHERE}."
        )
    if not (offer.size or offer.sha256 or response.chunked):
        raise UserError(f"{url} does not say how long its file is; {ELSEWHERE}.")


def _check_space(part: Path, needed: int) -> None:
    if needed > (free := shutil.disk_usage(part.parent).free):
        raise UserError(
            f"{part} needs {needed / 1e6:,.1f} MB more, its disk has only {free / 1e6:,.1f} MB "
            "left; free some, or set TORCH_HOME to a folder on another disk."
        )


def _verify(url: str, part: Path, wanted: set[str]) -> None:
    """Raise UserError and drop the part unless its hash begins as each one that is `wanted`."""
    digest = hashlib.sha256()
    with part.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    found = digest.hexdigest()
    if wrong := [known for known in wanted if not found.startswith(known.lower())]:
        _clear(part)
        raise UserError(
            f"{url} sent another file than expected (its sha256 begins with {found[:8]}, not "
            f"{wrong[0][:8]}), which was removed; try again, or {ELSEWHERE}."
        )


# -------------------------------------------------------------------------------------- part
def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _facts(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_facts(part: Path) -> _Offer | None:
    with suppress(OSError, ValueError, TypeError):  # missing or damaged: begin anew
        return _Offer(**json.loads(_facts(part).read_bytes()))
    return None


def _clear(part: Path) -> None:
    """Empty the part first: facts of another file would vouch for its bytes."""
    part.open("wb").close()
    _facts(part).unlink(missing_ok=True)
