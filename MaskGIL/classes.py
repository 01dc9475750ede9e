"""Classes by number or name."""

import re
from collections.abc import Sequence
from difflib import get_close_matches

from Network.config import UserError


def class_index(label: int | str, classes: Sequence[str], num_classes: int) -> int:
    """The number of a class given by its exact name, by number, or by name in other capitals.

    Raises UserError for what is neither, suggesting the nearest name.
    """
    if not num_classes:
        raise UserError("This model knows no classes; leave class_labels out.")
    if label in classes:
        return classes.index(str(label))
    if not isinstance(label, str) or re.fullmatch("-?[0-9]+", label):
        number = int(label)
        if not 0 <= number < num_classes:
            raise UserError(
                f"Class {number} does not exist; the model knows 0 to {num_classes - 1}."
            )
        return number
    if not classes:
        raise UserError(f"Unknown class {label!r}. The model has numbers, 0 to {num_classes - 1}.")
    lowered = {name.lower(): index for index, name in enumerate(classes)}
    if label.lower() in lowered:
        return lowered[label.lower()]
    close = get_close_matches(label.lower(), lowered, n=1)
    hint = f" Did you mean {classes[lowered[close[0]]]!r}?" if close else ""
    known = ", ".join(classes[:8]) + (", ..." if len(classes) > 8 else "")
    raise UserError(f"Unknown class {label!r}.{hint} Known: {known}.")
