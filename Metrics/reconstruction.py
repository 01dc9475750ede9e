"""What a tokenizer keeps of images: they are encoded, decoded and compared with what they were.

B images of a batch, H height, W width, h x w tokens, K codes. Images are uint8 at both ends.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from MaskGIL.data.crops import to_float, to_uint8
from MaskGIL.data.sampler import spread
from MaskGIL.device import autocast, decoder_dtype
from Metrics.codebook import entropy, usage
from Metrics.inception import InceptionNetwork
from Metrics.inception_metrics import distance
from Metrics.perceptual import Perceptual
from Metrics.reference import LabelledImages
from Metrics.seen import Extractor, Seen
from Metrics.similarity import absolute_error, psnr, ssim
from Network.tokenizer.vq import VQTokenizer

SHOWN = 16  # images of a picture
PERCEIVED = 8  # images that LPIPS compares at once: at 256x256 each takes 100 MB
Figures = dict[str, float]  # by their names, with units


class Redraw(Protocol):
    """Images -> what is left of them, and what that took."""

    def __call__(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) uint8 -> the same shape."""
        ...

    def figures(self) -> Figures:
        """Of all images so far."""
        ...


class ThroughTokens:
    """Images as a tokenizer redraws them, timed, its codes counted.

    Tokens are found in float32, as a cache holds them; the decoder runs in `dtype`.
    """

    def __init__(self, tokenizer: VQTokenizer, device: torch.device, dtype: torch.dtype) -> None:
        self._tokenizer, self._device = tokenizer.to(device), device
        self._dtype = decoder_dtype(dtype)
        self._histogram = torch.zeros(tokenizer.codebook_size, dtype=torch.int64)
        self._images, self._seconds = 0, {"encode": 0.0, "decode": 0.0}

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) uint8 -> their reconstructions."""
        if self._images == 0:
            self._decode(self._tokenizer.encode(to_float(images)))  # the first time is the slowest
        started = self._now()
        tokens = self._tokenizer.encode(to_float(images))  # (B, h, w)
        encoded = self._now()
        redrawn = self._decode(tokens)
        self._seconds["encode"] += encoded - started
        self._seconds["decode"] += self._now() - encoded
        self._images += len(images)
        self._histogram += tokens.cpu().flatten().bincount(minlength=len(self._histogram))
        return redrawn

    def figures(self) -> Figures:
        """Bits, use of the codes, and speed."""
        codes, num_bits = self._tokenizer.codebook_size, self._tokenizer.num_bits
        used = usage(self._histogram, num_bits)
        found = {
            "bits per pixel": math.log2(codes) / self._tokenizer.stride**2,
            "usage (share)": used["usage"],
            "perplexity (codes)": used["ppl"],
            "entropy (bits)": entropy(self._histogram),
        }
        if num_bits:
            found["entropy of a bit (bits)"] = used["bit entropy"]
        tokens = self._histogram.sum().item()
        for part, seconds in self._seconds.items():
            found |= {f"{part} (img/s)": self._images / seconds}
            found |= {f"{part} (tokens/s)": tokens / seconds}
        return found

    def _decode(self, tokens: Tensor) -> Tensor:
        with autocast(self._device, self._dtype):
            return to_uint8(self._tokenizer.decode(tokens))

    def _now(self) -> float:
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
        return time.perf_counter()


class ThroughThumbnails:
    """Images reduced to the size of a token grid and enlarged again: what pixels alone would keep.

    Bicubic both ways, antialiased; the thumbnail too has 8 bits a value.
    """

    def __init__(self, grid: tuple[int, int]) -> None:
        self._grid, self._pixels = grid, 0

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) uint8 -> their enlarged thumbnails."""
        height, width = images.shape[-2:]
        self._pixels = height * width
        small = to_uint8(_resized(to_float(images), self._grid))
        return to_uint8(_resized(to_float(small), (height, width)))

    def figures(self) -> Figures:
        """Bits."""
        return {"bits per pixel": 24 * math.prod(self._grid) / self._pixels}


class Reconstructions:
    """A set of images, redrawn in pieces of `chunk` and compared while they pass by.

    `shown` are up to SHOWN of them, spread evenly, with their reconstructions: (2, 3, H, W) each.
    """

    def __init__(
        self,
        images: LabelledImages,
        redraw: Redraw,
        device: torch.device,
        chunk: int,
        perceptual: Perceptual | None = None,
    ) -> None:
        self.labels = images.labels
        self.shown: list[Tensor] = []
        self._images, self._redraw, self._device, self._chunk = images, redraw, device, chunk
        self._similarities: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "PSNR (dB)": psnr,
            "SSIM": ssim,
            "L1 (grey levels)": absolute_error,
        }
        if perceptual:
            name = "LPIPS" if perceptual.is_official else f"{perceptual.name} distance"
            self._similarities[name] = partial(_perceived, perceptual)
        self._sums: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[Tensor]:
        """Reconstructions (B, 3, H, W) uint8, on the CPU."""
        self.shown, self._sums = [], dict.fromkeys(self._similarities, 0.0)
        count, kept = 0, set(spread(len(self), SHOWN).tolist())
        for batch in self._images:
            for part in batch.split(self._chunk):
                images = part.to(self._device)
                redrawn = self._redraw(images)
                self._compare(images, redrawn)
                pairs = torch.stack([images, redrawn], 1).cpu()  # (B, 2, 3, H, W)
                self.shown += [pair.clone() for row, pair in enumerate(pairs, count) if row in kept]
                count += len(part)
                yield pairs[:, 1]

    def figures(self) -> Figures:
        """The means over images, when all have passed."""
        return {name: total / len(self) for name, total in self._sums.items()}

    @torch.inference_mode()
    def _compare(self, images: Tensor, redrawn: Tensor) -> None:
        for name, similarity in self._similarities.items():
            self._sums[name] += similarity(images, redrawn).cpu().double().sum().item()


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """As Pillow does it: without `antialias` PyTorch takes another bicubic kernel."""
    return F.interpolate(images, size, mode="bicubic", antialias=True)


def _perceived(perceptual: Perceptual, first: Tensor, second: Tensor) -> Tensor:
    """Distances (B,) of images (B, 3, H, W) uint8, a few at a time."""
    pairs = zip(to_float(first).split(PERCEIVED), to_float(second).split(PERCEIVED))
    return torch.cat([perceptual(*pair) for pair in pairs])


def distances(found: Seen, real: Seen, extractors: Sequence[Extractor]) -> Figures:
    """Between two sets of images, by each of the networks that have seen both.

    That by the released Inception network is the rFID.
    """
    statistics = zip(extractors, found.statistics, real.statistics)
    return {distance_name(network): distance(*both) for network, *both in statistics}


def distance_name(network: Extractor) -> str:
    """What a distance of its features is called: an FID only where it is one."""
    is_official = isinstance(network, InceptionNetwork) and network.is_official
    return "rFID" if is_official else f"{network.name} distance"
