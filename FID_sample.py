"""Sample a set of images from weights and score it: `python FID_sample.py weights=RUN/weights`.

Writes an .npz as the ADM evaluator reads, and a record beside it. Under torchrun the ranks share
the work, and the bytes stay the same. A set that is there already is only scored again.
"""

import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from MaskGIL.command import Flags, run_command
from MaskGIL.device import choose_device
from MaskGIL.distributed import barrier, chunks, is_main, process_group, world_size
from MaskGIL.pictures import save_grid
from MaskGIL.sampling import open_pipeline, output_path
from Metrics.classifier import MOST_IMAGES, STEPS, check_classes, class_accuracy, train_classifier
from Metrics.features import load_feature_network
from Metrics.inception import open_inception
from Metrics.ladder import ladder, rungs
from Metrics.nearest import take_images
from Metrics.record import (
    Record,
    describe_samples,
    find_record,
    kept_scores,
    summary,
    versions,
    write_record,
)
from Metrics.redrawn import Redrawn, reconstructed
from Metrics.reference import ImageSet, open_image_set
from Metrics.sample_and_eval import SampleConfig, choose_labels, evaluate, sample_chunks
from Metrics.samples import SampleFile, SampleWriter
from Network.config import UserError


class Job:
    """Everything opened and checked: after this only a machine can fail. Raises UserError."""

    def __init__(self, config: SampleConfig):
        self.config, self.out = config, output_path("out", config.out, ".npz")
        self.nearest = output_path("nearest", config.nearest, ".png") if config.nearest else None
        self.pipe = open_pipeline(config)
        stride = self.pipe.tokenizer.stride
        height, width = (side * stride for side in self.pipe.network.config.grid)
        self.size = height, width
        png = Path(config.png) if config.png else None
        self.writer = SampleWriter(self.out, config.num_images, self.size, png)
        if not self.out.exists():
            self.writer.check()
        self.reference = self.train = None
        self.whole = config.train != config.reference  # else bare pictures are split as in a run
        if config.reference:
            count = config.num_reference
            self.reference = open_image_set(
                "reference", config.reference, "val", self.size, count, whole=self.whole
            )
        if config.train:
            self.train = self.training_images()
            if config.classifier:
                check_classes(self.train.labels, len(self.pipe.classes))
        self.inception = None
        if config.reference and is_main():  # who scores, alone
            self.inception = open_inception(config.inception, self.pipe.device)
        self.labels = choose_labels(
            self.pipe, config.classes, config.num_images, config.seed, self.reference
        )
        self.samples = describe_samples(
            self.pipe, self.labels, seed=config.seed, chunk=config.chunk, ema=config.ema
        )
        self.record = find_record(self.out, self.samples)

    def training_images(self, most: int | None = None) -> ImageSet:
        """The images to look for copies of, or `most` of them, evenly spread."""
        count = min(len(self.train), most) if self.train and most else 0
        name = self.config.train
        return open_image_set("train", name, "train", self.size, count, whole=self.whole)


def main(config: SampleConfig, flags: Flags) -> None:
    """Sample, unless that is done, then score what lies on disk."""
    with process_group(choose_device(config.device)):
        job = Job(config)
        record = job.record
        if is_main():
            print(_plan(job))
        if flags.dry_run:
            return
        if record is None:
            record = sample(job)
    if is_main():  # the others need not wait for it
        score(job, record)


def sample(job: Job) -> Record:
    """Make the set with all ranks; returns its record, without scores."""
    config, started = job.config, time.monotonic()
    barrier()  # no rank makes a file before all have looked at what is there
    if is_main():
        job.writer.begin()
    barrier()
    own = sum(map(len, chunks(config.num_images, config.chunk)))
    bar = tqdm(total=own, unit="img", leave=False, disable=None if is_main() else True)
    for first, images in sample_chunks(job.pipe, job.labels, config.seed, config.chunk):
        job.writer.write(first, images)
        bar.update(len(images))
    bar.close()
    barrier()
    seconds = time.monotonic() - started
    made = {
        "weights": config.weights,
        "device": str(job.pipe.device),
        "ranks": world_size(),
        "seconds": seconds,
        "images_per_second": config.num_images / seconds,
        "versions": versions(),
    }
    record = {"samples": job.samples, "made": made}
    if is_main():
        write_record(job.out, record)  # first: a set without a record would be nobody's
        job.writer.finish(job.labels)
    return record


