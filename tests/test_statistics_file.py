import json

import numpy as np
import pytest
import torch

from Metrics import statistics_file
from Metrics.inception import NETWORK, OFFICIAL
from Metrics.statistics_file import (
    About,
    StatisticsFile,
    array_name,
    holds_statistics,
    moments_sha256,
    write_statistics,
)
from Network.config import UserError

COUNT, WIDTH = 7, 3
ABOUT = About(
    networks={"shapesnet-1": "ab" * 32, "dinov2-vits14": "cd" * 32},
    name="pictures",
    count=COUNT,
    sha256="ef" * 32,
    size=(16, 24),
    transform="cropped",
    split="train",
    classes=["ant", "bee"],
    unreadable={"train/ant/1.png": "broken"},
    versions={"torch": "1"},
)


class Network:
    """Stands in for a feature network."""

    def __init__(self, name, sha256, width=WIDTH):
        self.name, self.sha256, self.width = name, sha256, width

    def __call__(self, images):
        raise AssertionError


def moments(seed, width=WIDTH):
    random = np.random.default_rng(seed)
    return random.normal(size=width), random.normal(size=(width, width))


def arrays(network, seed, **more):
    mean, covariance = moments(seed)
    found = {"mu": mean, "sigma": covariance, **more}
    return {array_name(network, name): values for name, values in found.items()}


@pytest.fixture
def file(tmp_path):
    features = np.arange(COUNT * WIDTH, dtype=np.float32).reshape(COUNT, WIDTH)
    known = arrays("shapesnet-1", 0, features=features) | arrays("dinov2-vits14", 1)
    labels = {"labels": np.arange(COUNT) % 2}
    write_statistics(tmp_path / "a.npz", ABOUT, labels | known)
    return tmp_path / "a.npz"


@pytest.fixture
def adm(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics_file, "WIDTH", WIDTH)
    mean, covariance = moments(2)
    np.savez(tmp_path / "adm.npz", mu=mean, sigma=covariance)
    return tmp_path / "adm.npz"


def sentence(function, *words):
    with pytest.raises(UserError) as error:
        function(*words)
    return str(error.value)


def test_what_was_written_is_read(file):
    read = StatisticsFile(file)
    assert (read.about, read.name, len(read), read.split) == (ABOUT, str(file), COUNT, "train")
    assert read.labels.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert read.classes == ["ant", "bee"]
    assert holds_statistics(file)
    assert read.has_features
    found = read.of([Network("dinov2-vits14", "cd" * 32), Network("shapesnet-1", "ab" * 32)])
    assert (found.count, found.sha256, found.spatial) == (COUNT, "ef" * 32, None)
    for known, seed in zip(found.statistics, (1, 0)):
        assert known.count == COUNT
        for values, expected in zip((known.mean, known.covariance), moments(seed)):
            assert np.array_equal(values, expected)
    assert [tuple(features.shape) for features in found.features] == [(0, WIDTH), (COUNT, WIDTH)]
    assert torch.equal(found.features[1][2], torch.tensor([6.0, 7, 8]))
    with np.load(file, allow_pickle=False) as archive:
        assert {"shapesnet-1/mu", "dinov2-vits14/sigma", "about"} <= set(archive)


def test_the_same_statistics_give_the_same_bytes_and_nothing_else_is_left(file, tmp_path):
    read = StatisticsFile(file)
    with np.load(file) as archive:
        rest = {name: archive[name] for name in archive if name != "about"}
    write_statistics(tmp_path / "b.npz", read.about, rest)
    assert (tmp_path / "b.npz").read_bytes() == file.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"a.npz", "b.npz"}

    class Full:
        shape = dtype = None

        def __array__(self, *_):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_statistics(tmp_path / "a.npz", ABOUT, {"labels": Full()})
    assert (tmp_path / "b.npz").read_bytes() == file.read_bytes()  # the old one stays whole
    assert {path.name for path in tmp_path.iterdir()} == {"a.npz", "b.npz"}


def test_a_record_tells_what_the_file_tells(file, adm):
    assert StatisticsFile(file).facts() == {
        "name": str(file),
        "sha256": "ef" * 32,
        "count": COUNT,
        "of": "pictures",
        "split": "train",
        "transform": "cropped",
        "image_size": [16, 24],
        "unreadable": {"train/ant/1.png": "broken"},
    }
    facts = StatisticsFile(adm).facts()
    assert facts.pop("statistics_sha256") == moments_sha256(adm)
    told = {"name": str(adm), "unreadable": {}}
    assert facts == {**dict.fromkeys(facts), **told}
    json.dumps(facts, allow_nan=False)


