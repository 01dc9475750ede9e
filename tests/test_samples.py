import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from Metrics import samples as module
from Metrics.samples import BATCH, SampleFile, SampleWriter
from Network.config import UserError

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (10, 6, 4, 3), dtype=np.uint8)
LABELS = np.arange(10) % 3


def write(out, starts=(6, 0, 3, 9), size=3, png=None):
    writer = SampleWriter(out, len(IMAGES), IMAGES.shape[1:3], png)
    writer.check()
    writer.begin()
    for start in starts:
        writer.write(start, torch.from_numpy(IMAGES[start : start + size]).permute(0, 3, 1, 2))
    return writer


def read(file):
    return torch.cat(list(file)).permute(0, 2, 3, 1).numpy()


def test_a_set_is_what_numpy_reads_whatever_the_order_of_writing(tmp_path):
    out = tmp_path / "new/set.npz"
    write(out).finish(LABELS)
    with np.load(out) as arrays:
        assert sorted(arrays) == ["arr_0", "arr_1"]
        assert np.array_equal(arrays["arr_0"], IMAGES)
        assert arrays["arr_0"].dtype == np.uint8
        assert np.array_equal(arrays["arr_1"], LABELS)
    assert [path.name for path in out.parent.iterdir()] == ["set.npz"]
    write(tmp_path / "again.npz", starts=(0, 3, 6, 9)).finish(LABELS)
    assert (tmp_path / "again.npz").read_bytes() == out.read_bytes()


def test_reading_gives_batches_in_order(tmp_path):
    many = RANDOM.integers(0, 256, (BATCH + 5, 2, 2, 3), dtype=np.uint8)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "set.npz", many)
        file = SampleFile(tmp_path / "set.npz")
        assert (len(file), file.size) == (BATCH + 5, (2, 2))
        assert [batch.shape for batch in file] == [(BATCH, 3, 2, 2), (5, 3, 2, 2)]
        assert np.array_equal(read(file), many)
        assert np.array_equal(read(file), many)  # as often as asked
        assert set(file.labels) == {-1}  # unknown


def test_rows_choose(tmp_path):
    many = RANDOM.integers(0, 256, (3 * BATCH, 2, 2, 3), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", many, np.arange(3 * BATCH))
    rows = np.array([1, 5, 2 * BATCH + 7])  # none of the second batch
    file = SampleFile(tmp_path / "set.npz", rows)
    assert np.array_equal(read(file), many[rows])
    assert np.array_equal(file.labels, rows)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"mu": np.zeros(3)}, "arr_0"),
        ({"arr_0": IMAGES.astype(float)}, r"arr_0 is float64 of shape \(10, 6, 4, 3\)"),
        ({"arr_0": IMAGES[..., 0]}, r"arr_0 is uint8 of shape \(10, 6, 4\)"),
        ({"arr_0": IMAGES[:0]}, r"of shape \(0, 6, 4, 3\)"),
        ({"arr_0": IMAGES, "arr_1": LABELS[:3]}, r"arr_1 is int64 of shape \(3,\)"),
    ],
)
def test_other_files_are_refused(tmp_path, arrays, reason):
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(UserError, match=rf"set\.npz is no set of images: .*{reason}"):
        SampleFile(tmp_path / "set.npz")


def test_missing_and_broken_files_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"No such file: .*set\.npz\."):
        SampleFile(tmp_path / "set.npz")
    (tmp_path / "set.npz").write_text("<html>")
    with pytest.raises(UserError, match="is no set of images"):
        SampleFile(tmp_path / "set.npz")


def test_png_files(tmp_path):
    folder = tmp_path / "new/png"
    write(tmp_path / "set.npz", png=folder).finish(LABELS)
    files = sorted(folder.iterdir())
    assert files[7].name == "000007.png"
    assert np.array_equal(np.stack([np.asarray(Image.open(file)) for file in files]), IMAGES)
    with pytest.raises(UserError, match=r"png=.* is not empty; name a new folder\."):
        SampleWriter(tmp_path / "other.npz", 1, (1, 1), folder).check()


def test_a_full_disk_is_told_before(tmp_path, monkeypatch):
    set_bytes = IMAGES.nbytes
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2 * set_bytes - 1))
    writer = SampleWriter(tmp_path / "new/set.npz", len(IMAGES), IMAGES.shape[1:3])
    with pytest.raises(UserError, match=r"needs 0\.00 GB while it is written, its disk has only"):
        writer.check()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2 * set_bytes))
    writer.check()


def test_a_failure_while_packing_leaves_nothing_under_the_name(tmp_path, monkeypatch):
    def fail(file, *arrays):
        file.write(b"half")
        raise OSError("No space left on device")

    writer = write(tmp_path / "set.npz")
    monkeypatch.setattr(module.np, "savez", fail)
    with pytest.raises(OSError, match="No space left"):
        writer.finish(LABELS)
    assert [path.name for path in tmp_path.iterdir()] == [".set.npz.partial"]
