"""What a drawn scene shows, in words and back: "two red rings above a blue square".

A description names one group of equal objects, or two of them and how they lie to each other, and
the background. The same scene has several sentences, and each of them is read back to it.
"""

import hashlib
import re
from typing import NamedTuple

from MaskGIL.data.shapes import COLOURS, SHAPES
from Network.config import UserError

NUMBERS = {"a": 1, "one": 1, "two": 2, "three": 3}
RELATIONS = {"above": "below", "left of": "right of"}  # each with its inverse
GROUNDS = ("dark", "light", "striped", "dotted")
HELD_OUT = 5  # of the combinations of shapes, colours, relation and numbers one in so many
# Of its hash: the first that holds out each colour and each shape once as a single object, and
# three kinds or more of two and of three
SALT = 1222


class Group(NamedTuple):
    """So many objects of one shape in one colour."""

    number: int
    colour: str
    shape: str

    def __str__(self) -> str:
        """E.g. "two red circles"."""
        word = next(word for word, number in NUMBERS.items() if number == self.number)
        return f"{word} {self.colour} {self.shape}{'s' * (self.number > 1)}"


class Description(NamedTuple):
    """One group, or two and the key of RELATIONS that the first has to the second.

    So "below" and "right of" are told of the other group. Empty texts say nothing of it.
    """

    groups: tuple[Group, ...]
    relation: str = ""
    ground: str = ""

    @property
    def num_objects(self) -> int:
        """Of all groups."""
        return sum(group.number for group in self.groups)

    @property
    def is_held_out(self) -> bool:
        """Whether its combination is kept from training; the background does not matter."""
        combination = f"{SALT} {self._replace(ground='')}"
        return hashlib.sha256(combination.encode()).digest()[0] % HELD_OUT == 0

    def __str__(self) -> str:
        """The plainest of its sentences."""
        return sentences(self)[0]


# What stands around the objects
_FRAMES = (
    "{objects} on a {ground} background",
    "a {ground} background with {objects}",
    "on a {ground} background, {objects}",
    "a picture of {objects}, {ground} background",
)


def sentences(description: Description) -> tuple[str, ...]:
    """All sentences that say it: those of the first to the second group, then the inverse ones."""
    first, *others = map(str, description.groups)
    said = [first]
    for second in others:
        inverse = RELATIONS[description.relation]
        said = [f"{first} {description.relation} {second}", f"{second} {inverse} {first}"]
    frames = _FRAMES if description.ground else ("{objects}",)
    return tuple(
        frame.format(objects=objects, ground=description.ground)
        for objects in said
        for frame in frames
    )


_GROUP = re.compile(rf"\b({'|'.join(NUMBERS)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})s?\b")
_GROUND = re.compile(rf"\b({'|'.join(GROUNDS)}) background\b")
_RELATION = re.compile("|".join([*RELATIONS, *RELATIONS.values()]))


def read_sentence(text: str) -> Description:
    """What a prompt asks for, in the words of `sentences`; their order and others are free.

    Raises UserError where it names no group, more than two, or two without a relation.
    """
    text = " ".join(text.lower().split())
    found = list(_GROUP.finditer(text))
    groups = [Group(NUMBERS[match[1]], match[2], match[3]) for match in found]
    if not 1 <= len(groups) <= 2:
        raise UserError(
            f"The prompt {text!r} names {len(groups)} groups of shapes; name one or two, such as "
            f"'{Group(2, 'red', 'circle')}', of {', '.join(COLOURS)} and {', '.join(SHAPES)}."
        )
    ground = _GROUND.search(text)
    ground = ground[1] if ground else ""
    if len(groups) == 1:
        return Description((groups[0],), ground=ground)
    said = _RELATION.search(text, found[0].end(), found[1].start())
    if not said:
        raise UserError(
            f"The prompt {text!r} does not say how its groups lie; put one of "
            f"{', '.join([*RELATIONS, *RELATIONS.values()])} between them."
        )
    if said[0] in RELATIONS:
        return Description((groups[0], groups[1]), said[0], ground)
    inverse = {inverse: relation for relation, inverse in RELATIONS.items()}
    return Description((groups[1], groups[0]), inverse[said[0]], ground)
