import subprocess
from pathlib import Path

import pytest

from MaskGIL import checkout
from MaskGIL.checkout import commit

ROOT = Path(__file__).parent.parent


def revision(name):
    command = ["git", "rev-parse", name]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no checkout")
def test_the_commit_is_that_of_the_checkout():
    assert revision(commit().removesuffix("-dirty")) == revision("HEAD")


def test_without_a_checkout_or_git_it_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(checkout, "__file__", str(tmp_path / "checkout.py"))
    assert commit() == "unknown"
    monkeypatch.setenv("PATH", "")
    assert commit() == "unknown"
