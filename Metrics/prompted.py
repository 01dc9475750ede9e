"""What samples of captions are asked beside all others: whether they show what was asked for."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from Metrics.attributes import Drawings, facts_of, read_back
from Metrics.caption_set import CaptionSet
from Metrics.clip_score import HOW, ClipScorer, open_clip
from Metrics.intervals import interval_of_blocks
from Metrics.progress import Progress
from Metrics.redrawn import Redrawn
from Metrics.seen import Question


class Prompted:
    """The questions to the samples of a caption set, and what their answers amount to.

    With a `clip` the CLIP score of each sample and its caption. With the `true` drawings of the
    captions, in batches (B, 3, H, W) uint8 as the tokenizer draws them, the attributes that the
    oracle reads back.
    """

    def __init__(
        self,
        captions: CaptionSet,
        clip: ClipScorer | None = None,
        true: Iterable[Tensor] | None = None,
    ) -> None:
        self.captions, self.clip = captions, clip
        self._true = true
        self.questions: dict[str, Question] = {}
        if clip:
            self.questions["clip"] = lambda rows, images: clip(images, self._texts(rows)).tolist()
        if true is not None:
            self.questions["facts"] = lambda rows, images: facts_of(images)

    def score(self, answers: Mapping[str, list[Any]]) -> dict[str, dict[str, Any]]:
        """Of the answers that were gathered: what they add to parts of a record."""
        added: dict[str, dict[str, Any]] = {"captions": self.captions.facts()}
        if self.clip:
            scores, name = np.array(answers["clip"]), f"{self.clip.name} score"
            mean = float(scores.mean())
            about = interval_of_blocks(mean, float(scores.std()), len(scores))
            added |= {"features": {self.clip.name: self.clip.sha256}, "how": {name: HOW}}
            added |= {"metrics": {name: mean}, "intervals": {name: about._asdict()}}
        if self._true is None:
            return added
        ceiling = [facts for images in self._true for facts in facts_of(images)]
        found = read_back(answers["facts"], self.captions.texts, ceiling)
        for name, attribute in found.items():
            key, told = f"{name} as asked", attribute._asdict()
            added.setdefault("attributes", {})[key] = told
            added.setdefault("metrics", {})[key] = attribute.rate
            added.setdefault("intervals", {})[key] = {end: told[end] for end in ("low", "high")}
        return added

    def _texts(self, rows: range) -> list[str]:
        return self.captions.texts[rows.start : rows.stop]


def open_prompted(
    clip: str,
    captions: CaptionSet,
    device: torch.device,
    redraw: Callable[[Tensor], Tensor],
    progress: Progress,
) -> Prompted:
    """What the samples of captions are asked, with the CLIP that a key `clip` of this value names.

    `redraw` makes of drawings (B, 3, H, W) uint8 what the tokenizer does. Raises UserError as
    `open_clip`.
    """
    scorer = open_clip(clip, device)
    if captions.scenes is None:
        return Prompted(captions, scorer)
    rows = captions.rows[: captions.num_entries]  # each scene once
    true = Redrawn(Drawings(captions.scenes, rows), redraw)
    return Prompted(captions, scorer, progress(true, "true drawings"))
