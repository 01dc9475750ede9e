import re

import numpy as np
import pytest
import torch

from MaskGIL.classes import class_index
from Network.config import UserError

NAMES = ["red circle", "Blue Square", "goldfish", *(f"class {index}" for index in range(7))]


@pytest.mark.parametrize(
    ("label", "index"),
    [(0, 0), (9, 9), ("3", 3), (np.int64(4), 4), (torch.tensor(5), 5), ("goldfish", 2),
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
    with pytest.raises(
        UserError, match=r"^Unknown class 'cat'. The model has numbers, 0 to 999\.$"
    ):
        class_index("cat", [], 1000)
    assert class_index("7", [], 1000) == 7


def test_an_exact_name_comes_first():
    assert class_index("Cat", ["Cat", "cat", "dog"], 3) == 0
    assert class_index("cat", ["Cat", "cat", "dog"], 3) == 1
    numbered = sorted(str(number) for number in range(1, 13))  # 1, 10, 11, 12, 2, ...
    assert numbered[class_index("10", numbered, 12)] == "10"
    assert class_index(10, numbered, 12) == 10
