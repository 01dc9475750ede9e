"""`python -m MaskGIL COMMAND`: the small commands around a trained generator."""

import re
import sys
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from MaskGIL.command import LIGHTER, run_command
from MaskGIL.convert import ConvertConfig, convert
from MaskGIL.edit import EditConfig, edit
from MaskGIL.generate import GenerateConfig, generate
from MaskGIL.inspect import InspectConfig, inspect
from MaskGIL.play import PlayConfig, play
from MaskGIL.prepare import PrepareConfig, prepare
from MaskGIL.push import PushConfig, push
from MaskGIL.values import did_you_mean, quote


class Command(NamedTuple):
    """One command. `words` are the keys that bare words at its beginning stand for, in order."""

    job: Callable[..., int | None]
    schema: type[Any]
    about: str
    words: tuple[str, ...] = ()
    lighter: str = LIGHTER


FEWER = "ask for fewer images at once (num_images), for smaller ones, or for two_passes=true"
COMMANDS = {
    "convert": Command(
        convert,
        ConvertConfig,
        "Turn weights or tokens of other projects into ours, or back.",
        ("source", "out"),
    ),
    "edit": Command(
        edit,
        EditConfig,
        "Edit a picture: inpaint, outpaint or vary it; interpolate draws from class to class.",
        ("kind",),
        FEWER,
    ),
    "generate": Command(
        generate, GenerateConfig, "Sample pictures of classes from weights.", lighter=FEWER
    ),
    "inspect": Command(
        inspect, InspectConfig, "Tell what a token cache or a weights folder holds.", ("path",)
    ),
    "play": Command(play, PlayConfig, "Open a page on which weights draw, step by step."),
    "prepare": Command(
        prepare, PrepareConfig, "Fetch a data set and lay it out as a folder.", ("name", "path")
    ),
    "push": Command(
        push,
        PushConfig,
        "Put weights and their card on the Hugging Face hub.",
        ("weights", "repository"),
    ),
}


def main(argv: Sequence[str]) -> int:
    """Run the command that `argv` (without the program's name) begins with; its exit code."""
    name, *words = argv or ["--help"]
    if name in ("--help", "-h"):
        print(_overview())
        return 0
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS) or f" Commands are {', '.join(COMMANDS)}."
        print(f"error: Unknown command {quote(name)}.{hint}", file=sys.stderr)
        return 2
    command = COMMANDS[name]
    bare = takewhile(lambda word: not re.match(r"-|[^/]*=", word), words)
    named = [f"{key}={word}" for key, word in zip(command.words, bare)]
    words = [*named, *words[len(named) :]]
    return run_command(
        command.job,
        command.schema,
        words,
        program=_program(name),
        about=command.about,
        lighter=command.lighter,
    )


def _program(name: str) -> str:
    return " ".join(["python -m MaskGIL", name, *map(str.upper, COMMANDS[name].words)])


def _overview() -> str:
    lines = [f"  {name:10s} {command.about}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "Usage: python -m MaskGIL COMMAND [key=value ...]",
            "",
            *lines,
            "",
            "python -m MaskGIL COMMAND --help lists the keys of a command.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
