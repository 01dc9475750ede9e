import multiprocessing
import pickle
import re
import struct
from pathlib import Path

import numpy as np
import pytest

from MaskGIL.config import DataConfig
from MaskGIL.data import images_hash, open_images
from MaskGIL.data.standard import KINDS
from Network.config import UserError

# The digits' numbers and the object classes as the sets' authors list them
CLASSES = {
    "mnist": ["0 - zero", "1 - one", "2 - two"],
    "fashion-mnist": ["T-shirt/top", "Trouser", "Pullover"],
    "cifar10": ["airplane", "automobile", "bird"],
    "stl10": ["airplane", "bird", "car"],
}
SIDES = {"mnist": 28, "fashion-mnist": 28, "cifar10": 32, "stl10": 96}
COUNTS = {"train": 5, "val": 3}
LABELS = {"train": [3, 9, 0, 1, 2], "val": [7, 7, 4]}


def pixels(source, split):
    """What we write and expect: (N, H, W, 3), grey for the digits and the clothes."""
    side, random = SIDES[source], np.random.default_rng(split == "val")
    channels = 1 if "mnist" in source else 3
    drawn = random.integers(0, 256, (COUNTS[split], side, side, channels), dtype=np.uint8)
    return np.broadcast_to(drawn, (*drawn.shape[:3], 3))


def write_mnist(folder, source):
    """Big-endian: a magic number (8 is uint8, then the number of axes), the axes, the bytes."""
    raw = folder / "raw"
    raw.mkdir(parents=True)
    for split, prefix in (("train", "train"), ("val", "t10k")):
        grey = pixels(source, split)[..., 0]
        header = struct.pack(">4i", 0x803, *grey.shape)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + grey.tobytes())
        header = struct.pack(">2i", 0x801, len(grey))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(header + bytes(LABELS[split]))


def write_cifar(folder, source):
    """Pickled dicts; a row has all red, then all green, then all blue pixels."""
    folder.mkdir(parents=True)
    planes = {split: pixels(source, split).transpose(0, 3, 1, 2) for split in COUNTS}
    parts = {f"data_batch_{row + 1}": ("train", slice(row, row + 1)) for row in range(5)}
    for name, (split, rows) in {**parts, "test_batch": ("val", slice(None))}.items():
        rows_of_bytes = planes[split][rows].reshape(-1, 3 * 32 * 32)
        batch = {"data": rows_of_bytes, "labels": LABELS[split][rows]}
        (folder / name).write_bytes(pickle.dumps(batch))
    names = [*CLASSES[source], *"defghij"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))


def write_stl(folder, source):
    """Column by column, labels from 1."""
    folder.mkdir(parents=True)
    for split, name in (("train", "train"), ("val", "test")):
        columns = pixels(source, split).transpose(0, 3, 2, 1)
        (folder / f"{name}_X.bin").write_bytes(columns.tobytes())
        (folder / f"{name}_y.bin").write_bytes(bytes(label + 1 for label in LABELS[split]))
    (folder / "unlabeled_X.bin").write_bytes(b"")
    (folder / "class_names.txt").write_text("\n".join([*CLASSES[source], *"defghij"]) + "\n")


WRITERS = {
    "mnist": write_mnist,
    "fashion-mnist": write_mnist,
    "cifar10": write_cifar,
    "stl10": write_stl,
}


@pytest.fixture
def any_content(monkeypatch):
    """Our files have not the md5 of the real ones: let it do that they are there."""
    for module in ("cifar", "stl10"):
        name = f"torchvision.datasets.{module}.check_integrity"
        monkeypatch.setattr(name, lambda path, md5=None: Path(path).is_file())


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a run must not download")

    for module in ("mnist", "cifar", "stl10"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.download_and_extract_archive", refuse)


@pytest.fixture(params=KINDS)
def config(request, tmp_path, any_content, no_network):
    source = request.param
    WRITERS[source](tmp_path / KINDS[source].folder, source)
    return DataConfig(source=source, path=str(tmp_path))


def test_every_set_is_tested():
    assert list(WRITERS) == list(KINDS)


@pytest.mark.parametrize("split", ["train", "val"])
def test_pictures_and_labels(config, split):
    images = open_images(config, split)
    assert len(images) == COUNTS[split]
    assert images.labels.tolist() == LABELS[split]
    assert images.labels.dtype == np.int64
    assert list(images.classes[:3]) == CLASSES[config.source]
    assert len(images.classes) == 10
    for row, expected in enumerate(pixels(config.source, split)):
        picture = images.image(row)
        assert picture.mode == "RGB"
        np.testing.assert_array_equal(picture, expected)


def test_names_tell_the_splits_apart(config):
    train, val = open_images(config, "train"), open_images(config, "val")
    assert train.name(2) == f"train/{config.source}-00002"
    assert val.name(2) == f"val/{config.source}-00002"
    assert images_hash(train) != images_hash(val)
    assert images_hash(train) == images_hash(open_images(config, "train"))


def test_it_crosses_to_a_worker(config):
    images = open_images(config, "train")
    copy = pickle.loads(pickle.dumps(images))
    np.testing.assert_array_equal(copy.image(1), images.image(1))
    assert images_hash(copy) == images_hash(images)
    if "fork" in multiprocessing.get_all_start_methods():
        with multiprocessing.get_context("fork").Pool(1) as pool:
            (picture,) = pool.map(images.image, [1])
        np.testing.assert_array_equal(picture, images.image(1))


# ---------------------------------------------------------------------------------- sentences
def sentence(config):
    with pytest.raises(UserError) as error:
        open_images(config, "val")
    return str(error.value)


@pytest.mark.parametrize("source", KINDS)
def test_no_path(source):
    assert sentence(DataConfig(source=source)) == (
        f"data.source={source} needs data.path=FOLDER, where torchvision keeps it."
    )


@pytest.mark.parametrize("source", KINDS)
def test_missing_sets_are_not_downloaded(source, tmp_path, no_network):
    text = sentence(DataConfig(source=source, path=str(tmp_path)))
    name = KINDS[source].dataset.__name__
    assert text == (
        f"data.path={tmp_path} has no folder {KINDS[source].folder} inside: name another folder, "
        f"or run python -c \"from torchvision.datasets import {name}; {name}('{tmp_path}', "
        'download=True)" to download it.'
    )
    compile(re.findall('"(.*)"', text)[0], "command", "exec")


@pytest.mark.parametrize("change", [Path.unlink, lambda file: file.write_bytes(b"")])
def test_a_damaged_set(config, tmp_path, change, monkeypatch):
    monkeypatch.undo()  # the md5 counts again
    folder = tmp_path / KINDS[config.source].folder
    damaged = {"cifar10": "test_batch", "stl10": "test_X.bin"}
    change(folder / damaged.get(config.source, "raw/t10k-images-idx3-ubyte"))
    assert sentence(config).startswith(
        f"data.source={config.source} is damaged or not whole in {folder}: delete that folder, "
        'then run python -c "from torchvision.datasets import '
    )
