"""Files of prompts: plain lines, or those of the benchmarks GenEval and MJHQ-30K.

Each prompt has an id, by which its pictures are named. GenEval (Ghosh et al. 2023) numbers the
lines of its evaluation_metadata.jsonl from 00000 and expects folders of these names; MJHQ-30K (Li
et al. 2024) has one JSON of entries by id, each with a category and a prompt.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from Network.config import UserError


class Prompt(NamedTuple):
    """A text, and the name of its pictures: letters, digits, `_`, `-` and inner dots."""

    id: str
    text: str
    category: str = ""  # of MJHQ-30K: the folder of its pictures
    entry: str = ""  # of GenEval: the line, which its scorer wants beside the pictures


def read_prompts(path: str | Path) -> list[Prompt]:
    """The prompts of a file, in its order; READERS says how, by the end of its name.

    Raises UserError for a file that is missing, in another layout, or without prompts, for an
    empty prompt, and for an id that is there twice or is no name of a file.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"No such file of prompts: {path}.")
    try:
        text = path.read_text("utf-8-sig")
    except ValueError as error:
        raise UserError(f"{path} is not text in UTF-8 ({error}); save it as such.") from error
    read = READERS.get(path.suffix, _read_lines)
    found = read(text, path)
    prompts = [prompt._replace(text=" ".join(prompt.text.split())) for prompt in found]
    if not prompts:
        raise UserError(f"{path} holds no prompt; write one on each line.")
    for prompt in prompts:
        if not prompt.text:
            raise UserError(f"Prompt {prompt.id} of {path} is empty; write or remove it.")
        for key, name in {"id": prompt.id, "category": prompt.category or "none"}.items():
            if not _NAME.fullmatch(name):
                raise UserError(
                    f"{path} has the {key} {name!r}, which cannot name a file; mend it."
                )
    return prompts


_NAME = re.compile(r"[\w-]+(\.[\w-]+)*", re.ASCII)


def _read_lines(text: str, path: Path) -> Iterator[Prompt]:
    """A prompt on each line that is not empty, numbered from 00000."""
    lines = (line for line in text.split("\n") if line.strip())
    for number, line in enumerate(lines):
        yield Prompt(f"{number:05d}", line)


def _read_geneval(text: str, path: Path) -> Iterator[Prompt]:
    for number, line in enumerate(text.rstrip().split("\n")):
        where = f"{path}, line {number + 1}"
        said = _text_of(_parsed(line, where), "prompt", where)
        yield Prompt(f"{number:05d}", said, entry=line.strip())


def _read_mjhq(text: str, path: Path) -> Iterator[Prompt]:
    entries = _parsed(text, str(path))
    if not isinstance(entries, dict):
        raise UserError(f"{path} is no JSON of prompts by id, as MJHQ-30K's is; mend it.")
    for name, entry in entries.items():
        said, category = (_text_of(entry, key, f"{path}, {name}") for key in ("prompt", "category"))
        yield Prompt(name, said, category)


READERS: dict[str, Callable[[str, Path], Iterator[Prompt]]] = {
    ".jsonl": _read_geneval,
    ".json": _read_mjhq,
}


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON ({error}); mend it.") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, where Python would silently keep the last of two equal keys."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return found


def _text_of(entry: Any, key: str, where: str) -> str:
    text = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(text, str):
        raise UserError(f"{where} has no text under {key!r}; mend it.")
    return text