def score(job: Job, record: Record) -> None:
    """Score the set on disk, complete its record and print the table.

    Scores that an earlier run made, and that this one is not asked for, stay in the record.
    """
    samples = SampleFile(job.out)
    reconstruct = partial(reconstructed, job.pipe, chunk=job.config.chunk)
    scores = evaluate(
        counted(samples, "samples"),
        samples.labels,
        job.reference,
        classes=job.pipe.classes,
        train=counted(job.train, "train") if job.train else None,
        reconstruct=reconstruct,
        inception=job.inception,
    )
    if record.get("sha256", scores["sha256"]) != scores["sha256"]:
        raise UserError(f"out={job.out} has changed since its record was written; name another.")
    if job.reference and job.config.ladder:
        train = job.training_images(most=len(job.reference))
        sets = rungs(job.pipe, samples, train, job.config.chunk)
        for network in filter(None, (load_feature_network(), job.inception)):
            scores["metrics"][f"{network.name} ladder"] = ladder(sets, job.reference, network)
    if job.reference and job.config.classifier:
        sets = {"samples": samples, "reference": job.reference}
        sets |= {"reference reconstructed": Redrawn(job.reference, reconstruct)}
        with tqdm(total=STEPS, desc="classifier", leave=False, disable=None) as bar:
            images = job.training_images(most=MOST_IMAGES)
            classifier = train_classifier(images, len(job.pipe.classes), bar.update)
        scores["metrics"]["classifier"] = class_accuracy(classifier, sets, job.pipe.classes)
    record |= kept_scores(record, {**scores, "train": job.config.train or None})
    record["scored_with"] = versions()
    write_record(job.out, record)
    print(summary(job.out, record))
    if job.train and job.nearest:
        near = record["metrics"]["near training images"]
        images = take_images(samples, near["shown"]), take_images(job.train, near["nearest"])
        save_grid(torch.cat(images), job.nearest, columns=len(near["shown"]))
        print(f"nearest    {job.nearest}: samples above, their nearest training images below")


def counted(images: ImageSet, name: str) -> Iterator[Tensor]:
    """The batches (B, 3, H, W) of a set, each image counted on a bar."""
    with tqdm(total=len(images), desc=name, unit="img", leave=False, disable=None) as bar:
        for batch in images:
            yield batch
            bar.update(len(batch))


def _plan(job: Job) -> str:
    config, settings = job.config, job.pipe.sampling
    height, width = job.size
    lines = [
        f"samples    {config.num_images:,} of {height}x{width}, {', '.join(config.classes)}, "
        f"seed {config.seed}, in chunks of {config.chunk}",
        f"sampler    {settings.num_steps} steps, guidance {settings.guidance_scale:g}, "
        f"temperature {settings.temperature:g}",
        f"device     {job.pipe.device}, {job.samples['precision']}, {world_size()} ranks",
    ]
    if job.reference and job.train:
        count = len(job.reference) + len(job.train)
        lines.append(f"near       {count:,} images of the data go through the tokenizer first")
    if config.classifier:
        lines.append(f"classifier {STEPS:,} steps on training images, a minute or two of a core")
    if job.inception:
        count, name = config.num_images + len(job.reference or ()), job.inception.name
        lines.append(f"FID        {count:,} images go through {name} on {job.pipe.device}")
    if job.record is not None:
        lines.append(f"complete   {job.out} is this set already: scoring it again")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(
        run_command(main, SampleConfig, sys.argv[1:], program="FID_sample.py", about=__doc__ or "")
    )
