"""The blocks of README and docs, typed in order in one new folder.

A later one finds what earlier ones made. What takes more than seconds, or the network, has a
stand-in by the tables below. The rest is typed as it stands, in this process.
"""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_readme import BLOCKS, ROOT
from test_readme import SCHEMAS as PROGRAMS
from test_smoke import commands
from tiny_runs import image_folder

from MaskGIL.__main__ import COMMANDS, main
from MaskGIL.command import parse
from MaskGIL.config import load_config
from MaskGIL.public import GENERATORS
from Trainer.tokens import cache_folder

CLONED = ("main.py", "FID_sample.py", "MaskGIL/configs")
SET_UP = ("python -m venv ", ". .venv/bin/activate", "pip install ")  # is there already
SCHEMAS = {**PROGRAMS, "generate": COMMANDS["generate"].schema}
TINY = {  # appended: a few steps of small networks, a few images
    "main.py": "device=cpu loop.steps=2 loop.log_every=1 loop.accumulation=1 loop.compile=false "
    "optim.batch=4 data.num_images=64 data.workers=0 "
    "network.size= network.depth=1 network.width=32 network.heads=2 network.codebook_size=64 "
    "tokenizer.width=4 tokenizer.groups=4 tokenizer.latent_width=8 tokenizer.codebook_size=64 "
    "reconstruction.perceptual=0",
    "FID_sample.py": "device=cpu num_images=36 inception=none",
    "generate": "device=cpu",
}
DRAWN = "shapes:64"  # for any other number of drawn images
SHOWN = ("play",)  # commands that do not end: their dry run
CLASSIFIER_STEPS = 20  # of classifier=true, for its 1,000
# For a data set a folder of random pictures that is called as its placeholder, with these classes:
# FOLDER instead of what `prepare` would fetch, IMAGENET from the beginning
EMOJI64 = (
    *("activities", "animals_nature", "flags", "food_drink", "objects", "people_body"),
    *("smileys_emotion", "symbols", "travel_places"),
)
IMAGENET = ("n01440764", "n01443537", "n01484850")
REFERENCE = "VIRTUAL_imagenet256_labeled.npz"  # of ADM
SMALLER = {  # what a word asks for besides
    "data.path=IMAGENET": [f"network.num_classes={len(IMAGENET)}"],
    "MaskGIL/configs/emoji64/lfq4096.yaml": ["tokenizer.code_width=6", "tokenizer.latent_width=6"],
    "MaskGIL/configs/demo/sweep.yaml": ["sweep=num_steps=1 2,plan=hybrid num_ar=3 num_steps=2"],
}


@pytest.fixture
def reader(tmp_path, monkeypatch, capsys):
    """Somebody who types into a folder that has nothing but the files of a clone."""
    for name in CLONED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    image_folder(tmp_path / "IMAGENET", IMAGENET, train=4, val=2)
    image_folder(tmp_path / "OWN")
    images = np.random.default_rng(0).integers(256, size=(9, 256, 256, 3), dtype=np.uint8)
    np.savez(tmp_path / REFERENCE, images)
    monkeypatch.setattr("Metrics.classifier.STEPS", CLASSIFIER_STEPS)
    monkeypatch.chdir(tmp_path)
    return Reader(monkeypatch, capsys)


def test_every_block_in_order(reader):
    for language, block in BLOCKS:
        reader.read(language, block)
    check_files(f"runs/demo/{name}" for name in ("grid.png", "strip.png", "decode.gif"))


def test_torchrun_a_placeholder_and_a_dry_run(reader):
    command = "torchrun --nproc_per_node=8 main.py MaskGIL/configs/demo/tokenizer.yaml \\\n"
    words = "data.source=folder data.path=IMAGENET out_dir=new --dry-run   # tells what it takes\n"
    reader.read("", command + words)
    assert "2 of 4 images" in reader.printed
    assert not Path("new").exists()


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        ("pyhton main.py\n", "nothing has printed: pyhton main.py"),
        ("make test\npyhton main.py\n", "unknown command: pyhton main.py"),
        ("python setup.py\n", "unknown command: python setup.py"),
        ("make nothing\n", "No rule to make target"),
        ("python main.py\n", "out_dir is empty"),
        ("python main.py report=IMAGENET | tail\n", "'|' is neither"),
    ],
)
def test_a_block_that_does_not_hold_is_seen(reader, block, reason):
    with pytest.raises((AssertionError, ValueError), match=re.escape(reason)):
        reader.read("", block)


