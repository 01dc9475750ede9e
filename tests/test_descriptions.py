from collections import Counter
from itertools import permutations, product

import pytest

from MaskGIL.data.descriptions import (
    GROUNDS,
    HELD_OUT,
    RELATIONS,
    Description,
    Group,
    read_sentence,
    sentences,
)
from MaskGIL.data.shapes import COLOURS, SHAPES
from Network.config import UserError

KINDS = list(product(COLOURS, SHAPES))
SINGLES = [Description((Group(number, *kind),)) for number in (1, 2, 3) for kind in KINDS]
PAIRS = [
    Description((Group(some, *one), Group(others, *other)), relation)
    for some, others in ((1, 1), (1, 2), (2, 1))
    for one, other in permutations(KINDS, 2)
    for relation in RELATIONS
]
TWO_RED = Description((Group(2, "red", "circle"), Group(1, "blue", "square")), "above", "dark")


def test_sentences():
    assert str(TWO_RED) == "two red circles above a blue square on a dark background"
    assert "on a dark background, a blue square below two red circles" in sentences(TWO_RED)
    single = Description((Group(3, "green", "ring"),), ground="light")
    assert sentences(single) == (
        "three green rings on a light background",
        "a light background with three green rings",
        "on a light background, three green rings",
        "a picture of three green rings, light background",
    )
    assert str(single._replace(ground="")) == "three green rings"


def test_every_sentence_says_one_description_alone_and_is_read_back_to_it():
    said = {}
    for description in SINGLES + PAIRS:
        for ground in ("", *GROUNDS):
            full = description._replace(ground=ground)
            for sentence in sentences(full):
                assert said.setdefault(sentence, full) == full
                assert read_sentence(sentence) == full
    assert len(said) == 48 * (1 + 4 * 4) + 1440 * 2 * (1 + 4 * 4)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("Two RED circles\n are above  one blue square, on a dark background.", TWO_RED),
        ("a blue square lies below two red circles; dark background", TWO_RED),
        (
            "a red ring to the left of a blue ring",
            Description((Group(1, "red", "ring"), Group(1, "blue", "ring")), "left of"),
        ),
        ("draw a yellow triangle for me", Description((Group(1, "yellow", "triangle"),))),
    ],
)
def test_other_words_around_it_are_free(text, meant):
    assert read_sentence(text) == meant


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "a photo of a dog",
            "names 0 groups of shapes; name one or two, such as 'two red circles'",
        ),
        ("a red ring above a blue ring above a red square", "names 3 groups"),
        ("a red ring beside a blue ring", "put one of above, left of, below, right of between"),
        ("above all a red ring and a blue ring", "does not say how its groups lie"),
    ],
)
def test_what_is_no_scene_is_refused(text, sentence):
    with pytest.raises(UserError, match=sentence):
        read_sentence(text)


def test_held_out_combinations_are_even_and_the_same_for_every_sentence_of_them():
    held = [description for description in PAIRS if description.is_held_out]
    assert abs(len(held) / len(PAIRS) - 1 / HELD_OUT) < 0.03
    kinds = [(d.groups[0].number, d.groups[1].number, d.relation) for d in held]
    assert min(Counter(kinds).values()) > 1440 / HELD_OUT / 6 / 2
    assert len(set(kinds)) == 6
    singles = [d.groups[0] for d in SINGLES if d.is_held_out]
    assert min(Counter(group.number for group in singles)[n] for n in (1, 2, 3)) >= 3
    alone = [group for group in singles if group.number == 1]
    assert sorted(group.colour for group in alone) == sorted(COLOURS)
    assert sorted(group.shape for group in alone) == sorted(SHAPES)
    for description in held[:50]:
        said = sentences(description._replace(ground="dotted"))
        assert all(read_sentence(sentence).is_held_out for sentence in said)
