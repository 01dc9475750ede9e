"""VQ-16 at 256x256: ours beside the same network in plain PyTorch, channels first, in float32.

Encoding, decoding, and both. Of bf16 also how far its pixels and tokens are from float32's: those
of the network that is timed and, where named, of one that somebody trained, on its own pictures.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from paired import Case, Way, command, compare, write
from plain_tokenizer import PlainTokenizer
from torch import Tensor

from MaskGIL.config import DataConfig, require_at_least, to_dict
from MaskGIL.data import Images, open_images
from MaskGIL.data.crops import crop_image, to_float, to_uint8
from MaskGIL.data.sampler import spread
from MaskGIL.data.shapes import Shapes
from MaskGIL.device import autocast, choose_device
from MaskGIL.weights import open_tokenizer
from Network import build_tokenizer
from Network.config import TokenizerConfig, UserError, setting
from Network.tokenizer import FAMILIES, NAMED
from Network.tokenizer.vq import VQTokenizer

PARTS = ("encode", "decode", "both")
TRAINED_IMAGES = 64


@dataclass(frozen=True)
class TokenizerBenchmark:
    """What to measure."""

    name: str = setting("llamagen-vq16", "a public tokenizer of taming's, LlamaGen's, Chameleon's")
    weights: str = setting("", "its file, or a weights folder instead; empty: a fresh network")
    trained: str = setting("", "weights folder of a tokenizer that was trained here")
    data: str = setting("", "image folder it was trained on")
    trained_size: int = setting(64, "side of its images")
    image_size: int = setting(256, "side of the images")
    batch: int = setting(4, "images at once")
    device: str = setting("auto", "auto, cuda, mps or cpu")
    threads: int = setting(0, "threads on a CPU; 0: as many as PyTorch takes")
    rounds: int = setting(5, "how often every way has its turn")
    seconds: float = setting(1.0, "least duration of a turn")

    def __post_init__(self):
        if self.name not in NAMED:
            raise UserError(f"name={self.name} is none of {', '.join(NAMED)}.")
        require_at_least("batch", self.batch, 1)
        require_at_least("rounds", self.rounds, 1)
        if not FAMILIES[NAMED[self.name].family].attention:
            raise UserError(f"name={self.name} is of a family that has no plain rendering here.")


@torch.inference_mode()
def main(config: TokenizerBenchmark) -> None:
    if config.threads:
        torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    torch.manual_seed(0)
    tokenizer = opened(config).to(device)
    pictures = Shapes("val", config.batch, (config.image_size, config.image_size))
    images = crops(pictures, config.batch, config.image_size).to(device)
    tokens = tokenizer.encode(images)
    plain = PlainTokenizer(tokenizer)
    cases: dict[str, Case] = {}
    for part in PARTS:
        ways: dict[str, Way] = {
            "ours": partial(run, part, tokenizer.encode, tokenizer.decode, images, tokens),
            "plain": partial(run, part, plain.encode, plain.decode, images, tokens),
        }
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            mine = {"ours": within(ways["ours"], device, dtype), "plain": ways["plain"]}
            cases[f"{part} {name}"] = compare(
                mine, torch.float32, device, config.rounds, config.seconds, {"ours": dtype}
            )
    found = {"timed": difference(tokenizer, images, device)}
    if config.trained:
        known = open_tokenizer(TokenizerConfig(weights=config.trained)).to(device)
        data = DataConfig(source="folder", path=config.data, image_size=config.trained_size)
        own = crops(open_images(data, "val"), TRAINED_IMAGES, config.trained_size)
        found["trained"] = difference(known, own.to(device), device)
    cases["bf16 against fp32"] = found
    write("tokenizer", f"seconds for {config.batch} images", to_dict(config), cases)
    print(found)


def opened(config: TokenizerBenchmark) -> VQTokenizer:
    if config.weights:
        name = "" if Path(config.weights).is_dir() else config.name
        return open_tokenizer(TokenizerConfig(name=name, weights=config.weights))
    tokenizer = build_tokenizer(config.name).eval()
    return tokenizer.to(memory_format=torch.channels_last)  # as open_tokenizer gives it


def crops(pictures: Images, count: int, side: int) -> Tensor:
    rows = spread(len(pictures), count).tolist()
    return to_float(torch.stack([crop_image(pictures.image(r), "center", 0, side) for r in rows]))


def run(
    part: str,
    encode: Callable[[Tensor], Tensor],
    decode: Callable[[Tensor], Tensor],
    images: Tensor,
    tokens: Tensor,
) -> Tensor:
    found = tokens if part == "decode" else encode(images)
    return found if part == "encode" else decode(found)


def within(way: Way, device: torch.device, dtype: torch.dtype) -> Way:
    def call() -> Any:
        with autocast(device, dtype):
            return way()

    return call


def difference(tokenizer: VQTokenizer, images: Tensor, device: torch.device) -> dict[str, Any]:
    """Of the same tokens decoded, in grey levels; and the share of equal tokens."""
    tokens = tokenizer.encode(images)
    expected = to_uint8(tokenizer.decode(tokens)).int()
    with autocast(device, torch.bfloat16):
        found = to_uint8(tokenizer.decode(tokens).float()).int()
        same = tokenizer.encode(images) == tokens
    levels = (found - expected).abs().float()
    return {
        "mean grey levels": round(levels.mean().item(), 4),
        "most grey levels": int(levels.max()),
        "equal tokens": round(same.float().mean().item(), 5),
    }


if __name__ == "__main__":
    sys.exit(command(main, TokenizerBenchmark, "tokenizer", __doc__ or ""))
