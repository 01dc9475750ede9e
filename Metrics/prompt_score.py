"""Which attributes of a prompt a picture has, as the oracle reads it: for the embedded scenes.

After GenEval (Ghosh et al. 2023): an attribute is asked of the prompts that name it, a relation
counts only where both of its groups are there, and every rate stands beside that of chance. What
can be reached at all is the score of the prompts' true drawings, through the tokenizer.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np

from MaskGIL.data.descriptions import RELATIONS, Description, Group, read_sentence
from MaskGIL.data.shapes import Object
from Metrics.oracle import read_grounds, read_objects, relation_of

Facts = dict[str, set[Hashable]]
ATTRIBUTES = ("colour", "shape", "count", "relation", "background", "everything")


class Score(NamedTuple):
    """How many prompts ask for an attribute, and which share of the pictures has it.

    `chance` is the mean share over all ways of giving each picture the prompt of another one.
    """

    asked: int
    right: float
    chance: float


def score_prompts(facts: Sequence[Facts], prompts: Sequence[str]) -> dict[str, Score]:
    """The score of each of ATTRIBUTES that at least two prompts ask for.

    Of N pictures what `read_facts` has read, and their N prompts. Colour and shape are those of a
    prompt's single object, in the picture of its largest; count is the number of all objects;
    everything is the groups, their numbers, relation and background at once. Raises UserError for
    a prompt that names no shapes.
    """
    assert len(facts) == len(prompts), (len(facts), len(prompts))
    wanted = [asked(read_sentence(prompt)) for prompt in prompts]
    scores = {}
    for name in ATTRIBUTES:
        pairs = [(want[name], seen[name]) for want, seen in zip(wanted, facts) if name in want]
        if len(pairs) > 1:
            scores[name] = _score(pairs)
    return scores


def asked(description: Description) -> dict[str, Hashable]:
    """What a picture of the description must have, by those of ATTRIBUTES that it names."""
    first, *others = description.groups
    facts: dict[str, Hashable] = {"count": description.num_objects, "everything": description}
    if description.num_objects == 1:
        facts |= {"colour": first.colour, "shape": first.shape}
    for second in others:
        facts["relation"] = (first[1:], description.relation, second[1:])
    if description.ground:
        facts["background"] = description.ground
    return facts


def shows_everything(facts: Sequence[Facts], prompts: Sequence[str]) -> list[bool]:
    """Which of N pictures with these facts have all that their prompts name."""
    wanted = [asked(read_sentence(prompt))["everything"] for prompt in prompts]
    return [want in seen["everything"] for want, seen in zip(wanted, facts, strict=True)]


def read_facts(images: Any) -> list[Facts]:
    """What each picture has, by ATTRIBUTES: every value that would be right.

    images (N, H, W, 3) uint8, an array or a tensor in main memory.
    """
    height, width = np.shape(images)[1:3]
    read = zip(read_objects(images), read_grounds(images))
    return [_facts(objects, ground, height, width) for objects, ground in read]


def _facts(objects: list[Object], ground: str, height: int, width: int) -> Facts:
    kinds: dict[tuple[str, str], list[Object]] = {}
    for item in objects:
        kinds.setdefault((item.colour, item.shape), []).append(item)
    related = {
        (one, relation, other)
        for one, other in permutations(kinds, 2)
        if (relation := relation_of(kinds[one], kinds[other], height, width)) in RELATIONS
    }
    whole = {
        Description((Group(len(kinds[one]), *one), Group(len(kinds[other]), *other)), relation)
        for one, relation, other in related
        if len(kinds) == 2
    }
    if len(kinds) == 1:
        whole = {Description((Group(len(objects), *kind),)) for kind in kinds}
    return {
        "colour": {item.colour for item in objects[:1]},
        "shape": {item.shape for item in objects[:1]},
        "count": {len(objects)},
        "relation": set(related),
        "background": {ground},
        "everything": {scene._replace(ground=said) for scene in whole for said in ("", ground)},
    }


def _score(pairs: list[tuple[Hashable, set[Hashable]]]) -> Score:
    """Of what is asked of each picture and what it has."""
    number = len(pairs)
    right = sum(want in see for want, see in pairs)
    all_wanted = Counter(want for want, _ in pairs)
    matches = sum(all_wanted[value] for _, see in pairs for value in see)  # of all N x N
    return Score(number, right / number, (matches - right) / (number * (number - 1)))
