"""A set of images that others have made, an `.npz` or a folder, scored as it lies there.

Stands on what samples of our own are asked, and needs no weights of a generator.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from MaskGIL.data.folders import is_image
from MaskGIL.data.layouts import Files
from MaskGIL.device import choose_device
from MaskGIL.distributed import world_size
from MaskGIL.output import output_path
from Metrics.dinov2 import open_dinov2
from Metrics.inception import open_inception
from Metrics.job import (
    check_reference,
    counted_reference,
    network_lines,
    num_seen,
    reference_line,
)
from Metrics.progress import Progress
from Metrics.record import summary, versions, write_record
from Metrics.reference import ImageSet, Pictures, open_reference
from Metrics.sample_and_eval import Evaluation
from Metrics.sample_config import SampleConfig
from Metrics.samples import SampleFile
from Network.config import UserError

OUT = "scores.json"
LOSSY = (
    "the samples are JPEG files: what JPEG does to an image is scored too; PNG files and .npz have "
    "none of it"
)


class GivenSet:
    """Everything opened and checked: after this only a machine can fail. Raises UserError."""

    def __init__(self, config: SampleConfig) -> None:
        if world_size() > 1:
            raise UserError(
                "samples are scored by one process: start it with python, not torchrun."
            )
        self.config, self.device = config, choose_device(config.device)
        out = OUT if config.out == SampleConfig.out else config.out
        self.out = output_path("out", out, ".json")
        if self.out.exists():
            raise UserError(f"out={self.out} is there already; name another.")
        self.images, self.size = open_given(config.samples)
        if config.num_images not in (0, len(self.images)):
            raise UserError(
                f"samples={config.samples} has {len(self.images):,} images, num_images asks for "
                f"{config.num_images:,}; give all of them, or leave num_images out."
            )
        split, count = config.reference_split, config.num_reference
        self.reference = open_reference(config.reference, split, self.size, count)
        check_reference(config, self.reference)

    def plan(self) -> str:
        """What will be done, for people."""
        (height, width), num_real = self.size, num_seen(self.reference)
        lines = [
            f"samples    {self.config.samples}: {len(self.images):,} of {height}x{width}",
            reference_line(self.reference),
        ]
        lines += network_lines(self.config, len(self.images) + num_real, self.device)
        return "\n".join(lines)

    def run(self, progress: Progress) -> str:
        """Score the images, write the record and return it as a table."""
        config, images = self.config, self.images
        evaluation = Evaluation(
            images.labels,
            self.reference,
            inception=open_inception(config.inception, self.device),
            dinov2=open_dinov2(config.dinov2, self.device),
            precision_recall=config.precision_recall,
            real=counted_reference(self.reference, progress),
        )
        samples = evaluation.look(progress(images, "samples"))
        scores = evaluation.score(samples, samples.sha256)
        if isinstance(images, Pictures) and images.are_lossy:
            scores["notes"].append(LOSSY)
        record = {"samples": {"given": config.samples}, **scores, "scored_with": versions()}
        self.out.parent.mkdir(parents=True, exist_ok=True)
        write_record(self.out, record)
        return summary(self.out, record, f"{config.samples}, {len(images):,}") + "\n"


def open_given(value: str) -> tuple[ImageSet, tuple[int, int]]:
    """The images of an .npz, or of the files in a folder and below, and their height and width.

    Folders inside are classes. Raises UserError for anything else, and for files of several sizes:
    nothing is resized.
    """
    root = Path(value)
    if not root.is_dir():
        if not value.endswith(".npz"):
            raise UserError(f"samples={value} is neither an .npz nor a folder; name one.")
        return (file := SampleFile(value)), file.size
    below = (file.relative_to(root) for file in root.rglob("*") if is_image(file.name))
    names = sorted(file.as_posix() for file in below if not _is_hidden(file))
    if not names:
        raise UserError(f"samples={value} is a folder without images in it.")
    width, height = first = _size(root / names[0])
    for name in names:
        if (other := _size(root / name)) != first:
            raise UserError(
                f"samples={value} has {names[0]} of {height}x{width} and {name} of "
                f"{other[1]}x{other[0]}; a set has one size."
            )
    if width != height:
        raise UserError(f"samples={value} has images of {height}x{width}; save them as an .npz.")
    classes, labels = np.unique([str(Path(name).parent) for name in names], return_inverse=True)
    labels = labels if len(classes) > 1 else np.full(len(names), -1)
    files = Files(root, root.name, names, labels, [])
    return Pictures(value, files, None, np.arange(len(names)), width), (height, width)


def _is_hidden(file: Path) -> bool:
    return any(part.startswith(".") for part in file.parts)


def _size(file: Path) -> tuple[int, int]:
    """Width and height of an image file, by its first bytes."""
    try:
        with Image.open(file) as image:
            return image.size
    except OSError as error:
        raise UserError(f"{file} is no image ({error}); make it anew or remove it.") from None
