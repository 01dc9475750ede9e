import re
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import torch

from MaskGIL import command
from MaskGIL.command import FLAGS, Flags, help_text, notes, parse, run_command
from MaskGIL.config import DataConfig, leaves, load_config
from MaskGIL.sampling import SamplingConfig
from Network.config import UserError, setting
from Trainer.config import RunConfig

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Optim:
    lr: float = setting(1e-4, "step size")
    schedule: Literal["cosine", "constant"] = setting("cosine", "how the step size falls")


@dataclass(frozen=True)
class Train:
    steps: int = setting(100, "number of steps")
    optim: Optim = setting(Optim(), "the optimiser")


@dataclass(frozen=True)
class Run:
    out_dir: str = setting("runs/a-name-longer-than-its-column", "folder of the run")
    names: tuple[str, ...] = setting((), "names")
    train: Train = setting(Train(), "the loop")
    max_images: int | None = setting(None, "most images")
    data: DataConfig = setting(DataConfig(), "the images")
    sampling: SamplingConfig = setting(SamplingConfig(), "the images shown while training")


@pytest.fixture
def run(capsys):
    """Run a command line; returns exit code, what the job got, stdout and stderr."""

    def run(*argv: str, result: int | BaseException | None = None):
        got: list[tuple[Run, Flags]] = []

        def job(config: Run, flags: Flags):
            got.append((config, flags))
            if isinstance(result, BaseException):
                raise result
            return result

        code = run_command(job, Run, argv, program="python main.py", about="Train a generator.")
        return code, got, *capsys.readouterr()

    return run


def test_a_job_gets_its_config_and_flags(run, tmp_path):
    (tmp_path / "b.yaml").write_text("train: {steps: 5, optim: {lr: 3}}\n")
    words = ["names=a,b", str(tmp_path / "b.yaml"), "--dry-run", "train.steps=6"]
    code, [(config, flags)], out, err = run(*words)
    assert (code, out, err) == (0, "", "")
    assert flags == Flags(dry_run=True, debug=False, words=tuple(words))
    assert (config.train.steps, config.train.optim.lr, config.names) == (6, 3.0, ("a", "b"))


def test_exit_codes(run):
    assert run()[0] == 0
    assert run(result=143)[0] == 143
    code, _, out, err = run(result=UserError("data.path is empty: give a folder."))
    assert (code, out, err) == (2, "", "error: data.path is empty: give a folder.\n")
    code, _, out, err = run(result=RuntimeError("boom"))
    assert (code, out) == (1, "")
    assert err.startswith("Traceback")
    assert err.endswith("RuntimeError: boom\n")
    assert run(result=KeyboardInterrupt())[0] == 130
    code, _, _, err = run(result=ValueError("not the user's mistake"))
    assert code == 1
    assert "Traceback" in err


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"),
            "Out of memory, 2.00 GiB more were asked for: close other programs, or use a machine "
            "with more.",
        ),
        (MemoryError(), "Out of memory: close other programs, or use a machine with more."),
        (
            RuntimeError("can't allocate memory: you tried to allocate 4096000000 bytes."),
            "Out of memory, 4.10 GB more were asked for: close other programs, or use a machine "
            "with more.",
        ),
    ],
)
def test_memory_that_runs_out_is_one_sentence(run, error, sentence):
    code, _, out, err = run(result=error)
    assert (code, out, err) == (1, "", f"error: {sentence}\n")
    assert "Traceback" in run("--debug", result=error)[3]


def test_a_program_says_itself_what_is_lighter(capsys):
    def job(config, flags):
        raise MemoryError

    words = {"program": "FID_sample.py", "about": "Score.", "lighter": "give a smaller chunk"}
    assert run_command(job, Run, [], **words) == 1
    assert capsys.readouterr().err == "error: Out of memory: give a smaller chunk.\n"


def test_debug_adds_the_traceback_of_a_mistake(run):
    code, _, _, err = run("--debug", "train.stepz=1")
    assert code == 2
    assert err.startswith("Traceback")
    assert err.endswith("error: Unknown key 'train.stepz' on the command line. "
                        "Did you mean 'train.steps'?\n")  # fmt: skip
    _, [(_, flags)], _, _ = run("--debug")
    assert flags == Flags(dry_run=False, debug=True, words=("--debug",))


def test_other_ranks_let_rank_0_speak_first(run, monkeypatch):
    waited = []
    monkeypatch.setattr(command.time, "sleep", waited.append)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, seconds, where in (("0", 0, ""), ("1", 5, " on rank 1")):
        monkeypatch.setenv("RANK", rank)
        code, _, _, err = run("stepz=1")  # torchrun would end rank 1 while it waits
        assert (code, waited.pop()) == (2, seconds)
        assert err.startswith(f"error{where}: Unknown key 'stepz'")
        for flag in ("--help", "--print-config"):
            assert bool(run(flag)[2]) == (rank == "0")
        assert "boom" in run(result=RuntimeError("boom"))[3]
        assert waited.pop() == 2
    assert not waited


def test_a_key_of_several_sections_is_not_guessed():
    with pytest.raises(UserError) as error:
        parse(RunConfig, ["--workers", "3"])
    assert str(error.value) == (
        "Keys have no dashes: write data.workers=3 or study.workers=3 instead of --workers."
    )


