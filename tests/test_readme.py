"""README and docs name what exists: commands parse, targets, files and pictures are there."""

import re
import shlex
from pathlib import Path

import pytest

from MaskGIL.__main__ import main
from MaskGIL.command import parse
from MaskGIL.config import load_config
from Metrics.sample_config import SampleConfig
from Network.sizes import SIZES
from Trainer.config import RunConfig

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = {page: page.read_text() for page in (README, *sorted((ROOT / "docs").glob("*.md")))}
TEXT = "\n".join(PAGES.values())
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, flags=re.M | re.S)
LINES = [line.split("  #")[0].strip() for _, block in BLOCKS for line in block.splitlines()]
COMMAND_LINES = [
    part.strip()
    for line in LINES
    for part in line.split("&&")
    if part.strip().startswith(("python ", "torchrun "))
]
SCHEMAS = {"main.py": RunConfig, "FID_sample.py": SampleConfig}


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_every_command_is_understood(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(line)[1:]
    if words[0] == "-m":
        if words[1] == "MaskGIL":
            assert main([*words[2:], "--print-config"]) == 0
        else:
            assert words[1] == "venv"
        return
    program = next(word for word in words if word.endswith(".py"))
    assert (ROOT / program).is_file()
    load(SCHEMAS[program], words[words.index(program) + 1 :])


def load(schema, words):
    path, overrides, _ = parse(schema, words)
    return load_config(schema, path, overrides)


def test_there_are_commands_of_every_program():
    assert {word for line in COMMAND_LINES for word in line.split()} >= {"main.py", "FID_sample.py"}


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    prose = re.sub(r"^```.*?^```", "", TEXT, flags=re.M | re.S)
    code = [*LINES, *re.findall(r"`([^`]+)`", prose)]
    targets = set(re.findall(r"^make ([a-z-]+)", "\n".join(code), flags=re.M))
    assert targets >= {"demo", "test", "smoke"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.M), target


@pytest.mark.parametrize("page", [*PAGES, ROOT / "benchmarks/README.md"])
def test_pictures_and_links_exist(page):
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


def anchors(text):
    """What links to the headings of a page are called."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings}


def test_every_page_is_found_from_the_readme():
    linked = re.findall(r"\]\((docs/[^)#]+)", PAGES[README])
    assert {ROOT / link for link in linked} == PAGES.keys() - {README}


def test_files_of_the_map_exist():
    map_ = PAGES[README].partition("## Map")[2]
    rows = re.findall(r"^\| `([^`]+)` \| (.*) \|$", map_, flags=re.M)
    assert len(rows) >= 6
    for name, what in rows:
        assert (ROOT / name).exists(), name
        for part in re.findall(r"`([\w/]+(?:\.py|/))`", what):
            assert (ROOT / name / part).exists() or (ROOT / part).exists(), (name, part)


def test_the_sentences_of_the_troubleshooting_are_real():
    code = "".join(
        path.read_text() for room in ("Network", "MaskGIL", "Metrics", "Trainer")
        for path in (ROOT / room).rglob("*.py")
    )  # fmt: skip
    table = TEXT.partition("| it says | so |")[2].partition("##")[0]
    sentences = [
        piece
        for line in table.splitlines()[2:]
        for piece in re.findall("`([^`]+)`", line.split(" | ")[0])
    ]
    assert len(sentences) >= 8
    for sentence in sentences:
        assert sentence in code, sentence


def test_the_table_of_sizes_is_that_of_the_code():
    rows = re.findall(r"^\| (\w+) \| (\d+), (\d+), (\d+) \|", TEXT, flags=re.M)
    assert {name: tuple(map(int, numbers)) for name, *numbers in rows} == {
        name: tuple(size) for name, size in SIZES.items() if name != "3B"
    }
