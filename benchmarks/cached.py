"""A step from cached tokens beside one that encodes its images first, ours and as published.

Network and LlamaGen's VQ-16 are fresh: time does not depend on weights. "ours" finds its tokens in
the batch; to read them from a cache takes microseconds (cache.py). "ours, encoding" is the same
behind `encode_crops`, as in a run with data.tokens=online and data.cache_precision as the step's.
"published recipe, encoding" is the published step (original.py) behind a plain rendering of the
same tokenizer (plain_tokenizer.py), both in fp32.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from networks import NETWORKS
from paired import Case, Way, command, compare, write
from plain_tokenizer import PlainTokenizer
from torch import Tensor
from train import Batch, own_step, published_step

from MaskGIL.cache import encode_crops
from MaskGIL.config import require_at_least, to_dict
from MaskGIL.data.crops import crop_image, to_float
from MaskGIL.data.shapes import Shapes
from MaskGIL.device import DTYPES, choose_device
from Network import build_network, build_tokenizer
from Network.config import setting


@dataclass(frozen=True)
class CachedBenchmark:
    """What to measure."""

    size: Literal["demo", "B"] = setting("B", "network; demo has the codes of the tokenizer here")
    precision: tuple[Literal["fp32", "bf16"], ...] = setting(("fp32", "bf16"), "precisions")
    batch: int = setting(4, "images of a step")
    dropout: float = setting(0.1, "dropout of every way: the published recipe has 0.1")
    rounds: int = setting(5, "how often every way has its turn")
    seconds: float = setting(2.0, "least duration of a turn")
    device: str = setting("auto", "auto, cuda, mps or cpu")

    def __post_init__(self):
        require_at_least("batch", self.batch, 1)
        require_at_least("rounds", self.rounds, 1)


def main(config: CachedBenchmark) -> None:
    device = choose_device(config.device)
    torch.manual_seed(0)
    tokenizer = build_tokenizer("llamagen-vq16").eval().requires_grad_(False).to(device)
    codes = tokenizer.codebook_size
    network = replace(NETWORKS[config.size], dropout=config.dropout, codebook_size=codes)
    images = pictures(config.batch, network.grid[0] * tokenizer.stride)
    batch = Batch(network, config.batch, device)
    cached = own_step(build_network(network).to(device), batch)
    published = published_step(network, batch, device)
    plain = PlainTokenizer(tokenizer)
    tokenizer = tokenizer.to(memory_format=torch.channels_last)  # as open_tokenizer gives it
    cases: dict[str, Case] = {}
    for precision in config.precision:
        encode = partial(encode_crops, tokenizer, precision=precision)
        step = partial(cached, DTYPES[precision])
        ways: dict[str, Way] = {"ours": step, "ours, encoding": behind(encode, images, batch, step)}
        encode_plainly = partial(plainly, plain)
        theirs = behind(encode_plainly, images, batch, published)
        ways["published recipe, encoding, fp32"] = theirs
        cases[f"{config.size} {precision}"] = compare(
            *(ways, DTYPES[precision], device, config.rounds, config.seconds),
            others={"published recipe, encoding, fp32": torch.float32},
        )
    write("cached", "seconds of one optimiser step", to_dict(config), cases)


def pictures(count: int, side: int) -> Tensor:
    """Drawn pictures (B, 3, S, S) uint8, as a loader hands them over."""
    drawn = Shapes("train", count, (side, side))
    return torch.stack([crop_image(drawn.image(row), "center", 0, side) for row in range(count)])


def behind(
    encode: Callable[[Tensor], Tensor], images: Tensor, batch: Batch, step: Callable[[], Any]
) -> Way:
    """The step on tokens of the images, which are encoded for it."""

    def way() -> None:
        batch.hide(encode(images.to(batch.tokens.device)))
        step()

    return way


@torch.no_grad()
def plainly(plain: PlainTokenizer, images: Tensor) -> Tensor:
    return plain.encode(to_float(images))


if __name__ == "__main__":
    sys.exit(command(main, CachedBenchmark, "cached", __doc__ or ""))
