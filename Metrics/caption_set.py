"""The captions that a set of images is sampled from, and the protocol by which they are chosen.

The protocol, for any number N of images and any source of M entries (pictures with one caption or
several, or lines of a file of prompts):
* The entries are put in an order that follows from the seed. Image i has entry i modulo M of it: up
  to M images no entry comes twice, beyond all come equally often.
* A picture with several captions gives one, drawn by (seed, i).
* Pictures are those of `captions_split`, val unless train is said: what a generator has not learned
  from. Their captions are taken as they stand, apart from blanks around and within them; an encoder
  may cut long ones.
* The record has the source, M, N, the sha256 of the N texts in their order, and the encoder.
* A Fréchet distance is to whatever `reference` names, as `Metrics.reference` crops it: with the
  same value and split to all M pictures, not only to those whose captions were drawn.

COCO-30K is this with captions=COCO reference=COCO num_images=30000 and the pictures of val2014.
Imagen (Saharia et al. 2022, section 4.1) draws 30,000 prompts of it at random and compares with all
of its 40,504 pictures, as is done here; there a picture may give several prompts, here it gives
one. LlamaGen takes GigaGAN's evaluation: a fixed list of 30,000 captions, centre crops resized by
Lanczos, the resize of clean-fid before Inception, and as CLIP score the mean cosine of ViT-B/32
with "A photo depicts " before the caption. Ours have the crop and Inception of ADM, and are not
comparable with those.
N images, M entries.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from MaskGIL.config import DataConfig
from MaskGIL.data import open_captions
from MaskGIL.data.captions import draw_captions, folder_captions
from MaskGIL.data.folders import Split
from MaskGIL.data.layouts import open_layout
from MaskGIL.data.scenes import Scenes
from MaskGIL.durable import sha256
from MaskGIL.noise import random_bits
from MaskGIL.prompts import read_prompts
from Metrics.reference import is_drawn, open_drawn
from Network.config import UserError

Entries = Sequence[tuple[str, ...]]  # one or several captions of each

DRAWN = "entries in an order by the seed, over again when all were had; of several captions one"


class CaptionSet:
    """The texts of N images, drawn from a source.

    `texts` (N,) and the entries `rows` (N,) that they are of. `scenes` are the drawn pictures of
    the entries, where what a caption says can be read back from a picture.
    """

    def __init__(
        self,
        name: str,
        split: Split | None,
        captions: Entries,
        num_images: int,
        seed: int,
        scenes: Scenes | None = None,
    ) -> None:
        self.name, self.split, self.scenes = name, split, scenes
        self.num_entries = len(captions)
        images, places = torch.arange(num_images), torch.arange(len(captions))
        order = random_bits(torch.tensor(seed), "order", 0, places).argsort(stable=True)
        rows = order[images % len(captions)]
        counts = torch.tensor([len(captions[row]) for row in rows.tolist()])
        numbers = draw_captions(counts, seed, images)
        self.texts = [captions[row][n] for row, n in zip(rows.tolist(), numbers.tolist())]
        self.rows: NDArray[np.int64] = rows.numpy()

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def sha256(self) -> str:
        """Of the texts in their order."""
        return texts_sha256(self.texts)

    def facts(self) -> dict[str, Any]:
        """What a record tells of them."""
        return {
            "name": self.name,
            "split": self.split,
            "entries": self.num_entries,
            "sha256": self.sha256,
            "how": DRAWN,
        }


def texts_sha256(texts: Sequence[str]) -> str:
    """Of texts in UTF-8, with a zero between two."""
    return sha256("\0".join(texts).encode("utf-8", "replace"))


def open_caption_set(
    value: str, split: Split, num_images: int, seed: int, size: tuple[int, int]
) -> CaptionSet:
    """The captions that a key `captions` names, for `num_images` images (0: one of each entry).

    Those of drawn pictures (`Metrics.reference.DRAWN`, here of `size` (H, W)), of a folder in any
    layout with captions, or a file of prompts. Raises UserError for anything else.
    """
    scenes = None
    if is_drawn(value):
        images = open_drawn("captions", value, split, size)
        captions: Entries = open_captions(DataConfig(), split, images)
        scenes = images if isinstance(images, Scenes) else None
    elif Path(value).is_dir():
        captions = folder_captions(value, split, open_layout(value, split), key="captions")
    elif Path(value).is_file():
        captions = [(prompt.text,) for prompt in read_prompts(value)]
        if split == "train":
            raise UserError(
                f"captions_split has no effect on captions={value}, a file of prompts; leave it "
                "out."
            )
        return CaptionSet(value, None, captions, num_images or len(captions), seed)
    else:
        raise UserError(
            f"No such captions: captions={value}; give scenes, scenes:COUNT, a folder of pictures "
            "with captions, or a file of prompts."
        )
    return CaptionSet(value, split, captions, num_images or len(captions), seed, scenes)
