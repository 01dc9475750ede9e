"""A set of samples to be made and scored: opened, checked and announced, nothing done yet.

Stands on the weights, the images to compare with, and what lies at `out` already.
"""

from pathlib import Path

from MaskGIL.distributed import first_rank_first, is_main, world_size
from MaskGIL.output import output_path
from MaskGIL.pipeline import Pipeline
from MaskGIL.sampling_keys import open_pipeline, sampler_line
from Metrics.classifier import STEPS, check_classes
from Metrics.inception import (
    SPATIAL_WIDTH,
    WIDTH,
    InceptionNetwork,
    find_weights,
    open_inception,
)
from Metrics.ladder import draw_size
from Metrics.record import describe_samples, find_record
from Metrics.reference import ImageSet, open_image_set
from Metrics.sample_and_eval import choose_labels
from Metrics.sample_config import SampleConfig
from Metrics.samples import SampleFile, SampleWriter
from Network.config import UserError


def image_size(pipe: Pipeline) -> tuple[int, int]:
    """Height and width of the images of a set, in pixels."""
    height, width = pipe.network.config.grid
    return height * pipe.tokenizer.stride, width * pipe.tokenizer.stride


def check_reference(config: SampleConfig, reference: ImageSet) -> None:
    """Raise UserError for a reference to which there is no distance."""
    if len(reference) < 2:
        raise UserError(f"reference={config.reference} is one image; a distance needs two.")
    if find_weights(config.inception) and isinstance(reference, SampleFile):
        reference.moments(WIDTH)
        reference.moments(SPATIAL_WIDTH, "mu_s", "sigma_s")


class Job:
    """Everything opened and checked: after this only a machine can fail. Raises UserError."""

    def __init__(self, config: SampleConfig):
        self.config, self.out = config, output_path("out", config.out, ".npz")
        self.nearest = output_path("nearest", config.nearest, ".png") if config.nearest else None
        self.pipe = open_pipeline(config)
        self.size = image_size(self.pipe)
        png = Path(config.png) if config.png else None
        self.writer = SampleWriter(self.out, config.num_images, self.size, png)
        if not self.out.exists():
            self.writer.check()
        self.reference = self.train = None
        whole = config.train != config.reference  # else bare pictures are split as in a run
        if config.reference:
            count = config.num_reference
            with first_rank_first():
                self.reference = open_image_set(
                    "reference", config.reference, "val", self.size, count, whole=whole
                )
        self.labels = choose_labels(
            self.pipe, config.classes, config.num_images, config.seed, self.reference
        )
        self.samples = describe_samples(
            self.pipe, self.labels, seed=config.seed, chunk=config.chunk, ema=config.ema
        )
        self.record = find_record(self.out, self.samples)
        if self.reference and is_main():  # who scores, alone
            if config.train:
                self.train = open_image_set("train", config.train, "train", self.size, whole=whole)
            self.check_scores(self.reference)

    def check_scores(self, reference: ImageSet) -> None:
        """Raise UserError for what could only fail when all images are there."""
        config, classes = self.config, self.pipe.classes
        num_images = [config.num_images, len(reference)]
        check_reference(config, reference)
        if self.train and config.ladder:
            draw_size([*num_images, len(self.train)])
        if self.train and config.classifier:
            for images in (self.train, reference):
                check_classes(images, classes)

    def open_inception(self) -> InceptionNetwork | None:
        """The network of the FID, on the main rank, if it is asked for; fetched if need be."""
        if self.reference is None or not is_main():
            return None
        return open_inception(self.config.inception, self.pipe.device)

    def plan(self) -> str:
        """What will be done, for people."""
        config = self.config
        height, width = self.size
        lines = [
            f"samples    {config.num_images:,} of {height}x{width}, {', '.join(config.classes)}, "
            f"seed {config.seed}, in chunks of {config.chunk}",
            sampler_line(self.pipe),
            f"device     {self.pipe.device}, {self.samples['precision']}, {world_size()} ranks",
        ]
        if self.reference and self.train:
            count = len(self.reference) + len(self.train)
            if config.ladder:
                count += 2 * min(len(self.reference), len(self.train))
            if config.classifier:
                count += len(self.reference)
                lines.append(
                    f"classifier {STEPS:,} steps on training images, a minute or two of a core"
                )
            lines.append(f"tokenizer  {count:,} images of the data go through it too")
        if self.reference and config.inception == "download" and not find_weights("auto"):
            lines.append("FID        Inception's weights, 91 MB, are fetched for it")
        elif self.reference and find_weights(config.inception):
            count = config.num_images + len(self.reference)
            if self.train and config.ladder:
                count += 3 * min(len(self.reference), len(self.train))
            lines.append(f"FID        {count:,} images go through Inception on {self.pipe.device}")
        if self.record is not None:
            lines.append(f"complete   {self.out} is this set already: scoring it again")
        return "\n".join(lines)
