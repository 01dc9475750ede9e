"""Which chunks of a cache are on disk: each rank logs what it has finished, to go on from there.

A line holds the hash of a chunk and begins with a hash of its own: a torn one is no record.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from MaskGIL.durable import sha256

Log = dict[tuple[int, str], list[int]]  # (chunk, sha256) -> its skipped rows


def log_path(folder: Path, rank: int) -> Path:
    """Where a rank keeps its log."""
    return folder / f"chunks-{rank}.jsonl"


def log_line(chunk: int, data: bytes, skipped: Sequence[int] = ()) -> bytes:
    """A line of a log: this chunk holds `data`; its rows `skipped` could not be read."""
    text = json.dumps({"chunk": chunk, "sha256": sha256(data), "skipped": [*skipped]}).encode()
    return b"\n%b %b\n" % (sha256(text).encode(), text)


def read_logs(folder: Path) -> Log:
    """All chunks that any rank has finished."""
    records: Log = {}
    for log in folder.glob("chunks-*.jsonl"):
        for line in log.read_bytes().splitlines():
            digest, _, text = line.partition(b" ")
            if digest == sha256(text).encode() and text:
                record = json.loads(text)
                records[record["chunk"], record["sha256"]] = record["skipped"]
    return records


def finished(logs: Log, hash_of: Callable[[int], str], chunks: range) -> set[int]:
    """The chunks that are in a log and still on disk as they were."""
    logged = {chunk for chunk, _ in logs}
    return {chunk for chunk in chunks if chunk in logged and (chunk, hash_of(chunk)) in logs}


def remove_logs(folder: Path) -> None:
    """Once the index holds every hash, nobody needs them."""
    for log in folder.glob("chunks-*.jsonl"):
        log.unlink()
