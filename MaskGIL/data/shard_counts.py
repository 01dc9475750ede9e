"""Whether all tar files of a split are there and whole, as far as something beside them tells.

Such are names like train-00002-of-00146.tar, the _stats.json of img2dataset, and an index of
WebDataset (wids), which names files and their numbers of samples.
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from MaskGIL.data.members import Members, key_of
from Network.config import UserError
from Network.files import some

_ONE_OF = re.compile(r"(.*?)(\d+)-of-(\d+)\.tar")


def check_counts(tars: Sequence[Path], members: Members) -> None:
    """Raise UserError for a tar file that is missing or holds another number of samples."""
    _check_names(tars)
    keys: list[set[str]] = [set() for _ in tars]  # a sample may have several pictures
    for number, name in zip(members.tars.tolist(), members.names.tolist()):
        keys[number].add(key_of(os.fsdecode(name)))
    counts = {tar: len(found) for tar, found in zip(tars, keys)}
    for folder in sorted({tar.parent for tar in tars}):
        for file in sorted(folder.glob("*.json")):
            for tar, expected in _expected(file, _read(file)).items():
                if expected != counts.get(tar, expected):
                    raise UserError(
                        f"{tar} holds {counts[tar]} samples with pictures, {file.name} says "
                        f"{expected}; download both again."
                    )


def _check_names(tars: Sequence[Path]) -> None:
    found: dict[tuple[str, int], set[int]] = defaultdict(set)
    for tar in tars:
        if match := _ONE_OF.fullmatch(str(tar)):
            found[match[1], int(match[3])].add(int(match[2]))
    for (start, number), numbers in found.items():
        first = 1 if number in numbers else 0  # some count from 1
        if missing := sorted(set(range(first, first + number)) - numbers):
            raise UserError(
                f"The tar files {start}...-of-{number}.tar are not all there; download what "
                f"is missing too, {some(list(map(str, missing)), ', ')}."
            )


def _expected(file: Path, content: Any) -> dict[Path, int]:
    """The number of samples that a file of JSON gives to tar files beside it."""
    if not isinstance(content, dict):
        return {}
    if file.name.endswith("_stats.json") and isinstance(content.get("successes"), int):
        return {file.with_name(file.name.replace("_stats.json", ".tar")): content["successes"]}
    listed = content.get("shardlist")
    if not isinstance(listed, list):
        return {}
    expected = {}
    for shard in filter(lambda each: isinstance(each, dict), listed):
        url, number = str(shard.get("url", "")), shard.get("nsamples")
        if url.startswith("pipe:"):
            raise UserError(f"{file} names the command {url!r}, which is never run; do not use it.")
        tar = file.with_name(url.rpartition("/")[2])
        if not tar.is_file():
            raise UserError(f"{file} names {tar.name}, which is missing beside it; download it.")
        if isinstance(number, int):
            expected[tar] = number
    return expected


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return None  # of something else
