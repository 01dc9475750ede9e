from pathlib import Path

import numpy as np
import pytest
from tiny_runs import config, tokenizer_weights

from MaskGIL.cache_index import read_index
from MaskGIL.cached_rows import CachedRows, hold_out, open_rows
from MaskGIL.data import open_images
from MaskGIL.data.folders import UnreadableImage
from MaskGIL.data.shapes import CLASSES
from MaskGIL.durable import replace_file, sha256, to_json
from Network.config import UserError
from Trainer.generator_data import write_caches
from Trainer.tokens import cache_folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """The training cache of 64 shapes."""
    run = config("generator", tokenizer_weights(tmp_path_factory.mktemp("cache")))
    write_caches(run)
    return run, cache_folder(run, "train")


def rows_of(num_rows, folder=Path("runs/c/train")):
    labels = np.arange(num_rows) % 2
    return CachedRows(folder, 10 + np.arange(num_rows), labels, ("cat", "dog"), "f00d")


def test_rows_are_the_images_of_the_cache(cache):
    run, folder = cache
    rows, images = open_rows(folder), open_images(run.data, "train")
    assert (len(rows), tuple(rows.classes)) == (64, CLASSES)
    assert rows.labels.tolist() == images.labels.tolist()
    assert (rows.name(0), rows.name(63)) == ("0", "63")
    with pytest.raises(UnreadableImage, match="only its tokens are known"):
        rows.image(3)


def test_rows_without_tokens_are_none(cache, tmp_path):
    _, folder = cache
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    labels = np.fromfile(copy / "labels.bin", "<i4")
    labels[5] = -1
    replace_file(copy / "labels.bin", labels.tobytes())
    index = read_index(copy) | {"labels_sha256": sha256(labels.tobytes()), "skipped": 1}
    replace_file(copy / "index.json", to_json(index))
    rows = open_rows(copy)
    assert rows.rows.tolist() == [*range(5), *range(6, 64)]
    assert rows.labels.tolist() == np.delete(labels, 5).tolist()
    assert rows.sha256 != open_rows(folder).sha256


@pytest.mark.parametrize(
    ("num_rows", "most", "held"), [(64, 4, 4), (64, 2048, 8), (9, 5, 1), (2, 2048, 1)]
)
def test_held_out_rows_are_spread_and_the_rest_is_trained_on(num_rows, most, held):
    whole = rows_of(num_rows)
    rest, out = hold_out(whole, most)
    assert (len(rest), len(out)) == (num_rows - held, held)
    assert sorted([*rest.rows, *out.rows]) == whole.rows.tolist()
    if held > 1:
        assert (out.rows[0], out.rows[-1]) == (whole.rows[0], whole.rows[-1])
        gaps = np.diff(out.rows)
        assert gaps.max() - gaps.min() <= 1
    for part in (rest, out):
        assert part.labels.tolist() == ((part.rows - 10) % 2).tolist()
        assert part.sha256 == "f00d"


def test_a_single_row_cannot_be_held_out(tmp_path):
    with pytest.raises(UserError) as error:
        hold_out(rows_of(1, tmp_path / "train"), 4)
    assert str(error.value) == (
        f"The token cache {tmp_path / 'train'} has 1 rows, too few to hold one out for "
        f"validation; write a cache of validation images to {tmp_path / 'val'}."
    )


def test_other_classes_are_refused():
    rows = rows_of(4)
    rows.check_classes(["cat", "dog"])
    with pytest.raises(UserError, match="another list of classes: cow is None there and 1 here"):
        rows.check_classes(["cat", "cow"])
