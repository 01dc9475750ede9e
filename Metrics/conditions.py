"""What each image of a set is drawn from: the label of a class, or a caption.

Either is a sequence of N conditions that is cut by [start:stop], as chunks are sampled: the
features of 30,000 captions would be 15 GB.
"""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from MaskGIL.config import require_at_least
from MaskGIL.durable import sha256
from MaskGIL.pipeline import Pipeline
from MaskGIL.prompting import Texts
from Metrics.caption_set import CaptionSet, open_caption_set, texts_sha256
from Metrics.labels import Classed, choose_labels
from Metrics.sample_config import SampleConfig
from Network.condition import Captions
from Network.config import UserError


class CaptionRows(Protocol):
    """Captions of N images, which are encoded or read when they are cut."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice, /) -> Captions: ...


Conditions = NDArray[np.int64] | CaptionRows  # labels (N,) or captions


def open_captions(pipe: Pipeline, config: SampleConfig, size: tuple[int, int]) -> CaptionSet | None:
    """The captions that a command names, for images of `size` (H, W); None for those of classes.

    Raises UserError for captions where the weights know none, and for none where they do.
    """
    takes_captions = bool(pipe.network.config.caption_width)
    if config.captions and not takes_captions:
        raise UserError(
            f"captions={config.captions} needs weights that were trained with captions, which "
            f"weights={config.weights} were not; leave it out."
        )
    if not takes_captions:
        return None
    if not config.captions:
        raise UserError(
            f"weights={config.weights} draw images of captions; say which, captions=scenes:1024, "
            "a folder or a file of prompts."
        )
    found = open_caption_set(
        config.captions, config.captions_split, config.num_images, config.seed, size
    )
    require_at_least("num_images", len(found), 2)
    return found


def choose_conditions(
    pipe: Pipeline,
    config: SampleConfig,
    captions: CaptionSet | None,
    reference: Classed | None,
) -> Conditions:
    """The captions, or labels as a command asks for. Raises UserError as `choose_labels`."""
    if captions:
        return Texts(pipe.encode_prompts, captions.texts)
    return choose_labels(pipe, config.classes, config.count, config.seed, reference)


def choose_null(pipe: Pipeline, config: SampleConfig, conditions: Conditions) -> Texts | None:
    """What guidance leads the N images away from, if a command names a text for that."""
    if not (text := " ".join(config.negative_prompt.split())):
        return None
    return Texts(pipe.encode_prompts, [text] * len(conditions))


def take(conditions: Conditions, rows: range, device: torch.device) -> Tensor | Captions:
    """Those of some rows, on the device."""
    found = conditions[rows.start : rows.stop]
    return (found if isinstance(found, Captions) else torch.from_numpy(found)).to(device)


def labels_of(conditions: Conditions) -> NDArray[np.int64]:
    """The labels (N,), -1 for captions, which are of no class."""
    if isinstance(conditions, np.ndarray):
        return conditions
    return np.full(len(conditions), -1)


def describe_conditions(
    pipe: Pipeline, conditions: Conditions, null: Texts | None = None
) -> dict[str, str]:
    """What identifies them, and what guidance leads away from, in the record of a set."""
    if isinstance(conditions, np.ndarray):
        return {"labels_sha256": sha256(conditions.tobytes())}
    assert isinstance(conditions, Texts), "a set of images is of captions that somebody wrote"
    facts = {"captions_sha256": texts_sha256(conditions.texts)}
    if null:
        facts["negative_prompt"] = null.texts[0]
    if pipe.text:
        facts |= {"text_encoder": pipe.text.encoder, "text_encoder_sha256": pipe.text.fingerprint}
    return facts
