import ctypes
import errno
import os

import pytest
import torch
from safetensors.torch import load_file

from MaskGIL.durable import exchange, is_full, replace_file, save_tensors


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "index.json"
    replace_file(path, b"old")
    replace_file(path, b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["index.json"]

    def power_cut(descriptor):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", power_cut)
    with pytest.raises(OSError, match="no space left"):
        replace_file(path, b"newer")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o007, 0o660), (0o077, 0o600)])
def test_others_may_read_tensors_as_far_as_the_umask_lets_them(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        save_tensors({"a": torch.arange(3)}, tmp_path / "a.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == mode
    assert load_file(tmp_path / "a.safetensors")["a"].tolist() == [0, 1, 2]


def test_two_folders_exchange_their_names(tmp_path):
    if not hasattr(ctypes.CDLL(None), "renameat2"):
        pytest.skip("this system has no renameat2")
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "was").write_text(name)
    assert exchange(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "was").read_text() == "new"
    assert (tmp_path / "new" / "was").read_text() == "old"
    assert not exchange(tmp_path / "new", tmp_path / "missing")


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (OSError(errno.EIO, "Input/output error"), False),
        (ValueError("I/O error: No space left on device (os error 28)"), True),
        (ValueError("no tensor of that name"), False),
    ],
)
def test_a_full_disk_is_known_by_its_number(error, full):
    assert is_full(error) == full