class Reader:
    """Types blocks one after the other; keeps what was printed and what Python has defined."""

    def __init__(self, monkeypatch, capsys):
        self.monkeypatch, self.capsys = monkeypatch, capsys
        self.printed, self.defined = "", {}

    def read(self, language, block):
        """Type commands or Python. Any other block must be what the commands have printed."""
        if language in ("bibtex", "text"):  # neither typed nor printed
            return
        text = re.sub(r"\\\n|(^|\s)#.*", "", block, flags=re.M)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if language == "python":
            exec(compile(block, "README.md", "exec"), self.defined)
            check_files(files_named(block))
        elif any(re.match(r"(make|python|torchrun|pip|\.) ", line) for line in lines):
            for command in "&&".join(lines).split("&&"):
                self.type(command.strip())
        else:
            for line in lines:
                row = rf"^ *{re.escape(line.split('  ')[0])}( |$)"  # numbers differ
                assert re.search(row, self.printed, flags=re.M), f"nothing has printed: {line}"
            check_files(files_named(block))

    def type(self, command):
        """Do what a command says, or its stand-in."""
        if command.startswith(SET_UP):
            return
        if command.startswith("make "):
            self.make(command.split()[1:])
            return
        typed = re.fullmatch(r"(?:python|torchrun(?: --\S+)*) (-m MaskGIL )?(\S+)(.*)", command)
        assert typed, f"unknown command: {command}"
        module, program, words = typed[1], typed[2], shlex.split(typed[3])
        assert program in (COMMANDS if module else PROGRAMS), f"unknown command: {command}"
        if program == "prepare":
            image_folder(Path(words[1]), EMOJI64, side=64)
            faces = Path(words[1], "val/smileys_emotion")
            shutil.copy(next(faces.iterdir()), faces / "google_1f60d.png")  # which an edit takes
            return
        if program in COMMANDS and needs_others(program, words):
            command = COMMANDS[program]
            named = [f"{key}={word}" for key, word in zip(command.words, words)]
            parse(command.schema, [*named, *words[len(named) :]])
            return
        words += ["--dry-run"] if program in SHOWN else []
        is_study = any("/studies/" in word for word in words)  # shown by its dry run
        words, files = (words, []) if program not in TINY or is_study else tiny(program, words)
        code = self.run(program, words)
        told = self.capsys.readouterr()
        assert code == 0, f"{command}\n{told.out}{told.err}"
        self.printed += told.out
        check_files(files)

    def make(self, words):
        """The target is there; the commands of `demo` are typed, as later blocks build on it."""
        shown = subprocess.run(["make", "-n", "-C", ROOT, *words], capture_output=True, text=True)
        assert shown.returncode == 0, shown.stderr
        if words == ["demo"]:
            for command in commands("demo"):
                self.type(f"python {command}")

    def run(self, program, words):
        """The exit code of a program."""
        if program in COMMANDS:
            return main([program, *words])
        self.monkeypatch.setattr(sys, "argv", [program, *words])
        with pytest.raises(SystemExit) as done:
            runpy.run_path(program, run_name="__main__")
        return done.value.code


def needs_others(program, words):
    """Whether a command reads what only other projects have: their weights and tokens."""
    public = {f"weights={name}" for name in GENERATORS}
    return program == "convert" or public & set(words) or words[0].startswith("runs/codes")


def tiny(program, words):
    """The words of a quick run, and the files that it makes."""
    small = TINY[program].split()
    if any(word.startswith("reconstruct=") for word in words):
        small.remove("num_images=36")  # nothing is sampled
    words = [*words, *small]
    words += [each for word, changes in SMALLER.items() if word in words for each in changes]
    path, overrides, flags = parse(SCHEMAS[program], words)
    config = load_config(SCHEMAS[program], path, overrides)
    drawn = [key for key, value in vars(config).items() if str(value).startswith("shapes:")]
    return [*words, *(f"{key}={DRAWN}" for key in drawn)], [] if flags else MADE[program](config)


def files_named(block):
    return re.findall(r"[\w./-]+\.(?:png|gif|npz)\b", block)


def check_files(names):
    for name in filter(None, names):
        assert Path(name).stat().st_size > 0, name


def made_by_a_job(config):
    if config.report:
        return [f"{config.report}/curves.png"]
    if config.job == "cache":
        return [cache_folder(config, "train") / "index.json"]
    return [f"{config.out_dir}/weights/config.json"]


def made_of_samples(config):
    if config.sweep:
        return [f"{config.out}/{name}" for name in ("sweep.json", "sweep.md", "sweep.png")]
    told = [Path(config.out).with_suffix(".md")] if config.reconstruct else []
    record = Path(config.out).with_suffix(".json")
    return [config.out, record, config.nearest, config.grid, *told]


MADE = {
    "main.py": made_by_a_job,
    "FID_sample.py": made_of_samples,
    "generate": lambda config: [config.out, config.strip, config.gif],
}
