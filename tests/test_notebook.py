"""The notebook is what its script writes, and every cell of it runs."""

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = runpy.run_path(str(ROOT / "scripts/notebook.py"))
CLONED = ("main.py", "MaskGIL/configs")
TINY = "loop.steps=2 loop.log_every=1 data.num_images=64 data.workers=0 optim.batch=4"


def test_the_file_is_what_the_script_writes():
    assert (ROOT / "demo.ipynb").read_text("utf-8") == SCRIPT["written"]()


def test_it_is_a_notebook():
    made = json.loads(SCRIPT["written"]())
    assert (made["nbformat"], made["nbformat_minor"]) == (4, 5)
    assert {cell["cell_type"] for cell in made["cells"]} == {"markdown", "code"}
    assert len({cell["id"] for cell in made["cells"]}) == len(made["cells"])
    for cell in made["cells"]:
        assert cell["source"]
        assert ("outputs" in cell) == (cell["cell_type"] == "code")


def test_it_names_no_code_but_its_own():
    assert "github.com" not in SCRIPT["written"]()
    (text,) = (text for kind, text in SCRIPT["CELLS"] if kind == "setup")
    assert "git clone --depth 1 {repository}" in text


def test_setting_up_twice_is_setting_up_once(tmp_path, monkeypatch):
    (text,) = (text for kind, text in SCRIPT["CELLS"] if kind == "setup")
    code = re.sub(r"^( *)([!%].*)$", r'\1typed(r"""\2""")', text, flags=re.M)
    lines = []

    def typed(line):
        lines.append(line)
        if line.startswith("!git clone"):
            (tmp_path / "MaskGIL").mkdir()
            (tmp_path / "MaskGIL/pyproject.toml").touch()
        if line.startswith("%cd "):
            monkeypatch.chdir(line.split()[1])

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="Write the address"):
        exec(code, {"typed": typed})
    assert lines == []
    code = code.replace('repository = ""', 'repository = "https://x.org/y.git"')
    for _ in range(2):
        exec(code, {"typed": typed})
    assert [line.split()[0] for line in lines] == ["!git", "%cd", "%pip", "%pip"]


@pytest.mark.slow
def test_every_cell_runs(tmp_path, monkeypatch):
    for name in CLONED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (tmp_path / name).parent.mkdir(exist_ok=True)
        copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    defined = {}
    for kind, text in SCRIPT["CELLS"]:
        if kind != "code":
            continue
        text = text.replace('size = ""', f"size = {TINY!r}")
        for line in text.splitlines():
            if line.startswith("!"):
                typed(line[1:].format(**defined))
        plain = "\n".join(line for line in text.splitlines() if not line.startswith("!"))
        exec(compile(plain, "demo.ipynb", "exec"), defined)
    assert defined["ring"].size == (32, 32)
    for name in ("strip.png", "generator/report.html"):
        assert (tmp_path / "runs/demo" / name).stat().st_size > 0


def typed(command):
    program, *words = shlex.split(command)
    assert program == "python"
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
