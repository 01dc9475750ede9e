"""The one command-line language of all entry points, and what becomes of their errors.

`[CONFIG.yaml] [key=value ...] [--help] [--print-config] [--dry-run] [--debug]`: settings are keys
of a configuration schema, see `config.py`; flags say what to do with them.
"""

import os
import re
import sys
import textwrap
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, takewhile
from typing import TypeVar

from MaskGIL.config import Setting, leaves, load_config, sections, to_yaml
from MaskGIL.device import is_out_of_memory
from MaskGIL.values import choices, did_you_mean, quote, show_value
from Network.config import UserError

T = TypeVar("T")

FLAGS = {
    "--help": "print this text",
    "--print-config": "print the resulting configuration as YAML",
    "--dry-run": "check everything and tell what would be done, without doing it",
    "--debug": "show the traceback of a mistake too",
}
PREEMPTED = 143  # 128 + SIGTERM, as a shell says of a process that this signal has ended
LIGHTER = "close other programs, or use a machine with more"  # where memory runs out
_COLUMNS = 100
# Seconds in which torchrun ends this process if another rank has left with an error
_PRECEDENCE = 5.0  # a mistake that rank 0 may have met too
_ECHO = 2.0  # a failure that may only be the connection lost to a rank that has left
_DEFAULT_COLUMNS = 14
_LANGUAGE = (
    "Keys below are written key=value, lists as a,b without brackets. They win over the YAML file, "
    "which may start from another one by the line 'base: other.yaml'."
)


class Failure(Exception):
    """What ends a job without anybody's mistake in it: one plain sentence with the remedy."""


class Preempted(Exception):
    """A job that was asked to end has saved everything; its command goes on with it."""


@dataclass(frozen=True)
class Flags:
    """What a job is asked besides its configuration, and the words that said all of it."""

    dry_run: bool = False
    debug: bool = False
    words: tuple[str, ...] = ()


def run_command(
    job: Callable[[T, Flags], int | None],
    schema: type[T],
    argv: Sequence[str],
    *,
    program: str,
    about: str,
    lighter: str = LIGHTER,
) -> int:
    """Call `job(config, flags)` with what `argv` (without the program's name) asks for.

    Returns the exit code: the job's own (None: 0), 2 for a UserError, 143 for Preempted, 130 for
    Ctrl-C, 1 for a Failure, of which only the sentence is shown, and for any other exception.
    `program` is how the command is written, `about` what it does, `lighter` what to change where
    memory runs out, which is a Failure too. Under torchrun the first to leave speaks, rank 0 before
    any other, and the rest are ended by it meanwhile.
    """
    rank, ranks = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    is_main = rank == "0"
    try:
        path, overrides, flags = parse(schema, argv)
        if "--help" in flags:
            return _show(help_text(schema, program, about), is_main)
        config = load_config(schema, path, overrides)
        if "--print-config" in flags:
            return _show(to_yaml(config), is_main)
        asked = Flags("--dry-run" in flags, "--debug" in flags, tuple(argv))
        return job(config, asked) or 0
    except (UserError, Failure) as error:
        _tell(str(error), rank, "--debug" in argv)
        return 1 if isinstance(error, Failure) else 2
    except Preempted:  # which its log has told
        return PREEMPTED
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if is_out_of_memory(error):
            _tell(f"Out of memory{_asked(error)}: {lighter}.", rank, "--debug" in argv)
            return 1
        time.sleep(0 if ranks == "1" else _ECHO)
        traceback.print_exc()
        return 1


def parse(schema: type, argv: Sequence[str]) -> tuple[str | None, list[str], set[str]]:
    """Return the YAML file, the `key=value` words and the flags; raises UserError for others."""
    path: str | None = None
    overrides: list[str] = []
    flags: set[str] = set()
    for position, word in enumerate(argv):
        if word.startswith("-"):
            flags.add(_flag(schema, word, argv[position + 1 :]))
        elif re.match(r"[^/]*=", word):  # a path such as runs/lr=1/config.yaml does not match
            overrides.append(word)
        elif not word.endswith((".yaml", ".yml")):
            raise UserError(_stray_word(schema, word, argv[:position], argv[position:]))
        elif path is not None:
            raise UserError(f"Two YAML files, {path} and {word}: give one, with a 'base:' line.")
        else:
            path = word
    return path, overrides, flags


