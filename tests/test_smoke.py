"""`make smoke`, command for command: the whole way through at toy size."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def commands(target):
    """The python commands of a target of the Makefile."""
    recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), flags=re.M)
    assert recipe, target
    lines = [line.strip() for line in recipe[1].splitlines()]
    return [line.removeprefix("$(RUN) ") for line in lines if line.startswith("$(RUN) ")]


def test_smoke_takes_the_path_of_the_demo():
    def programs(target):
        return [
            [w for w in line.split() if w.endswith((".py", ".yaml"))] for line in commands(target)
        ]

    assert programs("smoke") == programs("demo")


@pytest.mark.slow
def test_the_whole_way_through(tmp_path):
    for line in commands("smoke"):
        words = shlex.split(line.replace("$(SMOKE)", str(tmp_path)))
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    for name in ("grid.png", "strip.png", "decode.gif", "samples.npz", "samples.json"):
        assert (tmp_path / name).stat().st_size > 0, name
