"""JPEGs of two sizes -> crops of 256x256, beside PIL and torchvision's transforms; on one core.

Ours reads as the trainer does: it refuses what is no whole picture, turns it upright, and shrinks
it as ADM's and LlamaGen's scripts do, by halves and then by a bicubic step; "ours, draft" decodes a
large picture smaller (data.draft). "plain" has convert("RGB"), Resize (bicubic), CenterCrop and
PILToTensor; "decoded alone" is what no way can do without. The pictures are drawn: smooth colours
with some noise.
"""

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from paired import Way, against_ours, command, in_turns, write
from PIL import Image
from torchvision import transforms

from MaskGIL.config import require_at_least, to_dict
from MaskGIL.data.crops import crop_image, least_side
from MaskGIL.data.folders import read_image
from Network.config import setting

SIZE, PICTURES = 256, 16
SIDES = ((500, 375), (1600, 1200))  # most of ImageNet, and a camera's
PLAIN = transforms.Compose(
    [
        transforms.Resize(SIZE, transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(SIZE),
        transforms.PILToTensor(),
    ]
)


@dataclass(frozen=True)
class ImageBenchmark:
    """What to measure."""

    rounds: int = setting(5, "how often every way has its turn")
    seconds: float = setting(2.0, "least duration of a turn")

    def __post_init__(self):
        require_at_least("rounds", self.rounds, 1)


def main(config: ImageBenchmark) -> None:
    torch.set_num_threads(1)
    cases = {}
    for width, height in SIDES:
        files = [jpeg(width, height, seed) for seed in range(PICTURES)]
        ways: dict[str, Way] = {name: partial(all_of, way, files) for name, way in WAYS.items()}
        assert ours(files[0]).shape == plain(files[0]).shape == (3, SIZE, SIZE)
        times = in_turns(ways, config.rounds, config.seconds, torch.device("cpu"))
        cases[f"{width}x{height}"] = against_ours(times)
    write("images", f"seconds for {PICTURES} pictures", to_dict(config), cases)


def all_of(way: Callable[[bytes], object], files: list[bytes]) -> None:
    for file in files:
        way(file)


def ours(file: bytes) -> torch.Tensor:
    return crop_image(read_image(io.BytesIO(file)), "center", 0, SIZE)


def drafted(file: bytes) -> torch.Tensor:
    image = read_image(io.BytesIO(file), draft=least_side("center", SIZE))
    return crop_image(image, "center", 0, SIZE)


def plain(file: bytes) -> torch.Tensor:
    return PLAIN(Image.open(io.BytesIO(file)).convert("RGB"))


def decoded(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file)).convert("RGB")


def jpeg(width: int, height: int, seed: int) -> bytes:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(smooth) + random.normal(0, 6, (height, width, 3))
    data = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(data, "JPEG", quality=90)
    return data.getvalue()


WAYS = {"ours": ours, "ours, draft": drafted, "plain": plain, "decoded alone": decoded}

if __name__ == "__main__":
    sys.exit(command(main, ImageBenchmark, "images", __doc__ or ""))
