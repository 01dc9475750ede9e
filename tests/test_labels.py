"""Labels of a set: exact counts, in an order that follows from the seed."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_weights import save_tiny_weights

from MaskGIL.data.shapes import CLASSES
from MaskGIL.pipeline import Pipeline
from Metrics.labels import choose_labels
from Network.config import UserError


class Labelled:
    """A reference of which only the labels matter."""

    def __init__(self, labels, classes=CLASSES):
        self.labels, self.classes = np.asarray(labels), classes

    def __len__(self):
        return len(self.labels)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    folder = save_tiny_weights(tmp_path_factory.mktemp("run") / "weights")
    return Pipeline.from_pretrained(folder, "cpu", torch.float32)


def test_balanced_counts_are_exact_and_in_mixed_order(pipe):
    labels = choose_labels(pipe, ["balanced"], 16 * 50 + 3, seed=0)
    assert labels.dtype == np.int64
    assert np.bincount(labels).tolist() == [51] * 3 + [50] * 13
    halves = np.bincount(labels[:400], minlength=16)
    assert halves.min() > 10  # sorted by class, half of them would be 0


def test_of_50000_images_each_of_1000_classes_has_exactly_50():
    imagenet = SimpleNamespace(network=SimpleNamespace(config=SimpleNamespace(num_classes=1000)))
    labels = choose_labels(imagenet, ["balanced"], 50_000, seed=0)
    assert np.bincount(labels).tolist() == [50] * 1000
    for block in labels.reshape(10, 5000):  # ADM's inception score is of these
        assert len(np.unique(block)) > 980  # 994 are expected, 1000 (1 - (1 - 1/1000)^5000)


def test_the_order_follows_from_the_seed(pipe):
    first, again, other = (choose_labels(pipe, ["balanced"], 99, s) for s in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(np.sort(first), np.sort(other))


def test_named_classes(pipe):
    labels = choose_labels(pipe, ["red ring", "3"], 7, seed=0)
    assert np.bincount(labels)[[CLASSES.index("red ring"), 3]].tolist() == [4, 3]


def test_proportions_of_the_reference_by_largest_remainder(pipe):
    counts = [5, 3, 1] + [0] * 13  # of 4 images: 2.22, 1.33, 0.44 -> the third gets the last
    data = Labelled(np.repeat(np.arange(16), counts))
    labels = choose_labels(pipe, ["data"], 4, 0, data)
    assert np.bincount(labels, minlength=16).tolist() == [2, 1, 1] + [0] * 13
    assert np.bincount(choose_labels(pipe, ["data"], 90, 0, data)).tolist() == [50, 30, 10]


def test_mistakes(pipe):
    def sentence(classes, data=None):
        with pytest.raises(UserError) as error:
            choose_labels(pipe, classes, 10, 0, data)
        return str(error.value)

    assert sentence(["blue rong"]).startswith("Unknown class 'blue rong'. Did you mean 'blue ")
    assert sentence([]) == "classes is empty; use classes=balanced or name some."
    assert sentence(["data"]).startswith("classes=data takes the shares of the classes from")
    animals = Labelled([0, 1], ["ant", "bee"])
    assert "of the same classes as the weights" in sentence(["data"], animals)
    assert "with labels" in sentence(["data"], Labelled([0, -1]))


def test_without_classes_all_labels_are_null(tmp_path):
    folder = save_tiny_weights(tmp_path / "weights", classes=())
    pipe = Pipeline.from_pretrained(folder, "cpu", torch.float32)
    assert set(choose_labels(pipe, ["balanced"], 5, 0)) == {pipe.network.null_label}
