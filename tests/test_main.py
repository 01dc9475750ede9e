"""The programs: `python main.py`, and `python -m MaskGIL`.

The commands of the latter in detail are in test_generate.py, test_inspect.py, test_prepare.py.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_runs import image_folder, records, tokenizer_weights, tree, words

import main as program
from MaskGIL.__main__ import COMMANDS, main
from MaskGIL.command import run_command
from MaskGIL.weights import load_weights
from Trainer.config import RunConfig

ROOT = Path(__file__).parent.parent

# python -m MaskGIL


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
        ("zzz", "Commands are convert, edit, generate, inspect, play, prepare, push."),
        ("weights=runs/b", "Commands are convert, edit, generate, inspect, play, prepare, push."),
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


@pytest.mark.parametrize("keys", [["emoji64", "new/d=1"], ["emoji64", "path=new/d=1"]])
def test_two_bare_words_are_two_keys_in_order(capsys, keys):
    assert main(["prepare", *keys, "--print-config"]) == 0
    assert "name: emoji64\npath: new/d=1\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "stray"),
    [
        (["generate", "grid"], "grid"),
        (["inspect", "a", "b"], "b"),
        (["prepare", "emoji64", "a", "b"], "b"),
        (["prepare", "name=emoji64", "a"], "a"),
    ],
)
def test_a_bare_word_is_a_mistake_elsewhere(capsys, argv, stray):
    assert main(argv) == 2
    assert f"'{stray}' is neither a .yaml file nor key=value nor a flag." in capsys.readouterr().err


def test_python_m_runs_it():
    command = [sys.executable, "-m", "MaskGIL", "inspec"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: Unknown command 'inspec'. Did you mean 'inspect'?\n"


# python main.py


@pytest.fixture
def folder(tmp_path):
    """Weights of a tokenizer, and pictures of two classes."""
    image_folder(tmp_path / "pictures")
    return tokenizer_weights(tmp_path)


@pytest.fixture
def main_py(folder, capsys):
    """Run main.py on a tiny run; returns its exit code, what it printed and what it complained."""

    def main_py(*changes, job="generator"):
        argv = [*words(job, folder), *changes]
        code = run_command(program.main, RunConfig, argv, program="main.py", about="")
        return code, *capsys.readouterr()

    return main_py


def test_the_jobs_of_a_run_one_after_the_other(main_py, folder):
    code, out, err = main_py("loop.steps=2", job="tokenizer")
    assert (code, err) == (0, "")
    assert "\nstep 2/2 100% | loss " in out
    trained = f"tokenizer.weights={folder / 'tokenizer' / 'weights'}"
    code, out, err = main_py("job=cache", trained)
    assert (code, err) == (0, "")
    assert out.startswith("cache      64 images x 1 crop -> 4x4 tokens")
    code, out, err = main_py("loop.steps=2", trained)
    assert (code, err) == (0, "")
    assert "cache   " not in out  # it is there already
    code, out, err = main_py("loop.steps=3", trained)
    assert (code, err) == (0, "")
    assert [record["step"] for record in records(folder / "generator")] == [1, 2, 3]
    assert load_weights(folder / "generator" / "weights").network is not None


def test_a_dry_run_writes_nothing(main_py, folder):
    before = tree(folder)
    code, out, err = main_py("--dry-run")
    assert (code, err) == (0, "")
    assert out.startswith("parameters  ")
    assert tree(folder) == before


def test_the_report_of_a_run(main_py, folder):
    main_py("loop.steps=2", job="tokenizer")
    code, out, err = main_py(f"report={folder / 'tokenizer'}")
    assert (code, err) == (0, "")
    picture = folder / "tokenizer" / "curves.png"
    file = picture.with_name("run.curves.json")
    page = picture.with_name("report.html")
    assert out == f"wrote {picture} {file} {page}\n"
    _, out, _ = main_py(f"compare={folder / 'tokenizer'},{file}")
    assert "are equal\n" in out
    assert Image.open(picture).size[0] > 100


def test_every_key_is_in_the_help(main_py):
    code, out, err = main_py("--help")
    assert (code, err) == (0, "")
    for key in ("data.path", "network.size", "optim.batch", "loop.accumulation", "sampling.top_k"):
        assert f"\n  {key} " in out


# Mistakes: one plain sentence, exit code 2, nothing overwritten

PHOTOS = ("data.source=folder", "data.path=HERE/pictures", "network.num_classes=2")
LAYOUT = "train/CLASS/*.jpg and val/CLASS/*.jpg inside"
MISTAKES = {
    "no data folder": (
        [*PHOTOS, "data.path=HERE/none"],
        f"No such folder: data.path=HERE/none; it must have {LAYOUT}. "
        "HERE holds pictures, weights.",
    ),
    "empty data folder": (
        [*PHOTOS, "data.path=HERE/empty"],
        f"data.path=HERE/empty has no folder train inside; it must have {LAYOUT}. "
        "It holds no folders.",
    ),
    "class folders beside train": (
        [*PHOTOS, "data.path=HERE/pictures/train"],
        f"data.path=HERE/pictures/train has no folder train inside; it must have {LAYOUT}. "
        "It holds cat, dog; use data.path=HERE/pictures.",
    ),
    "no path": (
        [*PHOTOS, "data.path="],
        f"data.source=folder needs data.path=FOLDER with {LAYOUT}.",
    ),
    "number of classes": (
        [*PHOTOS, "network.num_classes=3"],
        "Data has 2 classes, network.num_classes is 3. Use network.num_classes=2 or other data.",
    ),
    "codebook": (
        ["network.codebook_size=64"],
        "The tokenizer has 32 codes, network.codebook_size is 64. Use network.codebook_size=32.",
    ),
    "grid": (
        ["network.grid=8,8"],
        "Images of 32 pixels give 4x4 tokens, network.grid is 8x8. Use network.grid=4,4.",
    ),
    "no tokenizer": (
        ["tokenizer.weights=HERE/wights"],
        "No such weights folder: HERE/wights. HERE holds: pictures, weights. A public one: "
        "tokenizer.name=llamagen-vq16 tokenizer.weights=",
    ),
    "a run instead of its weights": (
        ["tokenizer.weights=HERE"],
        "HERE is no weights folder: it has no config.json. Did you mean HERE/weights?",
    ),
    "a folder of something else as tokenizer": (
        ["tokenizer.weights=HERE/pictures"],
        "HERE/pictures is no weights folder: it has no config.json.",
    ),
    "parts of a batch": (
        ["loop.accumulation=5"],
        "optim.batch=16 is not divisible by 5, the number of ranks (1) times "
        "loop.accumulation (5); nearest: 15, 20.",
    ),
    "out_dir of something else": (
        ["out_dir=HERE/pictures"],
        "out_dir=HERE/pictures is not empty and not one of our runs (it has no config.yaml); "
        "name another folder.",
    ),
    "no out_dir": (
        ["out_dir="],
        "out_dir is empty; name a recipe, such as MaskGIL/configs/demo/generator.yaml, or the "
        "folder of the run, out_dir=runs/NAME.",
    ),
    "unknown key": (
        ["optim.learning_rate=1"],
        "Unknown key 'optim.learning_rate' on the command line. Known there: optim.batch, "
        "optim.lr, optim.warmup, optim.final_lr, optim.beta1, optim.beta2, optim.weight_decay, "
        "optim.clip, optim.ema.",
    ),
    "misspelt key": (
        ["optim.bacth=8"],
        "Unknown key 'optim.bacth' on the command line. Did you mean 'optim.batch'?",
    ),
    "unknown size": (
        ["network.size=Q"],
        "Unknown network.size 'Q'. Known: B, L, XL, XXL, 3B.",
    ),
    "wrong type": (
        ["optim.batch=many"],
        "optim.batch takes a whole number, not 'many' on the command line.",
    ),
    "unknown choice": (
        ["data.crops=flips"],
        "data.crops takes one of center, flip, ten, not 'flips' on the command line. "
        "Did you mean 'flip'?",
    ),
    "out of range": (
        ["optim.batch=0"],
        "optim.batch must be at least 1, not 0.",
    ),
    "unknown device": (
        ["device=gpu"],
        "Unknown device 'gpu'. Known: auto, cuda, mps, cpu.",
    ),
    "no report": (
        ["report=HERE/pictures"],
        "report=HERE/pictures is no run folder: it has no metrics.jsonl.",
    ),
}  # fmt: skip


def complaint(result):
    """The one sentence of a run that a mistake ended."""
    code, _, err = result
    assert code == 2
    assert re.fullmatch(r"error: .+\n", err), err
    return err[len("error: ") : -1]


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_and_overwrites_nothing(main_py, folder, name):
    (folder / "empty").mkdir()
    changes, sentence = MISTAKES[name]
    here = str(folder)
    sentence = sentence.replace("HERE holds pictures", "HERE holds empty, pictures")
    sentence = sentence.replace("HERE holds: pictures", "HERE holds: empty, pictures")
    before = tree(folder)
    found = complaint(main_py(*(word.replace("HERE", here) for word in changes)))
    assert found == sentence.replace("HERE", here)
    assert tree(folder) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_missing_device_is_told(main_py):
    assert complaint(main_py("device=cuda")) == (
        "No cuda device here; use device=cpu (slow) or device=auto."
    )


def test_an_empty_class_is_told(main_py, folder):
    (folder / "pictures" / "train" / "bird").mkdir()
    (folder / "pictures" / "val" / "bird").mkdir()
    found = complaint(main_py(*(word.replace("HERE", str(folder)) for word in PHOTOS)))
    assert found.startswith(f"1 of 3 class folders in {folder}/pictures/train have no image (.jpg,")
    assert found.endswith("): bird; fill or remove them.")


def test_a_missing_config_file_is_told(folder, capsys):
    argv = [f"{folder}/run.yaml"]
    result = run_command(program.main, RunConfig, argv, program="", about=""), *capsys.readouterr()
    assert f"{folder}/run.yaml" in complaint(result)


def test_out_dir_of_another_run_is_told(main_py, folder):
    main_py("loop.steps=1", job="tokenizer")
    before = tree(folder)
    found = complaint(main_py(f"out_dir={folder / 'tokenizer'}"))
    assert re.fullmatch(
        rf"out_dir={folder}/tokenizer holds a run with job=tokenizer, not generator "
        r"\(\d+ more keys differ\); resume it unchanged or name another folder\.",
        found,
    )
    assert tree(folder) == before


@pytest.mark.parametrize("kind", ["a generator", "garbage", "half a file", "a pointer", "nothing"])
def test_wrong_tokenizer_weights_are_told(main_py, folder, kind):
    file = folder / "weights" / "tokenizer.safetensors"
    if kind == "a generator":
        assert main_py("loop.steps=1")[0] == 0
        shutil.copy(folder / "generator" / "weights" / "network.safetensors", file)
    whole = file.read_bytes()
    content, sentence = {
        "a generator": (whole, rf"{file} holds no tokenizer \(nothing named encoder\.\* or "
                        r"decoder\.\*\); give another file\."),
        "garbage": (b"garbage " * 99, rf"{file} is not a whole safetensors file \(.*\)\."),
        "half a file": (whole[:5000], rf"{file} is not a whole safetensors file \(.*\)\."),
        "a pointer": (b"version https://git-lfs.github.com/spec/v1\n",
                      rf"{file} is a Git LFS pointer of 43 bytes; run `git lfs pull`\."),
        "nothing": (b"", rf"{file} is empty; copy or download it again\."),
    }[kind]  # fmt: skip
    file.write_bytes(content)
    before = tree(folder)
    found = complaint(main_py(f"out_dir={folder / 'new'}"))
    assert re.fullmatch(sentence, found), found
    assert tree(folder) == before


@pytest.mark.parametrize("kind", ["cache", "online"])
def test_unreadable_files_are_skipped_and_named(main_py, folder, kind):
    break_files(folder / "pictures")
    photos = [word.replace("HERE", str(folder)) for word in PHOTOS]
    code, _, err = main_py(*photos, "loop.steps=3", "data.max_bad=0.2", f"data.tokens={kind}")
    assert (code, err) == (0, "")
    lines = (folder / "generator" / "bad_files.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in sorted(lines)] == ["train/cat/2.png", "train/dog/0.png"]
    assert "not an image of the formats JPEG" in "".join(lines)


@pytest.mark.parametrize("kind", ["cache", "online"])
@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_unreadable_files_end_the_run(main_py, folder, kind, workers):
    break_files(folder / "pictures")
    photos = [word.replace("HERE", str(folder)) for word in PHOTOS]
    words = [*photos, "data.max_bad=0.01", f"data.tokens={kind}", f"data.workers={workers}"]
    found = complaint(main_py(*words))
    assert re.match(
        r"[12] of 16 images cannot be read \(limit data.max_bad=0.01\); mend or ", found
    )
    assert not (folder / "generator" / "weights").exists()


def break_files(pictures):
    """One file is no picture, one only its first half."""
    (pictures / "train" / "cat" / "2.png").write_text("no picture")
    half = pictures / "train" / "dog" / "0.png"
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])


def test_the_real_program_ends_with_the_exit_code(folder):
    command = [sys.executable, "main.py", *words("generator", folder), "network.num_classes=5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "error: Data has 16 classes, network.num_classes is 5. "
        "Use network.num_classes=16 or other data.\n"
    )
    assert not (folder / "generator").exists()
