import os

import pytest

from MaskGIL.output import check_writable, new_folder, output_path
from Network.config import UserError


def test_output_paths(tmp_path):
    assert output_path("out", str(tmp_path / "new/deep/a.PNG"), ".png").name == "a.PNG"
    assert list(tmp_path.iterdir()) == []  # looked only
    with pytest.raises(UserError, match=r"out=a\.jpg must end in \.png\."):
        output_path("out", "a.jpg", ".png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match=r"is a folder; name a file in it"):
        output_path("out", str(tmp_path / "folder.png"), ".png")


def test_unwritable_places(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"png lies in .*file, which is a file"):
        check_writable("png", tmp_path / "file" / "deep")
    # Root may do anything
    monkeypatch.setattr(
        os, "access", lambda path, mode: path.exists() and (mode == os.F_OK or path != tmp_path)
    )
    with pytest.raises(UserError, match=r"out lies in .*, which you may not write to"):
        check_writable("out", tmp_path / "deep")


def test_new_folders(tmp_path):
    assert new_folder("images", str(tmp_path / "a/b")) == tmp_path / "a/b"
    assert new_folder("images", str(tmp_path)) == tmp_path
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match=r"^images=.* is not empty; name a new folder\.$"):
        new_folder("images", str(tmp_path))
