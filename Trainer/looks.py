"""Looks at a run behind some of its steps: validation, pictures, scores."""

from pathlib import Path
from typing import TYPE_CHECKING

from MaskGIL.device import autocast
from MaskGIL.distributed import is_main
from MaskGIL.durable import is_full

if TYPE_CHECKING:
    from Trainer.trainer import Trainer


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
