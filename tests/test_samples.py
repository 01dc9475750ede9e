"""Sets of images in files: read in pieces, and refused in a sentence that says what they are."""

import hashlib
import io
import zipfile

import numpy as np
import pytest
import torch

from Metrics.samples import BATCH, SampleFile
from Network.config import UserError

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (10, 6, 4, 3), dtype=np.uint8)
LABELS = np.arange(10) % 3


def read(file):
    return torch.cat(list(file)).permute(0, 2, 3, 1).numpy()


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
        assert file.sha256() == hashlib.sha256(many.tobytes()).hexdigest()


def test_rows_choose(tmp_path):
    many = RANDOM.integers(0, 256, (3 * BATCH, 2, 2, 3), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", many, np.arange(3 * BATCH))
    rows = np.array([1, 5, 2 * BATCH + 7])  # none of the second batch
    file = SampleFile(tmp_path / "set.npz", rows)
    assert np.array_equal(read(file), many[rows])
    assert np.array_equal(file.labels, rows)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_pieces_may_leave_others_out(tmp_path, save):
    save(tmp_path / "set.npz", IMAGES, LABELS)
    file = SampleFile(tmp_path / "set.npz")
    pieces = [range(2, 4), range(4, 5), range(8, 12)]
    found = list(file.pieces(pieces))
    assert [len(images) for images in found] == [2, 1, 2]
    expected = IMAGES[[2, 3, 4, 8, 9]]
    assert np.array_equal(torch.cat(found).permute(0, 2, 3, 1).numpy(), expected)
    assert list(file.pieces([])) == []


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"mu": np.zeros(3)}, "There is no item named 'arr_0.npy' in the archive."),
        (
            {"arr_0": IMAGES.astype(np.float32)},
            "its arr_0 is float32 of shape (10, 6, 4, 3), not whole numbers; round them to 0 ... "
            "255 and save them as uint8.",
        ),
        (
            {"arr_0": IMAGES.transpose(0, 3, 1, 2)},
            "its arr_0 is uint8 of shape (10, 3, 6, 4), channels first; transpose it (0, 2, 3, 1).",
        ),
        ({"arr_0": IMAGES[..., 0]}, "its arr_0 is uint8 of shape (10, 6, 4)."),
        ({"arr_0": IMAGES[:0]}, "its arr_0 is uint8 of shape (0, 6, 4, 3)."),
        ({"arr_0": IMAGES, "arr_1": LABELS[:3]}, "its arr_1 is int64 of shape (3,)."),
    ],
)
def test_other_files_are_refused(tmp_path, arrays, reason):
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(UserError) as error:
        SampleFile(tmp_path / "set.npz")
    assert str(error.value) == (
        f"{tmp_path / 'set.npz'} is no set of images, which has arr_0, uint8 (N, H, W, 3): {reason}"
    )


def test_missing_and_broken_files_are_refused(tmp_path):
    file = tmp_path / "set.npz"
    with pytest.raises(UserError, match=r"No such file: .*set\.npz\."):
        SampleFile(file)
    np.savez(file, IMAGES)
    whole = file.read_bytes()
    for part in (b"<html>", whole[: len(whole) // 2], whole[:-1]):
        file.write_bytes(part)
        with pytest.raises(UserError, match=r"is no whole \.npz \(.*\); fetch or make it anew\."):
            SampleFile(file)


def test_an_array_that_is_shorter_than_it_says_is_refused(tmp_path):
    np.save(whole := io.BytesIO(), IMAGES)
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        archive.writestr("arr_0.npy", whole.getvalue()[:-1])
    with pytest.raises(UserError, match=r"\(10, 6, 4, 3\), of which only a part is there\."):
        SampleFile(tmp_path / "set.npz")


@pytest.mark.parametrize("count", [1, 100])  # the first is read whole with its header
def test_changed_bytes_are_told(tmp_path, count):
    np.savez(tmp_path / "set.npz", IMAGES.repeat(count, 0))
    data = bytearray((tmp_path / "set.npz").read_bytes())
    data[500] ^= 1
    (tmp_path / "set.npz").write_bytes(data)
    with pytest.raises(UserError, match=r"set\.npz is no whole \.npz \(Bad CRC-32 .*\); fetch"):
        SampleFile(tmp_path / "set.npz").sha256()
