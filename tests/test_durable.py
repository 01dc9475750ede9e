import pytest

from MaskGIL.durable import replace_file


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
