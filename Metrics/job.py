"""A set of samples to be made and scored: opened, checked and announced, then made by all ranks.

Stands on the weights, the images to compare with, and what lies at `out` already.
"""

import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from MaskGIL.command import notes
from MaskGIL.distributed import barrier, chunks, first_rank_first, gather, is_main, world_size
from MaskGIL.output import output_path
from MaskGIL.sampling_keys import check_asked, open_pipeline, sampler_line
from Metrics.classifier import STEPS, check_classes
from Metrics.clip_score import check_clip
from Metrics.conditions import choose_conditions, choose_null, labels_of, open_captions
from Metrics.dinov2 import DINOV2, open_dinov2
from Metrics.features import load_feature_network
from Metrics.geometry import FILTER, find_geometry
from Metrics.inception import (
    INCEPTION,
    OFFICIAL,
    SPATIAL_WIDTH,
    WIDTH,
    open_inception,
    weights_sha256,
)
from Metrics.ladder import draw_size, rungs
from Metrics.partial_set import PartialSet
from Metrics.progress import Progress
from Metrics.prompted import Prompted, open_prompted
from Metrics.record import describe_samples, find_record, versions, write_record
from Metrics.redrawn import reconstructed
from Metrics.reference import ImageSet, Reference, open_image_set, open_reference, reference_facts
from Metrics.sample_and_eval import Evaluation, sample_rows
from Metrics.sample_config import SampleConfig
from Metrics.samples import SampleFile
from Metrics.speed import peak_memory, seconds_alone
from Metrics.statistics_file import Announced, StatisticsFile
from Network.config import UserError


def check_reference(config: SampleConfig, reference: Reference) -> None:
    """Raise UserError for a reference to which there is no distance."""
    if isinstance(reference, StatisticsFile):
        asked = [(DINOV2.key, DINOV2.sha256(config.dinov2))]
        asked.append((INCEPTION.key, INCEPTION.sha256(config.inception)))
        announced = [Announced(name, sha256) for name, sha256 in asked if sha256]
        reference.known([load_feature_network(), *announced])
        return
    if len(reference) < 2:
        raise UserError(f"reference={config.reference} is one image; a distance needs two.")
    has_inception = bool(weights_sha256(config.inception))
    if not isinstance(reference, SampleFile):
        return
    reference_facts(reference, "")  # all that its record tells can be read
    if has_inception:
        reference.moments(WIDTH)
        reference.moments(SPATIAL_WIDTH, "mu_s", "sigma_s")


def num_seen(reference: Reference) -> int:
    """How many images of a reference the networks look at."""
    return 0 if isinstance(reference, StatisticsFile) else len(reference)


def reference_line(reference: Reference) -> str:
    """Its name, how many images of which split, and how they are cut, as far as it tells."""
    of = f" of {reference.split}" if reference.split else ""
    if isinstance(reference, StatisticsFile):
        return f"reference  {reference.name}: statistics{of}, without images"
    return f"reference  {reference.name}: {len(reference):,}{of}, {reference.transform}"


def network_lines(config: SampleConfig, num_images: int, device: torch.device) -> list[str]:
    """A line for each network that others trained and that looks at so many images."""
    lines = []
    for purpose, name, network, value in (
        ("FID", "Inception", INCEPTION, config.inception),
        ("DINOv2", "DINOv2", DINOV2, config.dinov2),
    ):
        if network.find(value):
            line = f"{purpose:10} {num_images:,} images go through {name} on {device}"
            if network is INCEPTION and (sha256 := weights_sha256(value)) != OFFICIAL:
                line += f"; no FID: not the released weights (sha256 {sha256})"
            lines.append(line)
        elif value == "download":
            size = f"{network.megabytes:,} MB"
            lines.append(f"{purpose:10} {name}'s weights, {size}, are fetched for it")
    return lines


def counted_reference(reference: Reference | None, progress: Progress) -> Iterable[Tensor] | None:
    """The images of a reference that has any, each counted."""
    if reference is None or isinstance(reference, StatisticsFile):
        return None
    return progress(reference, "reference")