def test_adm_s_file_is_of_the_released_inception_network(adm):
    read = StatisticsFile(adm)
    assert (len(read), len(read.labels), bool(read)) == (0, 0, True)
    assert read.knows(NETWORK, OFFICIAL + "0" * 56)
    assert not read.knows("shapesnet-1", "ab" * 32)
    (found,) = read.of([Network(NETWORK, OFFICIAL)]).statistics
    assert found.count == 0
    assert np.array_equal(found.mean, moments(2)[0])
    read.check_size((256, 256))  # it does not tell
    assert not read.has_features


def test_another_hash_tells_other_moments(adm, tmp_path):
    mean, covariance = moments(2)
    images = np.zeros((2, 4, 4, 3), np.uint8)
    np.savez(tmp_path / "same.npz", arr_0=images, sigma=covariance, mu=mean)
    assert moments_sha256(tmp_path / "same.npz") == moments_sha256(adm)
    np.savez(tmp_path / "other.npz", mu=mean, sigma=covariance + 1)
    assert moments_sha256(tmp_path / "other.npz") != moments_sha256(adm)
    assert not holds_statistics(tmp_path / "same.npz")  # but images


def test_other_weights_of_a_network_are_refused(file):
    read = StatisticsFile(file)
    assert read.knows("shapesnet-1", "ab" * 32)
    assert read.knows("dinov2-vits14", "cdcd")
    assert not read.knows(NETWORK, OFFICIAL)
    assert sentence(read.knows, "dinov2-vitl14", "d5383ea8" * 8) == (
        f"reference={file} has statistics of dinov2-vits14 (sha256 cdcdcdcd), the samples would be "
        "seen by dinov2-vitl14 (sha256 d5383ea8): give the same weights, or make the file again."
    )


def test_another_size_is_refused(file):
    StatisticsFile(file).check_size((16, 24))
    assert sentence(StatisticsFile(file).check_size, (32, 32)) == (
        f"reference={file} has statistics of images of 16x24, the samples have 32x32; make them of "
        "images of that size."
    )


def test_arrays_that_do_not_fit_are_refused(file):
    wide = Network("shapesnet-1", "ab" * 32, width=4)
    assert sentence(StatisticsFile(file).of, [wide]) == (
        f"{file} has mu of shape (3,) and sigma of (3, 3), the features are 4 numbers; make the "
        "file again."
    )


def test_damaged_files_are_told_by_one_sentence(file, tmp_path):
    data = file.read_bytes()
    ending = "): it was cut short or damaged; copy it again."
    for damaged in (data[: len(data) // 2], data[:-1], b""):
        (tmp_path / "cut.npz").write_bytes(damaged)
        assert sentence(StatisticsFile, tmp_path / "cut.npz").endswith(ending)
        assert not holds_statistics(tmp_path / "cut.npz")
    changed = bytearray(data)
    changed[data.index("pictures".encode("utf-32-le"))] ^= 1
    (tmp_path / "changed.npz").write_bytes(changed)
    assert sentence(StatisticsFile, tmp_path / "changed.npz").endswith(ending)  # by its checksum
    assert sentence(StatisticsFile, tmp_path / "no.npz") == f"No such file: {tmp_path}/no.npz."


def test_files_of_another_kind_are_told(file, tmp_path):
    other = tmp_path / "other.npz"

    def told(**arrays):
        np.savez(other, **arrays)
        return sentence(StatisticsFile, other)

    assert told(mu=np.zeros(3), sigma=np.eye(3)) == (
        f"{other} has mu of shape (3,) and sigma of (3, 3), the features are 2048 numbers; make "
        "the file again."
    )
    assert told(values=np.zeros(3)) == f"{other} holds no statistics: it needs mu and sigma."
    assert told(about=np.array("words")).startswith(f"{other} does not tell what it holds (")
    assert told(about=np.array('{"format": 9, "size": [1, 1]}')) == (
        f"{other} is of format 9, this version reads 1; make it again."
    )
    assert told(about=np.array('{"format": 1, "size": [1, 1], "mystery": 1}')).startswith(
        f"{other} does not tell what it holds ("
    )
    assert "is no whole .npz file" in told(about=np.array([{}], dtype=object))  # a pickle
