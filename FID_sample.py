"""Sample a set of images from weights and score it: `python FID_sample.py weights=RUN/weights`.

Writes an .npz as the ADM evaluator reads, and a record beside it. Under torchrun the ranks share
the work, and the bytes stay the same. A set that is there already is only scored again.
`reconstruct=a,b reference=FOLDER` compares tokenizers instead, `sweep=...` settings of the sampler,
and `verify=ROW` measures a row of results/ again.
"""

import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from MaskGIL.command import Flags, run_command
from MaskGIL.device import choose_device
from MaskGIL.distributed import barrier, chunks, is_main, process_group, world_size
from MaskGIL.pictures import save_grid
from Metrics.classifier import MOST_IMAGES, STEPS, class_accuracy, train_classifier
from Metrics.comparison import Comparison
from Metrics.inception import InceptionNetwork
from Metrics.job import Job
from Metrics.ladder import rungs
from Metrics.nearest import take_images
from Metrics.record import Record, describe_job, kept_scores, summary, versions, write_record
from Metrics.redrawn import Redrawn, reconstructed
from Metrics.reference import ImageSet, LabelledImages
from Metrics.sample_and_eval import evaluate, sample_chunks
from Metrics.sample_config import SampleConfig
from Metrics.samples import SampleFile
from Metrics.sweep import Sweep
from Metrics.verify import check_evaluators, check_set, conclude, open_row
from Network.config import UserError


def main(config: SampleConfig, flags: Flags) -> None:
    """Sample, unless that is done, then score what lies on disk; or compare several."""
    row = None
    if config.verify:
        row, config = open_row(config.verify, flags.words)
    if config.reconstruct or config.sweep:
        compare(Comparison(config) if config.reconstruct else Sweep(config), flags)
        return
    with process_group(choose_device(config.device)):
        job = Job(config)
        record = job.record
        if is_main():
            print(job.plan())
        if row:
            check_set(row, job)
        if flags.dry_run:
            return
        inception = job.open_inception()
        if row and is_main():
            check_evaluators(row, inception)
        if record is None:
            record = sample(job)
    if is_main():  # the others need not wait for it
        score(job, record, inception)
        if row:
            conclude(row, record)


def compare(comparison: Comparison | Sweep, flags: Flags) -> None:
    """Compare tokenizers, or samplers, and print the table."""
    print(comparison.plan(), flush=True)
    if not flags.dry_run:
        print(f"\n{comparison.run(counted)}", end="")


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


def score(job: Job, record: Record, inception: InceptionNetwork | None) -> None:
    """Score the set on disk, complete its record and print the table.

    Scores that an earlier run made, and that this one is not asked for, stay in the record.
    """
    samples, reference, train = SampleFile(job.out), job.reference, job.train
    if "sha256" in record and record["sha256"] != samples.sha256():
        raise UserError(f"out={job.out} has changed since its record was written; name another.")
    reconstruct = partial(reconstructed, job.pipe, chunk=job.config.chunk)
    known = ladder_sets = None
    if reference and train:
        known = counted(train, "train")
        if job.config.ladder:
            ladder_sets = rungs(job.pipe, train.part(len(reference)), job.config.chunk)
    scores = evaluate(
        counted(samples, "samples"),
        samples.labels,
        reference,
        classes=job.pipe.classes,
        train=known,
        reconstruct=reconstruct,
        inception=inception,
        rungs=ladder_sets,
        precision_recall=job.config.precision_recall,
    )
    if reference and train and job.config.classifier:
        asked = {"samples": samples, "reference": reference}
        asked |= {"reference reconstructed": Redrawn(reference, reconstruct)}
        scores["metrics"]["classifier"] = told_by_classifier(train, asked, job.pipe.classes)
    scores |= describe_job(job.config, job.pipe, job.size)
    record |= kept_scores(record, {**scores, "train": job.config.train or None})
    record["scored_with"] = versions()
    write_record(job.out, record)
    print(summary(job.out, record))
    if job.train and job.nearest:
        near = record["metrics"]["near training images"]
        images = take_images(samples, near["shown"]), take_images(job.train, near["nearest"])
        save_grid(torch.cat(images), job.nearest, columns=len(near["shown"]))
        print(f"nearest    {job.nearest}: samples above, their nearest training images below")


def told_by_classifier(
    train: ImageSet, sets: dict[str, LabelledImages], classes: list[str]
) -> dict[str, Any]:
    """Train a classifier, on a bar, and ask it."""
    with tqdm(total=STEPS, desc="classifier", leave=False, disable=None) as bar:
        classifier = train_classifier(train.part(MOST_IMAGES), len(classes), bar.update)
    return class_accuracy(classifier, sets, classes)


def counted(images: LabelledImages, name: str) -> Iterator[Tensor]:
    """The batches (B, 3, H, W) of a set, each image counted on a bar."""
    with tqdm(total=len(images), desc=name, unit="img", leave=False, disable=None) as bar:
        for batch in images:
            yield batch
            bar.update(len(batch))


if __name__ == "__main__":
    sys.exit(
        run_command(main, SampleConfig, sys.argv[1:], program="FID_sample.py", about=__doc__ or "")
    )
