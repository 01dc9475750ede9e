"""What the images of a command are of: classes, or prompts.

Stands on the pipeline. B images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from MaskGIL.classes import class_names
from MaskGIL.pipeline import Pipeline
from MaskGIL.prompting import Texts, check_kind, read_texts
from MaskGIL.prompts import Prompt, read_prompts
from MaskGIL.values import quote
from Network.config import UserError

CLASSES_SHOWN = 8  # where nobody names any
COLUMNS = 8


class Asked(Protocol):
    """The keys that say what to draw."""

    @property
    def class_labels(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def prompt(self) -> str: ...  # noqa: D102
    @property
    def prompts(self) -> str: ...  # noqa: D102
    @property
    def negative_prompt(self) -> str: ...  # noqa: D102
    @property
    def num_images(self) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class Subjects:
    """What B images are of, class by class or prompt by prompt.

    `condition` and `null` are cut as labels (B,) are; texts are encoded then. `columns` are those
    of a grid of all. Nothing `asks` for anything where all are of no class and of no prompt.
    """

    condition: Tensor | Texts
    told: str  # what people should read
    columns: int
    null: Texts | None = None
    prompts: Sequence[Prompt] = ()
    asks: bool = True

    def __len__(self) -> int:
        return len(self.condition)

    @property
    def each(self) -> int:
        """Images of a prompt, 1 where there are none."""
        return len(self) // len(self.prompts) if self.prompts else 1


def choose_subjects(pipe: Pipeline, asked: Asked) -> Subjects:
    """What is asked for; where nothing is, some classes, or one image of anything.

    Raises UserError for what the weights do not know, for a file that holds no prompts, and for
    fewer images than classes.
    """
    check_kind(
        pipe.network.config,
        asked.class_labels or None,
        prompt=asked.prompt,
        prompts=asked.prompts,
        negative_prompt=asked.negative_prompt,
    )
    if pipe.network.config.caption_width:
        return _of_prompts(pipe, asked)
    labels, columns = choose_labels(pipe, asked)
    asks = not pipe.network.condition.is_null(labels)
    return Subjects(labels, label_names(pipe, labels), columns, asks=asks)


def choose_labels(pipe: Pipeline, asked: Asked) -> tuple[Tensor, int]:
    """Labels (B,) of the images, class by class, and the columns of their grid.

    Raises UserError for an unknown class and for fewer images than classes.
    """
    num_classes, count = pipe.network.config.num_classes, asked.num_images
    if asked.class_labels:
        classes = pipe.labels(asked.class_labels)
    elif num_classes:
        shown = min(CLASSES_SHOWN, num_classes, count or num_classes)
        classes = pipe.labels(np.linspace(0, num_classes - 1, shown).astype(int).tolist())
    else:
        classes, count = pipe.labels(None), count or CLASSES_SHOWN
    count = count or len(classes)
    if count < len(classes):
        raise UserError(
            f"num_images={count} is less than the {len(classes)} classes of class_labels; "
            "raise it or name fewer classes."
        )
    shares = torch.arange(count) % len(classes)  # equal but for one image
    return classes[shares.sort().values], _columns(len(classes), count)


def label_names(pipe: Pipeline, labels: Tensor) -> str:
    """What people should read for labels (B,), neighbours that are alike once."""
    # The null label follows the classes
    names = [*class_names(pipe.classes, pipe.network.config.num_classes), "no class"]
    return ", ".join(names[label] for label in labels.unique_consecutive().tolist())


def _of_prompts(pipe: Pipeline, asked: Asked) -> Subjects:
    (text,), (negative,) = (
        read_texts(key, getattr(asked, key)) for key in ("prompt", "negative_prompt")
    )
    prompts = read_prompts(asked.prompts) if asked.prompts else [Prompt("00000", text)]
    each = asked.num_images or 1
    texts = [prompt.text for prompt in prompts for _ in range(each)]
    others = f" and {len(prompts) - 1} more" if len(prompts) > 1 else ""
    return Subjects(
        Texts(pipe.encode_prompts, texts),
        quote(prompts[0].text) + others if prompts[0].text else "no prompt",
        _columns(len(prompts), len(texts)),
        Texts(pipe.encode_prompts, [negative] * len(texts)) if negative else None,
        prompts,
        asks=bool(negative) or any(texts),
    )


def _columns(kinds: int, count: int) -> int:
    """Columns of a grid of so many images: a row for each of several kinds, if that fits."""
    each = -(-count // kinds)
    return each if kinds > 1 and 1 < each <= 2 * COLUMNS else min(count, COLUMNS)
