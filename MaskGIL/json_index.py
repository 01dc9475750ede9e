"""The `index.json` of a cache: read, and checked against the form that it must have."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from Network.config import UserError

AGAIN = "delete the folder {} and run the command that wrote it again."


def read_json_index(folder: Path, version: int, what: str) -> dict[str, Any]:
    """What `index.json` of the folder of a cache says; `what` is what a message calls the cache.

    Raises UserError when it is missing, no JSON, or not of this version.
    """
    path = folder / "index.json"
    if not path.exists():
        raise UserError(f"No {what} in {folder}: index.json is missing; write the cache first.")
    try:
        index = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); {AGAIN.format(folder)}") from error
    found = index.get("version") if isinstance(index, dict) else None
    if found != version:
        raise UserError(f"{path} has version {found}, not {version}; {AGAIN.format(folder)}")
    return index


def is_complete(folder: Path, read: Callable[[Path], dict[str, Any]]) -> bool:
    """Whether there is a cache in a folder, whose index `read` reads, to which nothing lacks."""
    return (folder / "index.json").exists() and bool(read(folder)["complete"])


def damaged(folder: Path, key: str) -> UserError:
    """The error of an index that is wrong at `key`."""
    return UserError(f"{folder / 'index.json'} is damaged at {key}; {AGAIN.format(folder)}")


def misfit(value: Any, form: Any, key: str = "") -> str:
    """The first key whose value is missing or not of its form, if there is one.

    A form is a type, or a dict or list of forms.
    """
    if isinstance(form, type):
        return "" if type(value) is form else key
    if type(value) is not type(form):
        return key
    if isinstance(form, list):
        form, value = (dict(enumerate(items)) for items in (form, value))
        if len(form) != len(value):
            return key
    inner = ((value.get(name), kind, f"{key}.{name}".lstrip(".")) for name, kind in form.items())
    return next(filter(None, (misfit(*arguments) for arguments in inner)), "")
