"""Classes by number or name; those of ImageNet also by WordNet id."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from numbers import Integral

from MaskGIL.imagenet import NUM_CLASSES, imagenet_names, imagenet_synsets, is_imagenet
from Network.config import UserError


def class_index(label: int | str, classes: Sequence[str], num_classes: int) -> int:
    """The number of a class given by its exact name, by number, or by name in other capitals.

    A model of ImageNet takes its names and its WordNet ids, see `_spellings`. Raises UserError for
    what is none of these, suggesting the nearest name, and for what two classes are called.
    """
    if not num_classes:
        raise UserError("This model knows no classes; leave class_labels out.")
    if not isinstance(label, str | Integral) or isinstance(label, bool):
        raise UserError(f"Class {label!r} is neither a number nor a name; name a class.")
    if label in classes:
        return classes.index(str(label))
    if not isinstance(label, str) or re.fullmatch("-?[0-9]+", label):
        number = int(label)
        if not 0 <= number < num_classes:
            raise UserError(
                f"Class {number} does not exist; the model knows 0 to {num_classes - 1}."
            )
        return number
    spellings = _spellings(classes, num_classes)
    if not spellings:
        raise UserError(f"Unknown class {label!r}. The model has numbers, 0 to {num_classes - 1}.")
    if label.lower() not in spellings:
        raise UserError(f"Unknown class {label!r}.{_hint(label, spellings)}")
    (number, _), *others = found = spellings[label.lower()]
    if others:
        choice = " or ".join(f"{number} ({name})" for number, name in found)
        raise UserError(f"{len(found)} classes are called {label!r}; give a number: {choice}.")
    return number


def class_names(classes: Sequence[str], num_classes: int) -> list[str]:
    """What people should read for each class: its name in ImageNet if `classes` are WordNet ids,
    else its own, or `class 3` where it has none.
    """
    named = imagenet_names() if is_imagenet(classes) else classes
    return [*named[:num_classes], *(f"class {number}" for number in range(len(named), num_classes))]


def _spellings(classes: Sequence[str], num_classes: int) -> dict[str, list[tuple[int, str]]]:
    """{name in lower case: [(number, name)]} of the classes.

    If they are ImageNet's, or 1,000 without names, these are ImageNet's names and WordNet ids.
    """
    lists = [classes]
    if is_imagenet(classes) or (not classes and num_classes == NUM_CLASSES):
        lists = [imagenet_names(), classes or imagenet_synsets()]
    spellings: dict[str, list[tuple[int, str]]] = {}
    for names in lists:
        for number, name in enumerate(names):
            spellings.setdefault(name.lower(), []).append((number, name))
    return spellings


def _hint(label: str, spellings: dict[str, list[tuple[int, str]]]) -> str:
    close = get_close_matches(label.lower(), spellings, n=1)
    hint = f" Did you mean {spellings[close[0]][0][1]!r}?" if close else ""
    names = [name for found in spellings.values() for _, name in found]
    return f"{hint} Known: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}."
