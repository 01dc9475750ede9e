"""Sample a set of images from weights and score it: `python FID_sample.py weights=RUN/weights`.

Writes an .npz as the ADM evaluator reads, and a record beside it. Under torchrun the ranks share
the work, and the bytes stay the same. A run that was stopped goes on where it was, and a set that
is there already is only scored again.
`samples=FILE reference=...` scores images that others have made, `reconstruct=a,b reference=...`
compares tokenizers, `sweep=...` settings of the sampler, and `verify=ROW` measures a row of
results/ again.
"""

import sys
from typing import Any

import torch
from tqdm import tqdm

from MaskGIL.command import Flags, run_command
from MaskGIL.device import choose_device
from MaskGIL.distributed import is_main, process_group
from MaskGIL.pictures import save_grid
from Metrics.classifier import MOST_IMAGES, STEPS, class_accuracy, train_classifier
from Metrics.comparison import Comparison
from Metrics.given_set import GivenSet
from Metrics.job import Job, Share
from Metrics.nearest import take_images
from Metrics.progress import counted
from Metrics.record import Record, describe_job, kept_scores, summary, versions, write_record
from Metrics.redrawn import Redrawn
from Metrics.reference import ImageSet, LabelledImages
from Metrics.sample_and_eval import Evaluation
from Metrics.sample_config import SampleConfig
from Metrics.samples import SampleFile
from Metrics.seen import Seen
from Metrics.statistics_file import StatisticsFile
from Metrics.sweep import Sweep
from Metrics.verify import check_evaluators, check_set, conclude, open_row

OTHERS = {"sweep": Sweep, "reconstruct": Comparison, "samples": GivenSet}  # jobs, by their key


def main(config: SampleConfig, flags: Flags) -> None:
    """Look at the set while it is made, or as it lies on disk, and score it; or do another job."""
    row = None
    if config.verify:
        row, config = open_row(config.verify, flags.words)
    if other := next((OTHERS[key] for key in OTHERS if getattr(config, key)), None):
        tell(other(config), flags)
        return
    with process_group(choose_device(config.device)):
        job = Job(config)
        if is_main():
            print(job.plan(), flush=True)
        if row:
            check_set(row, job.samples)
        if flags.dry_run:
            return
        evaluation = job.evaluation(counted)
        if row:
            check_evaluators(row, evaluation.evaluators)
        job.begin()
        share = Share(job)
        samples = evaluation.look(counted(share, "samples"), share.pieces)
        job.finish(share)
    if is_main():  # the others need not wait for it
        record = score(job, evaluation, samples)
        if row:
            conclude(row, record)


def tell(job: Comparison | Sweep | GivenSet, flags: Flags) -> None:
    """Print what will be done, do it, and print the table that comes of it."""
    print(job.plan(), flush=True)
    if not flags.dry_run:
        print(f"\n{job.run(counted)}", end="")


def score(job: Job, evaluation: Evaluation, samples: Seen) -> Record:
    """Score the samples, complete their record, print the table and return the record.

    Scores that an earlier run made, and that this one is not asked for, stay in the record.
    """
    assert job.record is not None
    record, scores = job.record, evaluation.score(samples, job.sha256)
    if job.train and job.config.classifier:
        assert job.reference
        assert not isinstance(job.reference, StatisticsFile)  # which a job refuses
        asked = {"samples": SampleFile(job.out), "reference": job.reference}
        asked |= {"reference reconstructed": Redrawn(job.reference, job.reconstruct)}
        scores["metrics"]["classifier"] = told_by_classifier(job.train, asked, job.pipe.classes)
    scores |= describe_job(job.config, job.pipe, job.geometry.kept)
    record |= kept_scores(record, {**scores, "train": job.config.train or None})
    record["scored_with"] = versions()
    write_record(job.out, record)
    print(summary(job.out, record))
    if job.train and job.nearest:
        near = record["metrics"]["near training images"]
        shown = take_images(SampleFile(job.out), near["shown"])
        images = shown, take_images(job.train, near["nearest"])
        save_grid(torch.cat(images), job.nearest, columns=len(near["shown"]))
        print(f"nearest    {job.nearest}: samples above, their nearest training images below")
    return record


def told_by_classifier(
    train: ImageSet, sets: dict[str, LabelledImages], classes: list[str]
) -> dict[str, Any]:
    """Train a classifier, on a bar, and ask it."""
    with tqdm(total=STEPS, desc="classifier", leave=False, disable=None) as bar:
        classifier = train_classifier(train.part(MOST_IMAGES), len(classes), bar.update)
    return class_accuracy(classifier, sets, classes)


if __name__ == "__main__":
    sys.exit(
        run_command(main, SampleConfig, sys.argv[1:], program="FID_sample.py", about=__doc__ or "")
    )
