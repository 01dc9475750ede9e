"""Features of captions for a generator: the caption caches of a run, written first if missing.

They lie beside the token caches, and are written by the text encoder of `text.encoder`.
"""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from MaskGIL.cached_rows import CachedRows
from MaskGIL.caption_cache import CaptionCache, finish_captions, write_captions
from MaskGIL.caption_index import read_index
from MaskGIL.data import Images, open_captions
from MaskGIL.data.captions import CaptionTable
from MaskGIL.data.folders import Split
from MaskGIL.device import DTYPES, choose_device
from MaskGIL.distributed import all_gather_texts, barrier, is_main, rank, world_size
from MaskGIL.json_index import is_complete
from MaskGIL.text_source import TextOrigin, open_text_encoder, short_name
from Network.condition import Captions
from Network.config import UserError
from Network.text import EncoderFacts, PretrainedEncoder
from Trainer.config import RunConfig
from Trainer.lock import only_job
from Trainer.logger import format_bytes
from Trainer.tokens import SPLITS, cache_root


class CaptionSource:
    """The captions of the images of a run, and the encoder that reads them.

    Of that only the `facts` are left when the caches are there: it may take gigabytes. Raises
    UserError for data without captions, without an encoder, and for one whose features have another
    width than network.caption_width.
    """

    def __init__(self, config: RunConfig, images: dict[Split, Images]) -> None:
        network, text = config.network, config.text
        for each in images.values():
            if isinstance(each, CachedRows):
                raise UserError(
                    f"The token cache {each.folder} comes without pictures, and captions stand "
                    "beside those; encode the pictures, data.source=folder data.cache=NEW."
                )
        self.tables: dict[Split, CaptionTable] = {
            split: open_captions(config.data, split, each) for split, each in images.items()
        }
        if not text.encoder:
            raise UserError(
                "text.encoder is empty, and network.caption_width asks for captions; name the text "
                "encoder, text.encoder=flan-t5-xl."
            )
        self._config = config
        self._encoder: PretrainedEncoder | None = open_text_encoder(
            "text.encoder",
            text.encoder,
            self._check_width,
            num_tokens=network.caption_tokens,
            skip_layers=text.skip_layers,
            dtype=DTYPES[text.precision],
        )
        self.facts = EncoderFacts.of(self._encoder)
        self.origin = TextOrigin(
            text.encoder, text.precision, self.facts.fingerprint, skip_layers=text.skip_layers
        )

    def caches(self) -> dict[Split, CaptionCache]:
        """The features of every split, written first where missing.

        They are verified where they are written; a start looks at sizes and offsets alone, for the
        features of a million captions take minutes to read. All ranks must come here. Raises
        UserError for a cache of another encoder or of other captions, for one that is damaged, and
        if another job writes there.
        """
        caches: dict[Split, CaptionCache] = {
            split: self._cache(split, table) for split, table in self.tables.items()
        }
        self._encoder = None
        return caches

    def blank(self) -> dict[Split, "BlankCaptions"]:
        """What has the shape of the features of every split, for a dry run."""
        self._encoder = None
        return {split: BlankCaptions(self.facts, each) for split, each in self.tables.items()}

    def _check_width(self, width: int) -> None:
        network, text = self._config.network, self._config.text
        if width != network.caption_width:
            raise UserError(
                f"The text encoder {short_name(text.encoder)} gives features of width {width}, "
                f"network.caption_width is {network.caption_width}. Use "
                f"network.caption_width={width}."
            )

    def _cache(self, split: Split, table: CaptionTable) -> CaptionCache:
        folder = caption_folder(self._config, split)
        unfinished = any(all_gather_texts("" if is_complete(folder, read_index) else "unfinished"))
        root = cache_root(self._config)
        with only_job(root, "data.cache") if unfinished else nullcontext():
            if unfinished:
                self._write(folder, table)
        return CaptionCache.open(folder, encoder=self.facts, captions=table, verify=False)

    def _write(self, folder: Path, table: CaptionTable) -> None:
        """Encode all captions of a split on the device of the run, each rank its chunks."""
        count, encoder = int(table.counts.sum()), self._encoder
        assert encoder
        if is_main():
            print(f"captions   {count:,} read by {encoder.name}, in {folder}", flush=True)
        encoder.to(choose_device(self._config.device))
        with tqdm(total=count, unit="cap", leave=False, disable=None if is_main() else True) as bar:
            ranks = {"rank": rank(), "world_size": world_size()}
            write_captions(folder, table, encoder, **ranks, progress=bar.update)
        barrier()
        if is_main():
            finish_captions(folder)
        barrier()


class BlankCaptions:
    """Captions as long as they may be, that nobody has read: for a dry run without their cache."""

    num_bytes = 0

    def __init__(self, encoder: EncoderFacts, table: CaptionTable) -> None:
        self.counts, self._shape = table.counts, (encoder.num_tokens, encoder.width)
        self.usual_length = encoder.num_tokens

    def captions(self, rows: np.ndarray, which: np.ndarray) -> Captions:
        """Zeros (B, P, C) bf16 without padding."""
        features = torch.zeros(len(rows), *self._shape, dtype=torch.bfloat16)
        return Captions(features, torch.zeros(features.shape[:2], dtype=torch.bool))


class FirstCaptions:
    """The first caption of each of some rows: read when they are cut, as labels are.

    The features of a few thousand captions at once would take gigabytes.
    """

    def __init__(self, features: CaptionCache | BlankCaptions, rows: np.ndarray) -> None:
        self._features, self._rows = features, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, part: slice) -> Captions:
        rows = self._rows[part]
        return self._features.captions(rows, np.zeros_like(rows))


def has_captions(config: RunConfig) -> bool:
    """Whether no caption is to be encoded: the caption caches of both splits are complete."""
    return all(is_complete(caption_folder(config, split), read_index) for split in SPLITS)


def caption_folder(config: RunConfig, split: Split) -> Path:
    """Where the features of the captions of a split lie."""
    return cache_root(config) / "captions" / split


def describe_captions(encoder: EncoderFacts, features: CaptionCache | BlankCaptions) -> str:
    """How many there are, and what their features take."""
    count, size = int(features.counts.sum()), format_bytes(features.num_bytes)
    shape = f"{encoder.num_tokens} x {encoder.width}"
    return f"{count:,}, {shape} by {encoder.name}, cached as {size}"
