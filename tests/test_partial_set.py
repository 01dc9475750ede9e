"""Chunks on disk: whole or not there, of one set, and in the end the file that numpy would make."""

import errno
import hashlib
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from MaskGIL import durable
from MaskGIL.command import Failure
from Metrics.partial_set import PartialSet
from Network.config import UserError

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (10, 6, 4, 3), dtype=np.uint8)
LABELS = np.arange(10) % 3
SET = {"seed": 1, "chunk": 3}


def partial_set(out, png=None):
    return PartialSet(out, len(IMAGES), IMAGES.shape[1:3], png)


def chunk(start, size=3):
    return torch.from_numpy(IMAGES[start : start + size]).permute(0, 3, 1, 2)


def write(out, starts=(6, 0, 3, 9), png=None):
    found = partial_set(out, png)
    found.check()
    found.begin(SET)
    for start in starts:
        found.write(start, chunk(start))
    return found


def test_a_set_has_the_bytes_of_numpy_whatever_the_order_of_writing(tmp_path):
    out = tmp_path / "new/set.npz"
    found = write(out)
    assert found.pack(LABELS) == hashlib.sha256(IMAGES.tobytes()).hexdigest()
    assert not out.exists()
    found.publish()
    assert [path.name for path in out.parent.iterdir()] == ["set.npz"]
    np.savez(tmp_path / "numpy.npz", IMAGES, LABELS)
    assert out.read_bytes() == (tmp_path / "numpy.npz").read_bytes()


def test_chunks_are_read_as_they_were_written_and_others_are_missing(tmp_path):
    found = write(tmp_path / "set.npz", starts=(3, 9))
    for other in (found, partial_set(tmp_path / "set.npz")):  # also by another process
        assert torch.equal(other.read(3), chunk(3))
        assert torch.equal(other.read(9), chunk(9))
        assert other.read(0) is other.read(6) is None
        assert other.num_images_kept == 4


def fail(file, data=b""):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_chunk_whose_writing_failed_is_not_there(tmp_path, monkeypatch):
    def write_half(file, data):
        file.write(data[: len(data) // 2])
        file.flush()
        fail(file)

    found = write(tmp_path / "set.npz", starts=(0,))
    with monkeypatch.context() as broken:
        broken.setattr(durable, "write_durably", write_half)
        with pytest.raises(Failure) as error:
            found.write(3, chunk(3))
    assert str(error.value) == (
        f"The disk is full: make room for out={tmp_path / 'set.npz'}, then give the command again; "
        "the chunks that are there are kept."
    )
    assert found.read(3) is None
    assert len(list(found.folder.iterdir())) == 3
    found.begin(SET)  # clears the half away
    assert sorted(path.name for path in found.folder.iterdir()) == ["000000000.rgb", "set.json"]


def test_chunks_of_another_set_are_refused(tmp_path):
    found = write(tmp_path / "set.npz", png=tmp_path / "png")
    found.check()
    found.check_identity(SET)
    with pytest.raises(UserError) as error:
        found.check_identity({**SET, "seed": 2, "chunk": 4})
    assert str(error.value) == (
        f"out={tmp_path / 'set.npz'} was begun as another set: seed is 1 in {found.folder} and 2 "
        "here (1 more differ); remove that folder, or name another out."
    )
    with pytest.raises(UserError, match="another set: png is .*png in .* and  here; remove"):
        partial_set(tmp_path / "set.npz").check_identity(SET)  # which would leave PNG files out
    (found.folder / "set.json").write_text("{")
    with pytest.raises(UserError, match=r"set\.json is damaged; remove .*set\.npz\.partial\."):
        found.check_identity(SET)
    (found.folder / "set.json").unlink()
    with pytest.raises(UserError, match=r"set\.npz\.partial is in the way of out=.*; remove it\."):
        found.check()


def test_a_file_in_the_way_is_told(tmp_path):
    (tmp_path / "set.npz.partial").touch()
    with pytest.raises(UserError, match=r"set\.npz\.partial is in the way of out="):
        partial_set(tmp_path / "set.npz").check()


def test_png_files(tmp_path):
    folder = tmp_path / "new/png"
    found = write(tmp_path / "set.npz", png=folder)
    files = sorted(folder.iterdir())
    assert files[7].name == "000007.png"
    assert np.array_equal(np.stack([np.asarray(Image.open(file)) for file in files]), IMAGES)
    assert json.loads((found.folder / "set.json").read_text()) == {**SET, "png": str(folder)}
    with pytest.raises(UserError, match=r"png=.* is not empty; name a new folder\."):
        partial_set(tmp_path / "other.npz", folder).check()
    assert torch.equal(found.read(6), chunk(6))
    files[7].unlink()
    assert found.read(6) is None  # to be made anew, and its files with it
    assert torch.equal(found.read(3), chunk(3))


def test_a_full_disk_is_told_before(tmp_path, monkeypatch):
    def free(num_bytes):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=num_bytes))

    found, with_png = (partial_set(tmp_path / "new/set.npz", png) for png in (None, tmp_path / "p"))
    free(2 * IMAGES.nbytes - 1)
    with pytest.raises(UserError, match=r"out=.* needs 0\.00 GB while it is written, its disk has"):
        found.check()
    free(2 * IMAGES.nbytes)
    found.check()
    with pytest.raises(UserError, match=r"png=.* needs 0\.00 GB while it is written"):
        with_png.check()  # on the same disk
    free(3 * IMAGES.nbytes)
    with_png.check()
    found.begin(SET)
    found.write(0, chunk(0))
    free(2 * IMAGES.nbytes - chunk(0).numel())
    found.check()  # what is there already takes no more


def test_a_failure_while_packing_leaves_the_chunks_alone(tmp_path, monkeypatch):
    found = write(tmp_path / "set.npz")
    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(Failure, match="The disk is full"):
        found.pack(LABELS)
    assert [path.name for path in tmp_path.iterdir()] == ["set.npz.partial"]
    assert len(list(found.folder.iterdir())) == 5
