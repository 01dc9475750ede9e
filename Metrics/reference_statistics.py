"""Statistics of a reference, once for all: `python -m Metrics.reference_statistics`.

Every feature network looks at all images, and one .npz keeps what distances to them need: then
FID_sample.py takes reference=FILE.npz, on machines without the images too. Under torchrun the ranks
share the work.
"""

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from MaskGIL.command import Flags, run_command
from MaskGIL.config import require_at_least
from MaskGIL.data.folders import Split
from MaskGIL.device import choose_device
from MaskGIL.distributed import (
    chunks,
    first_rank_first,
    gather,
    is_main,
    process_group,
    world_size,
)
from MaskGIL.output import output_path
from Metrics.dinov2 import DINOV2, open_dinov2
from Metrics.features import load_feature_network
from Metrics.inception import INCEPTION, open_inception
from Metrics.progress import counted
from Metrics.record import versions
from Metrics.reference import ImageSet, open_reference_images
from Metrics.samples import BATCH, SampleFile
from Metrics.seen import Extractor, Seen
from Metrics.statistics_file import (
    FEATURES,
    LABELS,
    MOMENTS,
    SPATIAL,
    About,
    array_name,
    write_statistics,
)
from Network.config import UserError, setting

PROGRAM = "python -m Metrics.reference_statistics"
PACKAGES = ("pillow", "torch-fidelity", "timm")  # which crop and look at the images


@dataclass(frozen=True)
class StatisticsConfig:
    """A reference, and what looks at it."""

    reference: str = setting(
        "", "images: shapes, shapes:COUNT, a folder with SPLIT/CLASS or of images, or an .npz"
    )
    reference_split: Split = setting("val", "which part of a folder, and of the shapes")
    image_size: int = setting(256, "side of the centre crops in pixels; an .npz keeps its own size")
    out: str = setting("", "file to make, .npz, never overwritten")
    inception: str = setting(
        "auto",
        "weights of the Inception network for the FID: a file; auto: what PyTorch's folder of "
        "downloads holds; download: fetched into it first; none: no FID",
    )
    dinov2: str = setting("none", "weights of DINOv2, in the same words; download: of ViT-L/14")
    features: bool = setting(
        False,
        "also the features of every image, for KID, precision, recall, density and coverage: 14 KB "
        "an image with all networks",
    )
    device: str = setting("auto", "auto, cuda, mps or cpu")

    def __post_init__(self):
        require_at_least("image_size", self.image_size, 1)


def main(config: StatisticsConfig, flags: Flags) -> None:
    """Look at all images, with all ranks, and write the file. Raises UserError."""
    for key in ("reference", "out"):
        if not getattr(config, key):
            raise UserError(f"{key} is empty; write {PROGRAM} reference=FOLDER out=FILE.npz.")
    out, device = output_path("out", config.out, ".npz"), choose_device(config.device)
    if out.exists():
        raise UserError(f"out={out} is there already; name another file.")
    with process_group(device):
        with first_rank_first():
            images = _open_images(config)
        if is_main():
            print(_plan(config, images), flush=True)
        if flags.dry_run:
            return
        with first_rank_first():
            inception = open_inception(config.inception, device)
            dinov2 = open_dinov2(config.dinov2, device)
        networks = [load_feature_network(), *(found for found in (dinov2, inception) if found)]
        share = Share(images)
        seen = Seen(
            counted(share, "images"),
            len(images),
            networks,
            pieces=share.pieces,
            features=config.features,
            spatial=inception is not None and inception.is_official,
        )
        about = _about(images, share, networks)
    if is_main():
        out.parent.mkdir(parents=True, exist_ok=True)
        write_statistics(out, about, {LABELS: images.labels, **_arrays(seen, networks)})
        print(f"wrote      {out}, {out.stat().st_size / 1e6:,.1f} MB")


class Share:
    """This rank's batches of a set; the main rank hashes those of all in their order.

    `pieces` are their rows, `sha256` is that of the bytes of all images as (N, H, W, 3).
    """

    def __init__(self, images: ImageSet) -> None:
        self.pieces = chunks(len(images), BATCH)
        self._images, self._digest = images, hashlib.sha256()

    def __len__(self) -> int:
        return sum(map(len, self.pieces))

    def __iter__(self) -> Iterator[Tensor]:
        """Images (B, 3, H, W) uint8. All ranks take turns, so that each must go through its own."""
        own = self._images.pieces(self.pieces)
        for _ in range(0, len(self._images), BATCH * world_size()):
            batch = next(own, None)
            for images in gather(batch):
                if images is not None:
                    self._digest.update(images.permute(0, 2, 3, 1).contiguous().numpy().data)
            if batch is not None:
                yield batch

    @property
    def sha256(self) -> str:
        """Of all images, on the main rank, when all are through."""
        return self._digest.hexdigest()


def _plan(config: StatisticsConfig, images: ImageSet) -> str:
    height, width = images.size
    split = f", split {images.split}" if images.split else ""
    lines = [f"images     {images.name}: {len(images):,} of {height}x{width}{split}"]
    for network, value in ((INCEPTION, config.inception), (DINOV2, config.dinov2)):
        without = "fetched" if value == "download" else "none"
        lines.append(f"{network.key:10} {network.find(value) or without}")
    return "\n".join(lines)


def _open_images(config: StatisticsConfig) -> ImageSet:
    side = config.image_size
    size = (side, side)
    if config.reference.endswith(".npz"):
        size = SampleFile(config.reference).size
    images = open_reference_images(config.reference, config.reference_split, size)
    if len(images) < 2:
        raise UserError(f"reference={config.reference} is one image; statistics need two.")
    return images


def _about(images: ImageSet, share: Share, extractors: list[Extractor]) -> About:
    unreadable = [*gather(images.unreadable)]  # each rank has met others
    return About(
        networks={extractor.name: extractor.sha256 for extractor in extractors},
        name=images.name,
        count=len(images),
        sha256=share.sha256,
        size=images.size,
        transform=images.transform,
        split=images.split,
        classes=[*images.classes],
        unreadable={file: why for files in unreadable for file, why in files.items()},
        versions={**versions(), **{name: version(name) for name in PACKAGES}},
    )


def _arrays(seen: Seen, extractors: list[Extractor]) -> dict[str, NDArray[np.generic]]:
    found: dict[str, Tensor] = {}
    for extractor, moments, features in zip(extractors, seen.statistics, seen.features):
        kept = dict(zip((*MOMENTS, FEATURES), (moments.mean, moments.covariance, features)))
        found |= {array_name(extractor.name, name): values for name, values in kept.items()}
    if seen.spatial.count:
        found |= dict(zip(SPATIAL, (seen.spatial.mean, seen.spatial.covariance)))
    return {name: values.numpy() for name, values in found.items() if len(values)}


if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(run_command(main, StatisticsConfig, words, program=PROGRAM, about=__doc__ or ""))
