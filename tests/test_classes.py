import re

import numpy as np
import pytest

from MaskGIL.classes import class_index, class_names
from MaskGIL.imagenet import imagenet_names, imagenet_synsets
from Network.config import UserError

NAMES = ["red circle", "Blue Square", "goldfish", *(f"class {index}" for index in range(7))]


@pytest.mark.parametrize(
    ("label", "index"),
    [(0, 0), (9, 9), ("3", 3), (np.int64(4), 4), ("goldfish", 2),
     ("GoldFish", 2), ("blue square", 1), ("class 6", 9)],
)  # fmt: skip
def test_by_number_or_name(label, index):
    found = class_index(label, NAMES, 10)
    assert found == index
    assert type(found) is int


@pytest.mark.parametrize(
    ("label", "sentence"),
    [
        (10, "Class 10 does not exist; the model knows 0 to 9."),
        ("-1", "Class -1 does not exist; the model knows 0 to 9."),
        (True, "Class True is neither a number nor a name; name a class."),
        (None, "Class None is neither a number nor a name; name a class."),
        (2.5, "Class 2.5 is neither a number nor a name; name a class."),
        (-1, "Class -1 does not exist; the model knows 0 to 9."),
        (
            "goldfsh",
            "Unknown class 'goldfsh'. Did you mean 'goldfish'? Known: red circle, Blue Square, "
            "goldfish, class 0, class 1, class 2, class 3, class 4, ....",
        ),
        (
            "blue sqare",
            "Unknown class 'blue sqare'. Did you mean 'Blue Square'? Known: red circle, "
            "Blue Square, goldfish, class 0, class 1, class 2, class 3, class 4, ....",
        ),
    ],
)
def test_sentences(label, sentence):
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        class_index(label, NAMES, 10)


@pytest.mark.parametrize("label", ["²", "--3", "3.5", ""])
def test_what_looks_like_a_number(label):
    with pytest.raises(
        UserError, match=f"^Unknown class '{re.escape(label)}'. Known: red circle, "
    ):
        class_index(label, NAMES, 10)


@pytest.mark.parametrize("label", [0, "goldfish"])
def test_a_model_without_classes(label):
    with pytest.raises(UserError, match=r"^This model knows no classes; leave class_labels out\.$"):
        class_index(label, [], 0)


def test_a_model_without_names():
    with pytest.raises(UserError, match=r"^Unknown class 'cat'. The model has numbers, 0 to 99\.$"):
        class_index("cat", [], 100)
    assert class_index("7", [], 100) == 7


def test_an_exact_name_comes_first():
    assert class_index("Cat", ["Cat", "cat", "dog"], 3) == 0
    assert class_index("cat", ["Cat", "cat", "dog"], 3) == 1
    numbered = sorted(str(number) for number in range(1, 13))  # 1, 10, 11, 12, 2, ...
    assert numbered[class_index("10", numbered, 12)] == "10"
    assert class_index(10, numbered, 12) == 10


def test_a_name_of_two_classes_is_refused():
    sentence = "2 classes are called 'CAT'; give a number: 0 (Cat) or 2 (cat)."
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        class_index("CAT", ["Cat", "dog", "cat"], 3)


# ----------------------------------------------------------------------------------- ImageNet
@pytest.fixture(params=["WordNet ids", "no names"])
def imagenet(request):
    """The class list of a model that was trained on ImageNet's folders, or of published weights."""
    return list(imagenet_synsets()) if request.param == "WordNet ids" else []


@pytest.mark.parametrize("label", ["goldfish", "GOLDFISH", "n01443537", "N01443537", "1", 1])
def test_a_class_of_imagenet(imagenet, label):
    assert class_index(label, imagenet, 1000) == 1


def test_every_name_and_id_of_imagenet(imagenet):
    for names in (imagenet_names(), imagenet_synsets()):
        for number in range(0, 1000, 20):  # 264 and 474 share a name
            assert class_index(names[number], imagenet, 1000) == number


@pytest.mark.parametrize(
    ("label", "sentence"),
    [
        ("godlfish", "Unknown class 'godlfish'. Did you mean 'goldfish'? Known: tench, goldfish, "),
        ("n01443357", "Unknown class 'n01443357'. Did you mean 'n01443537'? Known: tench, "),
        ("1000", "Class 1000 does not exist; the model knows 0 to 999."),
        (
            "cardigan",
            "2 classes are called 'cardigan'; give a number: 264 (Cardigan) or 474 (cardigan).",
        ),
    ],
)
def test_sentences_of_imagenet(imagenet, label, sentence):
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}"):
        class_index(label, imagenet, 1000)


def test_other_models_know_nothing_of_imagenet():
    for classes in ([], [f"n{number:08}" for number in range(1000)], NAMES):
        with pytest.raises(UserError, match=r"^Unknown class 'tench'\."):
            class_index("tench", classes, len(classes) or 999)


def test_names_for_people():
    assert class_names(imagenet_synsets(), 1000) == list(imagenet_names())
    assert class_names(NAMES, 10) == NAMES
    assert class_names([], 3) == ["class 0", "class 1", "class 2"]
    assert class_names(NAMES, 0) == []  # the data had names, the network is unconditional
