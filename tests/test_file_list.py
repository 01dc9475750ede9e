from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from MaskGIL.data.file_list import Files
from MaskGIL.data.folders import UnreadableImage


def test_rows_follow_the_labels_then_the_names(tmp_path):
    for shade, name in enumerate(("b.png", "a.png", "c.png")):
        Image.new("RGB", (4, 4), (shade, 0, 0)).save(tmp_path / name)
    files = Files(tmp_path, "val", ["b.png", "a.png", "c.png"], np.array([1, 1, 0]), ["x", "y"])
    assert [files.name(row) for row in range(3)] == ["val/x/c.png", "val/y/a.png", "val/y/b.png"]
    assert files.labels.tolist() == [0, 1, 1]
    assert [files.image(row).getpixel((0, 0))[0] for row in range(len(files))] == [2, 1, 0]
    assert files.path(1) == tmp_path / "a.png"


def test_without_classes_names_have_none(tmp_path):
    files = Files(tmp_path, "val", ["in/b.png", "a.png"], np.zeros(2, np.int64), [])
    assert [files.name(row) for row in range(2)] == ["val/a.png", "val/in/b.png"]
    assert files.path(1) == Path(tmp_path, "in", "b.png")
    with pytest.raises(UnreadableImage, match=r"^cannot read val/a.png: "):
        files.image(0)
