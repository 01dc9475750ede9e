"""The work of FID_sample.py: make a set of samples and score it, or do another of its jobs.

Stands on the jobs themselves, so that a study can do one without starting a program.
"""

from typing import Any

import torch
from tqdm import tqdm

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
from Metrics.row import Row
from Metrics.sample_and_eval import Evaluation
from Metrics.sample_config import SampleConfig
from Metrics.samples import SampleFile
from Metrics.seen import Seen
from Metrics.statistics_file import StatisticsFile
from Metrics.sweep import Sweep
from Metrics.verify import check_evaluators, check_set, conclude

OTHERS = {"sweep": Sweep, "reconstruct": Comparison, "samples": GivenSet}  # jobs, by their key


def other_job(config: SampleConfig) -> str:
    """The key of OTHERS that asks for something else than a set of samples, or an empty text."""
    return next((key for key in OTHERS if getattr(config, key)), "")


def sample_and_score(
    config: SampleConfig, row: Row | None = None, *, only_plan: bool = False
) -> None:
    """Look at the set while it is made, or as it lies on disk, and score it; or do another job.

    With `row` the set is that of a row of the registry, and compared with it. With `only_plan`
    nothing is done but telling. Raises UserError as the jobs do, and Failure as `verify` does.
    """
    if other := other_job(config):
        _tell(OTHERS[other](config), only_plan)
        return
    with process_group(choose_device(config.device)):
        job = Job(config)
        if is_main():
            print(job.plan(), flush=True)
        if row:
            check_set(row, job.samples)
        if only_plan:
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


def _tell(job: Comparison | Sweep | GivenSet, only_plan: bool) -> None:
    """Print what will be done, do it, and print the table that comes of it."""
    print(job.plan(), flush=True)
    if not only_plan:
        print(f"\n{job.run(counted)}", end="")
