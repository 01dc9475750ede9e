"""What is said of a step that was not taken, and when there were too many of them."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from MaskGIL.distributed import all_gather_texts
from Trainer.batches import Batch
from Trainer.blocks import plain
from Trainer.diagnosis import examine
from Trainer.guard import Diverged, Heard

if TYPE_CHECKING:
    from Trainer.trainer import Trainer


def tell_of_skipped(trainer: "Trainer", heard: Heard, batch: Batch) -> None:
    """Log why a step was not taken; its weights are still there, and `batch` is its batch.

    Every rank comes here. Raises Diverged if it is one too many in a row.
    """
    told = f"step {heard.step + 1} is not taken: {_why(trainer, heard, batch)}"
    in_a_row = trainer.guard.in_a_row
    if in_a_row < trainer.config.loop.max_skips:
        trainer.say(f"warning: {told}")
        return
    raise Diverged(
        f"{in_a_row} steps in a row were not taken, as many as loop.max_skips allows; {told}. "
        "Begin a new run with the weights before them, out_dir=NEW "
        f"init_from={Path(trainer.config.out_dir) / 'weights'} and a lower optim.lr; or go on in "
        "this one with precision=fp32; or look at the data."
    )


def _why(trainer: "Trainer", heard: Heard, batch: Batch) -> str:
    if heard.is_finite:
        return f"its loss is z{heard.z:+.1f}"
    if trainer.shards:  # to look closer, each rank would need the others at every block
        return f"not finite is {_whose_loss(heard, batch) or 'the gradient'}"
    return _causes(trainer, heard.step, batch)


def _whose_loss(heard: Heard, batch: Batch) -> str:
    """Ranks whose loss is not finite, each with its share of the batch, or an empty text."""
    samples = batch["samples"].tolist()  # numbers without a gap
    shares = all_gather_texts(f"among samples {samples[0]}-{samples[-1]}")
    found = [
        f"the loss of rank {number}, {share}"
        for number, (loss, share) in enumerate(zip(heard.losses, shares))
        if not math.isfinite(loss)
    ]
    return "; ".join(found)


def _causes(trainer: "Trainer", step: int, batch: Batch) -> str:
    """What was not finite first, on each rank where something was."""
    has_batch_norm = any(
        isinstance(module, nn.modules.batchnorm._BatchNorm) for module in trainer.module.modules()
    )
    images = trainer.part if has_batch_norm else 1  # as it was computed, or one at a time

    def loss_of(part: int) -> Tensor:
        return trainer.part_loss(trainer.trained, batch, part)[0]

    with trainer.as_in(step, images), plain(trainer.trained):
        found = examine(trainer.module, list(batch["samples"].split(images)), loss_of)
    causes = [each for each in all_gather_texts(found) if each]
    return "not finite on " + "; on ".join(causes or ["a rank, but not when computed once more"])
