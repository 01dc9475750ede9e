"""A classifier learns what the classes of training images look like, and counts."""

import numpy as np
import pytest
import torch

from Metrics import classifier
from Metrics.classifier import Classifier, check_classes, class_accuracy, train_classifier
from Network.config import UserError


class Images:
    """Stripes: class 0 across, class 1 down, whatever their colours."""

    def __init__(self, count, seed, classes=(0, 1)):
        random = np.random.default_rng(seed)
        self.labels = random.choice(classes, count)
        stripes = random.integers(256, size=(count, 3, 16, 1), dtype=np.uint8)
        pictures = np.broadcast_to(stripes, (count, 3, 16, 16)).copy()
        pictures[self.labels == 1] = pictures[self.labels == 1].transpose(0, 1, 3, 2)
        self.images = torch.from_numpy(pictures)

    def __len__(self):
        return len(self.labels)

    def __iter__(self):
        return iter(self.images.split(64))


@pytest.fixture(scope="module")
def trained():
    with pytest.MonkeyPatch.context() as quick:
        quick.setattr(classifier, "STEPS", 30)
        quick.setattr(classifier, "WIDTH", 8)
        before, told = torch.get_rng_state(), []
        network = train_classifier(Images(200, seed=0), 2, told.append)
        assert told == [1] * 30
        assert torch.equal(torch.get_rng_state(), before)
        again = train_classifier(Images(200, seed=0), 2)
    same = zip(network.state_dict().values(), again.state_dict().values())
    assert all(torch.equal(one, other) for one, other in same)
    return network


def test_it_tells_new_images_apart_whatever_their_size(trained):
    sets = {"new": Images(100, seed=1), "across": Images(50, seed=2, classes=(0,))}
    found = class_accuracy(trained, sets, ["across", "down"])
    assert found["accuracy"]["new"] > 0.95
    assert found["per class"]["across"]["new"] > 0.9
    assert found["per class"]["down"] == {"new": pytest.approx(1, abs=0.1), "across": None}
    assert "64x64" in found["how"]


def test_accuracies_count_the_labels_that_are_known(trained):
    images = Images(100, seed=1)
    right = class_accuracy(trained, {"a": images}, ["across", "down"])["accuracy"]["a"]
    images.labels[:50] = 1 - images.labels[:50]
    half = class_accuracy(trained, {"a": images}, ["across", "down"])["accuracy"]["a"]
    assert half == pytest.approx(right / 2, abs=0.05)
    images.labels[:50] = -1  # unknown: left out
    known = class_accuracy(trained, {"a": images}, ["across", "down"])["accuracy"]["a"]
    assert known == pytest.approx(right, abs=0.05)


def test_every_parameter_learns():
    network = Classifier(3)
    network(torch.rand(4, 3, 64, 64) * 255).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


class Named(Images):
    name = "pictures"

    def __init__(self, classes, labels):
        self.classes, self.labels = classes, np.array(labels, int)


WEIGHTS = ["across", "down", "both"]


@pytest.mark.parametrize("classes", [WEIGHTS, []])
def test_images_of_the_classes_of_the_weights_are_taken(classes):
    check_classes(Named(classes, [0, 2, 2]), WEIGHTS)


@pytest.mark.parametrize(
    ("classes", "labels"),
    [
        (WEIGHTS[::-1], [0, 1]),  # in another order
        (WEIGHTS[:2], [0, 1]),
        (WEIGHTS, [-1, 0, 1]),  # one is unknown
        ([], [0, 3]),
        (WEIGHTS, [1, 1]),  # one class alone
        (WEIGHTS, []),
    ],
)
def test_other_images_are_refused(classes, labels):
    with pytest.raises(UserError) as error:
        check_classes(Named(classes, labels), WEIGHTS)
    assert str(error.value) == (
        "classifier=true needs images with the classes of the weights, which pictures has not; "
        "name folders with CLASS/*, or leave the classifier out."
    )