def test_without_the_environment_the_last_line_says_how_to_take_it():
    words = [sys.executable, "-S", ROOT / "main.py", "--help"]
    ended = subprocess.run(words, capture_output=True, text=True)
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert re.search(r"This Python has no \w+: make setup .* \. \.venv/bin/activate", last)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--dryrun"], "Unknown flag '--dryrun'. Did you mean '--dry-run'?"),
        (["-d"], f"Unknown flag '-d'. Flags are {', '.join(FLAGS)}; keys are written key=value."),
        (["--data.path", "X"], "Keys have no dashes: write data.path=X instead of --data.path."),
        (["--data.path=X"], "Keys have no dashes: write data.path=X instead of --data.path=X."),
        (["--data.path"], "Keys have no dashes: write data.path=VALUE instead of --data.path."),
        (["--max-images", "3"], "Keys have no dashes: write max_images=3 instead of --max-images."),
        (["a.yaml", "b.yml"], "Two YAML files, a.yaml and b.yml: give one, with a 'base:' line."),
        (["--steps=3"], "Keys have no dashes: write train.steps=3 instead of --steps=3."),
        (
            ["data.path=my", "new", "pictures", "seed=1"],
            "'new' is neither a .yaml file nor key=value nor a flag. A value with blanks "
            "stands in quotes: 'data.path=my new pictures'.",
        ),
        (["out_dir"], "'out_dir' has no value: write out_dir=VALUE."),
        (
            ["help"],
            "'help' is neither a .yaml file nor key=value nor a flag. Did you mean '--help'?",
        ),
        (["b.json"], "'b.json' is neither a .yaml file nor key=value nor a flag."),
        (
            ["data.max-bad=1"],
            "Unknown key 'data.max-bad' on the command line. Did you mean 'data.max_bad'?",
        ),
        (
            ["train.optim.schedule=cosin"],
            "train.optim.schedule takes one of cosine, constant, not 'cosin' on the command line. "
            "Did you mean 'cosine'?",
        ),
        (["data.balance=1.5"], "data.balance must lie in [0, 1], not 1.5."),
    ],
)
def test_mistakes_are_one_sentence(run, argv, sentence):
    assert run(*argv) == (2, [], "", f"error: {sentence}\n")


def test_a_missing_file_names_its_neighbours(run, tmp_path):
    (tmp_path / "xl.yaml").touch()
    code, _, _, err = run(str(tmp_path / "xll.yaml"))
    assert code == 2
    assert err == f"error: No such file: {tmp_path / 'xll.yaml'}. Did you mean 'xl.yaml'?\n"


def test_parse_tells_paths_from_overrides():
    words = ["runs/lr=1/config.yaml", "data.path=/x/y.yaml", "-h"]
    assert parse(Run, words) == ("runs/lr=1/config.yaml", ["data.path=/x/y.yaml"], {"--help"})


def test_print_config_is_read_back_equal(run, tmp_path):
    code, got, out, err = run("--print-config", "names=a,b", "data.max_bad=1e-7", "out_dir=")
    assert (code, got, err) == (0, [], "")
    (tmp_path / "printed.yaml").write_text(out)
    expected = load_config(Run, None, ["names=a,b", "data.max_bad=1e-7", "out_dir="])
    assert load_config(Run, tmp_path / "printed.yaml", []) == expected


def test_help_shows_every_key_once_with_default_and_choices(run):
    code, got, out, err = run("--help", "train.steps=oops")
    assert (code, got, err) == (0, [], "")
    assert out.startswith("Usage: python main.py [CONFIG.yaml] [key=value ...] ")
    assert "Train a generator." in out
    for leaf in leaves(Run):
        assert len(re.findall(rf"^  {re.escape(leaf.key)} ", out, re.MULTILINE)) == 1
        assert " ".join(leaf.help.split()) in " ".join(out.split())
    for flag, sentence in FLAGS.items():
        assert re.search(rf"^  {flag} +{sentence[:20]}", out, re.MULTILINE)
    assert re.search(r"^  train.steps +100 +number of steps$", out, re.MULTILINE)
    assert re.search(r"^  names +\"\" +names$", out, re.MULTILINE)
    assert re.search(r"^  max_images +null +most images$", out, re.MULTILINE)
    assert "how the step size falls (cosine | constant)" in out
    assert "(center | flip | ten)" not in out  # its sentence explains them


def test_help_is_calm():
    lines = help_text(Run, "python main.py", "Train a generator. " * 10).splitlines()
    assert max(map(len, lines)) <= 100
    assert lines == [line.rstrip() for line in lines]
    headings = [line for line in lines if re.match(r"[a-z.]+(: |$)", line)]
    assert headings == [
        "general",
        "train: the loop",
        "train.optim: the optimiser",
        "data: the images",
        "sampling: the images shown while training",
    ]
    rows = "\n".join(lines)
    starts = {match.end() for match in re.finditer(r"^  data\.\w+ +\S+ +", rows, re.MULTILINE)}
    columns = {end - rows.rfind("\n", 0, end) for end in starts}
    assert len(columns) == 1  # sentences stand below each other


def test_a_warning_is_a_note_where_it_is_asked_for(capsys):
    with notes():
        for _ in range(2):
            warnings.warn("A caption is cut.", stacklevel=1)
        print("images     3")
    with pytest.warns(UserWarning, match="as ever"):
        warnings.warn("as ever", stacklevel=1)
    note = "note       A caption is cut.\n"
    assert capsys.readouterr() == (f"{note}{note}images     3\n", "")