@contextmanager
def notes() -> Iterator[None]:
    """Within it a warning is a line of the output, `note`, printed at once."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *rest, **more: print(f"note       {message}")
        yield


def help_text(schema: type, program: str, about: str) -> str:
    """Usage, `about`, then every key with default, sentence and choices, grouped by section."""
    flags = " ".join(f"[{flag}]" for flag in FLAGS)
    usage = textwrap.fill(
        f"Usage: {program} [CONFIG.yaml] [key=value ...] {flags}", _COLUMNS, subsequent_indent="  "
    )
    keys = list(leaves(schema))
    width = max(len(name) for name in [*FLAGS, *(leaf.key for leaf in keys)])
    blocks = [usage, textwrap.fill(about, _COLUMNS), textwrap.fill(_LANGUAGE, _COLUMNS)]
    blocks.append(_table([(flag, "", sentence) for flag, sentence in FLAGS.items()], width))
    titles = {section.key: f"{section.key}: {section.help}" for section in sections(schema)}
    order = ["", *titles]
    keys.sort(key=lambda leaf: order.index(_section(leaf)))  # keeps the order of the fields
    for section, members in groupby(keys, _section):
        rows = [(leaf.key, show_value(leaf.default), _sentence(leaf)) for leaf in members]
        title = textwrap.fill(titles.get(section, "general"), _COLUMNS)
        blocks.append(f"{title}\n{_table(rows, width)}")
    return "\n\n".join(blocks) + "\n"


def _tell(sentence: str, rank: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    time.sleep(0 if rank == "0" else _PRECEDENCE)
    print(f"error{'' if rank == '0' else f' on rank {rank}'}: {sentence}", file=sys.stderr)


def _asked(error: Exception) -> str:
    """What did not fit, as far as PyTorch tells."""
    found = re.search(r"tried to allocate ([\d.]+) (\w+)", str(error), re.IGNORECASE)
    if not found:
        return ""
    size = f"{float(found[1]) / 1e9:,.2f} GB" if found[2] == "bytes" else f"{found[1]} {found[2]}"
    return f", {size} more were asked for"


def _show(text: str, is_main: bool) -> int:
    if is_main:
        print(text, end="")
    return 0


def _section(leaf: Setting) -> str:
    return leaf.key.rpartition(".")[0]


def _sentence(leaf: Setting) -> str:
    known = choices(leaf.type)
    missing = [word for word in known if not re.search(rf"\b{re.escape(word)}\b", leaf.help)]
    if isinstance(leaf.default, bool) or not missing:
        return leaf.help  # the sentence has explained them
    return f"{leaf.help} ({' | '.join(known)})"


def _table(rows: Sequence[tuple[str, str, str]], width: int) -> str:
    """Three aligned columns; a default too long for its column pushes the sentence below it."""
    indent = 2 + width + 2 + _DEFAULT_COLUMNS + 2
    lines: list[str] = []
    for key, default, sentence in rows:
        start = f"  {key:{width}}  {default:{_DEFAULT_COLUMNS}}  "
        if len(start) > indent:
            lines += textwrap.wrap(start, _COLUMNS, subsequent_indent=" " * (4 + width))
            start = " " * indent
        lines += textwrap.wrap(
            sentence, _COLUMNS, initial_indent=start, subsequent_indent=" " * indent
        ) or [start.rstrip()]
    return "\n".join(lines)


def _flag(schema: type, word: str, rest: Sequence[str]) -> str:
    if word in FLAGS:
        return word
    if word == "-h":
        return "--help"
    name, equals, value = word.lstrip("-").partition("=")
    name = name.replace("-", "_")
    keys = [leaf.key for leaf in leaves(schema)]
    called = [key for key in keys if key.endswith(f".{name}")]
    meant = [name] if name in keys else called
    if meant:
        value = value if equals else next(iter(rest), "VALUE")
        written = " or ".join(f"{key}={value}" for key in meant)
        raise UserError(f"Keys have no dashes: write {written} instead of {word}.")
    hint = (
        did_you_mean(word, FLAGS) or f" Flags are {', '.join(FLAGS)}; keys are written key=value."
    )
    raise UserError(f"Unknown flag {quote(word)}.{hint}")


def _stray_word(schema: type, word: str, before: Sequence[str], rest: Sequence[str]) -> str:
    if word in {leaf.key for leaf in leaves(schema)}:
        return f"'{word}' has no value: write {word}=VALUE."
    hint = did_you_mean(f"--{word}", FLAGS)
    if not hint and before and "=" in before[-1]:
        value = takewhile(lambda part: "=" not in part and part[0] != "-", rest)
        hint = f" A value with blanks stands in quotes: {quote(' '.join([before[-1], *value]))}."
    return f"{quote(word)} is neither a .yaml file nor key=value nor a flag.{hint}"
