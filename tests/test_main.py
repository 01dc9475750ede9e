"""`python -m MaskGIL`: its commands in detail are in test_generate.py and test_inspect.py."""

import subprocess
import sys
from pathlib import Path

import pytest

from MaskGIL.__main__ import COMMANDS, main


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_overview_lists_the_commands(capsys, words):
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Usage: python -m MaskGIL COMMAND [key=value ...]\n")
    assert all(f"\n  {name} " in out and command.about in out for name, command in COMMANDS.items())
    assert err == ""


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("generat", "Did you mean 'generate'?"),
        ("zzz", "Commands are generate, inspect."),
        ("weights=runs/b", "Commands are generate, inspect."),
    ],
)
def test_an_unknown_command_suggests(capsys, word, hint):
    assert main([word]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"error: Unknown command '{word}'. {hint}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(capsys, name):
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Usage: python -m MaskGIL {name} ")
    assert COMMANDS[name].about in out


@pytest.mark.parametrize("word", ["runs/lr=1/weights", "path=runs/lr=1/weights"])
def test_a_bare_word_is_the_key_of_the_command(capsys, word):
    assert main(["inspect", word, "--print-config"]) == 0
    assert "path: runs/lr=1/weights\n" in capsys.readouterr().out


def test_a_bare_word_is_a_mistake_elsewhere(capsys):
    assert main(["generate", "grid"]) == 2
    assert "'grid' is neither a .yaml file nor key=value nor a flag." in capsys.readouterr().err


def test_python_m_runs_it():
    command = [sys.executable, "-m", "MaskGIL", "inspec"]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: Unknown command 'inspec'. Did you mean 'inspect'?\n"
