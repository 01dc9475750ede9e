"""A cache of captions: what a million cost in bytes and seconds, beside plain ways to do the same.

Captions of 3 to 27 words are written to a cache once; seconds and bytes are told for a million of
them. Then in turns: encoding 1,024 captions (ours: in batches of eight of one length; "plain": 64
at once, padded to the longest of them), and reading a batch of 256 back ("plain, one by one": each
padded on its own, then put together).
"""

import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from paired import Case, against_ours, command, in_turns, spread, write
from torch import Tensor

from MaskGIL.caption_cache import CaptionCache, finish_captions, write_captions
from MaskGIL.caption_index import CHUNK
from MaskGIL.config import require_at_least, to_dict
from MaskGIL.device import choose_device
from MaskGIL.text_source import find_text_encoder, short_name
from Network.condition import Captions
from Network.config import setting
from Network.text import PretrainedEncoder, load_text_encoder

MILLION, BATCH, TOGETHER = 1_000_000, 256, 64
COUNTS = ("a", "two", "three", "a few")
COLOURS = ("red", "blue", "green", "yellow", "dark purple", "light grey")
THINGS = ("circle", "square", "ring", "star", "heart", "wooden house", "small boat")
RELATIONS = ("above", "below", "to the left of", "to the right of", "in front of")
PLACES = ("on a dark background", "in the morning light", "by the sea", "seen from far away")


@dataclass(frozen=True)
class CaptionBenchmark:
    """What to measure."""

    encoder: str = setting("all-minilm-l6-v2", "folder or name of a text encoder")
    num_captions: int = setting(10_000, "captions in the cache")
    device: str = setting("auto", "auto, cuda, mps or cpu")
    rounds: int = setting(3, "how often every way has its turn")
    seconds: float = setting(1.0, "least duration of a turn")

    def __post_init__(self):
        require_at_least("num_captions", self.num_captions, BATCH)
        require_at_least("rounds", self.rounds, 1)


def main(config: CaptionBenchmark) -> None:
    device = choose_device(config.device)
    folder = find_text_encoder("encoder", config.encoder)
    encoder = load_text_encoder(folder, name=short_name(config.encoder)).to(device)
    texts = captions(config.num_captions)
    turns = config.rounds, config.seconds, device
    with tempfile.TemporaryDirectory() as place:
        case, cache = written(Path(place) / "captions", texts, encoder)
        part, rows = texts[:CHUNK], batches(cache)
        encode = {
            "ours": partial(encoder.features, part),
            "plain": partial(padded, encoder, part),
        }
        read = {
            "ours": lambda: whole(cache, next(rows)),
            "plain, one by one": lambda: one_by_one(cache, next(rows)),
        }
        check_equal(encode)
        cases = {
            "a million captions": case,
            f"encoding {len(part):,}": against_ours(in_turns(encode, *turns)),
            f"a batch of {BATCH}": against_ours(in_turns(read, *turns)),
        }
    write("captions", "seconds of each case", to_dict(config), cases)


def captions(count: int) -> list[str]:
    """Drawn from a grammar: one to three things, some of them somewhere."""
    draw = random.Random(0)

    def thing() -> str:
        return " ".join(map(draw.choice, (COUNTS, COLOURS, THINGS)))

    def caption() -> str:
        parts = [thing()]
        for _ in range(draw.randrange(3)):
            parts += [draw.choice(RELATIONS), thing()]
        return " ".join([*parts, *draw.choices(PLACES, k=draw.randrange(2))])

    return [caption() for _ in range(count)]


def written(
    folder: Path, texts: list[str], encoder: PretrainedEncoder
) -> tuple[Case, CaptionCache]:
    """What a million of such captions cost, and the cache of these."""
    started, busy = time.perf_counter(), time.process_time()
    write_captions(folder, [[text] for text in texts], encoder)
    finish_captions(folder)
    written, busy = time.perf_counter(), time.process_time() - busy
    cache = CaptionCache.open(folder, encoder=encoder)
    opened = time.perf_counter()
    scale = MILLION / len(texts)
    size = sum(path.stat().st_size for path in folder.iterdir())
    tokens, token_bytes = cache.num_bytes / (2 * cache.width * len(texts)), 2 * cache.width
    return {
        "ours": {
            "seconds": spread([scale * (written - started)]),
            "processor_seconds": round(scale * busy),  # what others do meanwhile is not in them
            "gigabytes": round(scale * size / 1e9, 2),
            "tokens_per_caption": round(tokens, 2),
        },
        "ours, open and verify": {"seconds": spread([scale * (opened - written)])},
        "with padding": {"gigabytes": round(MILLION * cache.num_tokens * token_bytes / 1e9, 2)},
    }, cache


@torch.no_grad()
def padded(encoder: PretrainedEncoder, texts: list[str]) -> list[Tensor]:
    """Features (n, C) of captions, TOGETHER at once, padded behind to the longest of them."""
    tokenizer = type(encoder.tokenizer).from_str(encoder.tokenizer.to_str())
    tokenizer.enable_padding()
    device, features = encoder.model.device, []
    for start in range(0, len(texts), TOGETHER):
        encodings = tokenizer.encode_batch(texts[start : start + TOGETHER])
        tokens = torch.tensor([each.ids for each in encodings], device=device)  # (B, N)
        mask = torch.tensor([each.attention_mask for each in encodings], device=device)
        found = encoder.model(input_ids=tokens, attention_mask=mask).last_hidden_state
        features += [row[own.bool()] for row, own in zip(found, mask)]
    return features


def batches(cache: CaptionCache) -> Iterator[np.ndarray]:
    """Rows (B,) in a random order, without end."""
    order = np.random.default_rng(0)
    while True:
        yield order.integers(0, len(cache), BATCH)


def whole(cache: CaptionCache, rows: np.ndarray) -> Captions:
    return cache.captions(rows, np.zeros_like(rows))


def one_by_one(cache: CaptionCache, rows: np.ndarray) -> Captions:
    alone = [cache.captions(row, np.zeros_like(row)) for row in rows[:, None]]
    masks = [each.mask for each in alone if each.mask is not None]
    return Captions(torch.cat([each.features for each in alone]), torch.cat(masks))


def check_equal(ways: Mapping[str, Callable[[], list[Tensor]]]) -> None:
    """Padding and batches change the last bits alone."""
    expected = torch.cat(ways["ours"]())
    for way in ways.values():
        torch.testing.assert_close(torch.cat(way()), expected, rtol=1e-3, atol=1e-3)


if __name__ == "__main__":
    sys.exit(command(main, CaptionBenchmark, "captions", __doc__ or ""))
