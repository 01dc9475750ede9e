"""`python -m MaskGIL inspect FOLDER`: what a token cache or a weights folder holds.

Both are read as a run would read them, so what is shown here works there.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from MaskGIL.cache import TokenCache
from MaskGIL.cache_index import UNKNOWN, read_index
from MaskGIL.classes import class_names
from MaskGIL.command import Flags
from MaskGIL.config import require_at_least, to_dict
from MaskGIL.data.crops import to_uint8
from MaskGIL.data.sampler import spread
from MaskGIL.output import output_path
from MaskGIL.pictures import save_grid
from MaskGIL.tokenizer_source import find_tokenizer
from MaskGIL.weights import load_weights
from Network.config import UserError, setting
from Network.tokenizer.vq import VQTokenizer

CLASSES_LISTED = 32  # a longer histogram is cut to its ends
COLUMNS = 8


@dataclass(frozen=True)
class InspectConfig:
    """A folder to look into; of a token cache also some of its images, decoded."""

    path: str = setting("", "token cache or weights folder")
    tokenizer: str = setting(
        "", "of a token cache what decodes images: a folder of weights, NAME, NAME:FILE"
    )
    out: str = setting("", "PNG file of decoded images; replaced if it is there")
    num_images: int = setting(64, "decoded images, spread over the rows of the cache")
    enlarge: int = setting(1, "pixels of the picture along a side of an image's pixel")

    def __post_init__(self):
        require_at_least("num_images", self.num_images, 1)
        require_at_least("enlarge", self.enlarge, 1)


def inspect(config: InspectConfig, flags: Flags) -> None:
    """Print what `config.path` holds. Raises UserError for anything else and for damage."""
    if not config.path:
        raise UserError("path is empty; name a token cache or a weights folder.")
    if bool(config.tokenizer) != bool(config.out):
        raise UserError("tokenizer and out belong together: tokenizer=WEIGHTS out=grid.png.")
    folder = Path(config.path)
    describe = {"index.json": _describe_cache, "config.json": _describe_weights}
    for file, function in describe.items():
        if (folder / file).is_file():
            function(folder, config, flags)
            return
    raise UserError(_neither(folder, list(describe)))


def _neither(folder: Path, files: list[str]) -> str:
    if not folder.is_dir():
        return f"No such folder: {folder}."
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    near = next((path for path in inside if any((path / file).is_file() for file in files)), None)
    hint = f" Did you mean {near}?" if near else ""
    return f"{folder} is neither a token cache nor a weights folder.{hint}"


# --------------------------------------------------------------------------------- token cache
def _describe_cache(folder: Path, config: InspectConfig, flags: Flags) -> None:
    out = output_path("out", config.out, ".png") if config.out else None
    made_by = find_tokenizer("tokenizer", config.tokenizer) if config.tokenizer else None
    tokenizer = None
    if made_by and not (flags.dry_run and made_by.is_public):  # which would be fetched
        tokenizer = made_by.open()
    index, cache = read_index(folder), TokenCache.open(folder, tokenizer=tokenizer)
    encoder, transform = index["tokenizer"], index["transform"]
    height, width = cache.grid
    size = "x".join(map(str, np.atleast_1d(transform["image_size"])))
    _say("token cache", folder)
    _say("images", f"{len(cache):,} in {len(cache.classes)} classes, {index['skipped']} unreadable")
    _say("crops", f"{cache.num_crops} each ({transform['crops']}), {size} pixels")
    _say("tokens", f"{height}x{width} of {cache.codebook_size} codes, {cache.num_bytes:,} bytes")
    _say("tokenizer", f"{encoder['name']}, fingerprint {encoder['fingerprint'][:16]}")
    precision = transform["precision"]
    told = "unknown: the tokens were converted, and their source does not say"
    _say("precision", told if precision == UNKNOWN else precision)
    _say("hashes", "all chunks are as they were written")
    counts = np.bincount(cache.labels[cache.labels >= 0], minlength=len(cache.classes))
    print("\n".join(_histogram(class_names(cache.classes, len(counts)), counts)))
    if tokenizer is not None and out is not None and not flags.dry_run:
        _draw_images(cache, tokenizer, out, config)


def _histogram(classes: list[str], counts: NDArray[np.int64]) -> list[str]:
    """A line per class with a bar; of many classes those with most and with least images."""
    order = range(len(classes))
    if len(classes) > CLASSES_LISTED:
        half = CLASSES_LISTED // 2
        ranked = np.argsort(-counts, kind="stable").tolist()
        order = [*ranked[:half], -1, *ranked[-half:]]
    most, name_width = max(counts.max(), 1), min(24, max(map(len, classes), default=0))
    left_out = f"  ... {len(classes) - CLASSES_LISTED} more"
    return [
        left_out
        if label < 0
        else f"  {classes[label][:name_width]:{name_width}}  {counts[label]:8,}  "
        + "█" * round(40 * counts[label] / most)
        for label in order
    ]


@torch.inference_mode()
def _draw_images(
    cache: TokenCache, tokenizer: VQTokenizer, out: Path, config: InspectConfig
) -> None:
    known = np.flatnonzero(cache.labels >= 0)
    picks = spread(len(known), config.num_images)
    rows = known[picks]
    tokens = cache.tokens(rows, np.zeros_like(rows))
    images = torch.cat([to_uint8(tokenizer.decode(part)) for part in tokens.split(COLUMNS)])
    save_grid(images, out, COLUMNS, config.enlarge)
    _say("wrote", f"{out}: {len(rows)} images, the first crop of each, decoded")


# ------------------------------------------------------------------------------------- weights
def _describe_weights(folder: Path, config: InspectConfig, flags: Flags) -> None:
    if config.out:
        raise UserError(f"{folder} is a weights folder; tokenizer and out are for a token cache.")
    weights = load_weights(folder)
    _say("weights", folder)
    if (network := weights.network) is not None:
        made_of = network.config
        height, width = made_of.grid
        size = f" ({made_of.size})" if made_of.size else ""
        _say("network", f"{made_of.kind}{size}, {_parameters(network)} parameters")
        _say("", f"{made_of.depth} blocks, width {made_of.width}, {made_of.heads} heads")
        _say("tokens", f"{height}x{width} of {made_of.codebook_size} codes")
        if made_of.caption_width:
            by = weights.text.encoder if weights.text else "an unknown text encoder"
            _say("captions", f"{made_of.caption_tokens} x {made_of.caption_width} by {by}")
        else:
            _say("classes", _some(weights.classes, made_of.num_classes))
        _say("objective", weights.objective)
        settings = to_dict(weights.sampling).items()
        _say("sampler", ", ".join(f"{key}={value}" for key, value in settings))
    tokenizer = weights.tokenizer
    _say("tokenizer", f"{tokenizer.name}, {_parameters(tokenizer)} parameters")
    _say("", f"{tokenizer.codebook_size} codes, {tokenizer.stride} pixels a token")
    _say("", f"fingerprint {tokenizer.fingerprint[:16]}")


def _parameters(module: nn.Module) -> str:
    count = sum(parameter.numel() for parameter in module.parameters())
    return f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count:,}"


def _some(classes: list[str], num_classes: int) -> str:
    if not num_classes:
        return "none: unconditional"
    more = ", ..." if len(classes) > 8 else ""
    return f"{num_classes}: {', '.join(classes[:8]) or 'without names'}{more}"


def _say(name: str, fact: object) -> None:
    print(f"{name:12s} {fact}")