class Job:
    """Everything opened and checked: after this only a machine can fail. Raises UserError.

    `record` is that of the set once it is whole, and `sha256` the hash of its pixels.
    """

    def __init__(self, config: SampleConfig):
        self.config, self.out = config, output_path("out", config.out, ".npz")
        self.nearest = output_path("nearest", config.nearest, ".png") if config.nearest else None
        self.pipe = open_pipeline(config, config.height, config.width)
        self.geometry = find_geometry(self.pipe, config)
        check_clip(config.clip)
        png = Path(config.png) if config.png else None
        self.captions = open_captions(self.pipe, config, self.geometry.drawn)
        self.count = len(self.captions) if self.captions else config.count
        self.partial = PartialSet(self.out, self.count, self.geometry.kept, png)
        if not self.out.exists():
            self.partial.check()
        self.reference, self.train = self._open_images()
        self.conditions = choose_conditions(self.pipe, config, self.captions, self.reference)
        self.null = choose_null(self.pipe, config, self.conditions)
        check_asked(config, self.pipe, config.negative_prompt, self.geometry.grid, asks=True)
        self.labels = labels_of(self.conditions)
        facts = {"seed": config.seed, "chunk": config.chunk, "ema": config.ema}
        self.samples = describe_samples(self.pipe, self.conditions, self.null, **facts)
        self.samples |= self.geometry.identity
        self.record, self.sha256 = find_record(self.out, self.samples), ""
        self.partial.check_identity(self.samples)
        if self.record is not None:
            self._check_whole()
        if self.reference and is_main():  # who scores, alone
            self.check_scores(self.reference)

    def check_scores(self, reference: Reference) -> None:
        """Raise UserError for what could only fail when all images are there."""
        config, classes = self.config, self.pipe.classes
        num_images = [self.count, len(reference)]
        check_reference(config, reference)
        if isinstance(reference, StatisticsFile):
            if self.train:
                raise UserError(
                    f"train is compared with the images of the reference, and reference="
                    f"{config.reference} has none but their statistics; leave train out."
                )
            return
        if self.train and config.ladder:
            draw_size([*num_images, len(self.train)])
        if self.train and config.classifier:
            for images in (self.train, reference):
                check_classes(images, classes)

    def evaluation(self, progress: Progress) -> Evaluation:
        """What the samples are asked; networks are fetched if need be."""
        config, reference, train = self.config, self.reference, self.train
        inception = dinov2 = ladder_sets = None
        prompted = self._prompted(progress) if self.captions else None
        if reference:
            with first_rank_first():
                inception = open_inception(config.inception, self.pipe.device)
                dinov2 = open_dinov2(config.dinov2, self.pipe.device)
        if reference and train and config.ladder:
            ladder_sets = rungs(self.pipe, train.part(len(reference)), config.chunk)
        return Evaluation(
            self.labels,
            reference,
            classes=self.pipe.classes,
            train=progress(train, "train") if train else None,
            reconstruct=self.reconstruct,
            inception=inception,
            dinov2=dinov2,
            rungs=ladder_sets,
            prompted=prompted,
            precision_recall=config.precision_recall,
            real=counted_reference(reference, progress),
        )

    def reconstruct(self, images: Tensor, resize: int = 0) -> Tensor:
        """Images (B, 3, H, W) uint8 as the tokenizer draws them, brought to the side `resize`."""
        return reconstructed(self.pipe, images, self.config.chunk, resize)

    def sample(self, rows: range) -> Tensor:
        """Images (B, 3, H, W) uint8 of these rows of the set. Raises UserError as `sample_rows`."""
        given = self.pipe, self.conditions, self.config.seed
        return sample_rows(*given, rows, self.geometry.grid, self.config.resize, self.null)

    def begin(self) -> None:
        """Make room for the chunks, or see that a whole set is what its record says."""
        barrier()  # no rank makes a file before all have looked at what is there
        if is_main() and self.record is None:
            self.partial.begin(self.samples)
        elif is_main() and self.record is not None:
            self.sha256 = SampleFile(self.out).sha256()
            if self.record.get("sha256", self.sha256) != self.sha256:
                raise UserError(self._changed())
            self.partial.clear()
        barrier()

    def finish(self, share: "Share") -> None:
        """Make the file and its record, without scores, when all ranks have been through."""
        counts, seconds = gather(share.num_made), gather(share.seconds)
        if self.record is not None or not is_main():
            return
        made = {
            "weights": self.config.weights,
            "device": str(self.pipe.device),
            "ranks": world_size(),
            "images": sum(counts),  # the others were there already
            "seconds": max(seconds),
            "images_per_second": sum(counts) / max(*seconds, 1e-9),
            "seconds_alone": seconds_alone(partial(self.sample, range(1))),
            "peak_memory": peak_memory(self.pipe.device),
            "versions": versions(),
        }
        self.sha256 = self.partial.pack(self.labels)
        self.record = {"samples": self.samples, "made": made, "sha256": self.sha256}
        write_record(self.out, self.record)  # first: a set without a record would be nobody's
        self.partial.publish()

    def plan(self) -> str:
        """What will be done, for people."""
        config, (height, width) = self.config, self.geometry.drawn
        what = f"captions of {config.captions}" if self.captions else ", ".join(config.classes)
        lines = [
            f"samples    {self.count:,} of {height}x{width}, {what}, "
            f"seed {config.seed}, in chunks of {config.chunk}",
            *(
                [f"resized    to {config.resize}x{config.resize}, {FILTER}"]
                if config.resize
                else []
            ),
            sampler_line(self.pipe, self.geometry.grid),
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
        return "\n".join([*lines, *self._reference_lines(), self._disk_line()])

    def _reference_lines(self) -> list[str]:
        """What the samples are compared with, and by which networks that others trained."""
        config, reference = self.config, self.reference
        if reference is None:
            return []
        lines, count = [reference_line(reference)], self.count + num_seen(reference)
        if self.train and config.ladder:
            count += 3 * min(len(reference), len(self.train))
        return lines + network_lines(config, count, self.pipe.device)

    def _disk_line(self) -> str:
        """What is there, and what will be."""
        if self.record is not None:
            return f"complete   {self.out} is this set already: scoring it again"
        size, kept = f"{self.partial.num_bytes / 1e9:.2f} GB", self.partial.num_images_kept
        png = f", at most as much in {self.config.png}" if self.config.png else ""
        line = f"disk       {size} for {self.out}, twice that while it is packed{png}"
        return f"{line}\ncontinued  {kept:,} images are there already" if kept else line

    def _prompted(self, progress: Progress) -> Prompted:
        """What samples of captions are asked beside; a text encoder that is needed is there."""
        assert self.captions
        redraw, clip = partial(self.reconstruct, resize=self.config.resize), self.config.clip
        with first_rank_first():
            if self.record is None:
                with notes():
                    _ = self.conditions[:1]
            return open_prompted(clip, self.captions, self.pipe.device, redraw, progress)

    def _open_images(self) -> tuple[Reference | None, ImageSet | None]:
        """The reference and the training images, on every rank."""
        config, size = self.config, self.geometry.kept
        reference = train = None
        whole = config.train != config.reference  # else bare pictures are split as in a run
        with first_rank_first():
            if config.reference:
                split, count = config.reference_split, config.num_reference
                reference = open_reference(config.reference, split, size, count, whole=whole)
            if config.train:
                train = open_image_set("train", config.train, "train", size, whole=whole)
        return reference, train

    def _check_whole(self) -> None:
        """Raise UserError unless the file is what its record says, as far as a glance tells."""
        file, png = SampleFile(self.out), self.partial.png
        if (len(file), file.size) != (self.count, self.geometry.kept):
            raise UserError(self._changed())
        if png is not None and not (png.is_dir() and any(png.iterdir())):
            raise UserError(
                f"png={png} is written while images are sampled, and {self.out} is whole already; "
                "leave png out, or name another out."
            )

    def _changed(self) -> str:
        return f"out={self.out} has changed since its record was written; name another."


class Share:
    """This rank's chunks of the set of a job: what is on disk is read, the rest sampled and kept.

    `pieces` are their rows, `num_made` images were sampled, in `seconds` on this rank.
    """

    def __init__(self, job: Job) -> None:
        self.pieces = chunks(job.count, job.config.chunk)
        self.num_made, self.seconds = 0, 0.0
        self._job = job

    def __len__(self) -> int:
        return sum(map(len, self.pieces))

    def __iter__(self) -> Iterator[Tensor]:
        """Images (B, 3, H, W) uint8, on the CPU. Raises UserError as `sample_rows` does."""
        if self._job.record is not None:
            yield from SampleFile(self._job.out).pieces(self.pieces)
            return
        for rows in self.pieces:
            kept = self._job.partial.read(rows.start)
            yield self._sample(rows) if kept is None else kept

    def _sample(self, rows: range) -> Tensor:
        job, started = self._job, time.monotonic()
        with notes():  # of captions that are cut
            images = job.sample(rows).cpu()
        job.partial.write(rows.start, images)
        self.num_made += len(rows)
        self.seconds += time.monotonic() - started
        return images
