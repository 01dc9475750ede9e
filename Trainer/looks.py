"""Looks at a run behind some of its steps: its line in the log, validation, pictures, scores."""

from pathlib import Path
from typing import TYPE_CHECKING

from MaskGIL.device import autocast
from MaskGIL.distributed import is_main, world_size
from MaskGIL.durable import is_full
from Trainer.throughput import use_of_card
from Trainer.window import Window

if TYPE_CHECKING:
    from Trainer.trainer import Trainer


def report(trainer: "Trainer", window: Window) -> None:
    """The line of a step, where it is time; then the window begins anew."""
    step, loop = trainer.step, trainer.config.loop
    if trainer.is_due(loop.log_every) or step == min(10, loop.steps):
        values = {**window.means(), **trainer.gauges()}
        trainer.hear()  # of this step: the device has been waited for
        values["skip"] = trainer.guard.skipped
        if loop.skip_spikes:
            values["spikes"] = trainer.guard.spikes
        if (z := trainer.guard.take_highest()) == z:
            values["z"] = z
        trainer.log.record(step, "train", _show(trainer, window, values))
        window.clear()
    elif step == trainer.log.start + 10:  # so soon a resumed run tells how long it takes
        _show(trainer, window, window.means())


def look(trainer: "Trainer", folder: Path) -> None:
    """Validate, draw and score with the averaged weights, where it is time."""
    loop = trainer.config.loop
    trainer.log.advance(trainer.step)
    validates, scores = trainer.is_due(loop.validate_every), trainer.is_due(loop.score_every)
    draws = trainer.is_due(loop.sample_every)
    if not (validates or draws or scores):
        return
    with trainer.averaged():  # every rank comes: the weights may be sharded
        if validates:
            with autocast(trainer.device, trainer.dtype):
                values = trainer.validate()
            trainer.log.tell(trainer.step, "validation", values)
        if draws and is_main():  # the decoder never runs in fp16: pictures choose on their own
            _draw(trainer, folder / "samples" / f"step-{trainer.step:07d}.png")
        if scores:
            trainer.log.tell(trainer.step, "score", trainer.score())


def _draw(trainer: "Trainer", path: Path) -> None:
    """Draw a picture. If the disk is full that is told, and no part of it left."""
    try:
        trainer.picture(path)
    except OSError as error:
        if not is_full(error):
            raise
        path.unlink(missing_ok=True)
        trainer.say(f"warning: the disk is full, so {path} is left out; training goes on.")


def _show(trainer: "Trainer", window: Window, values: dict[str, float]) -> dict[str, float]:
    """Print the line of a step; returns its numbers."""
    images, device = trainer.config.optim.batch * window.steps / window.seconds, trainer.device
    share = images / world_size()
    values |= use_of_card(share, trainer.flops_per_image, device, trainer.dtype)
    trainer.log.progress(trainer.step, values, images, window.data_share)
    return {**values, "images_per_second": images, "averaged_over": window.steps}
