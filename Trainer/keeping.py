"""What a run keeps: its log, checkpoints to go on from, and the weights for users beside them."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from MaskGIL.command import Failure, Preempted
from MaskGIL.distributed import all_gather_texts, all_reduce, barrier, is_main, world_size
from Network.config import UserError
from Trainer.checkpoint import Snapshot, restore, take_snapshot
from Trainer.guard import Diverged
from Trainer.logger import Logger, format_seconds, format_value
from Trainer.optim import learning_rate
from Trainer.run_folder import mark_preempted, surroundings

if TYPE_CHECKING:
    from Trainer.trainer import Trainer


def begin_log(trainer: "Trainer", folder: Path, state: dict) -> None:
    """Open the log of a run, and say in its first lines what it is; `state` is from `resume`."""
    loop = trainer.config.loop
    trainer.log = Logger(folder, trainer.step, loop.steps, loop.tracker)
    trainer.say = trainer.checkpoints.warn = trainer.log.line
    begun = {"begun with": trainer.begun_with} if trainer.begun_with else {}
    around = surroundings(folder, trainer.device, trainer.dtype, trainer.step, loop.steps)
    for name, fact in {**trainer.facts(), **begun, **around}.items():
        trainer.log.line(f"{name:10s} {fact}")
    if told := _other_schedule(trainer, state.get("steps", loop.steps)):
        trainer.log.line(told)


def check_found(trainer: "Trainer") -> None:
    """Raise UserError if another job has saved since this one has looked for the newest."""
    if trainer.checkpoints.names() != trainer.found:
        raise UserError(
            f"out_dir={trainer.config.out_dir} was written to by another job meanwhile; start the "
            "same command again."
        )


def save(trainer: "Trainer", folder: Path) -> None:
    """Take a checkpoint and the weights, both written beside the steps; every rank comes here."""
    trainer.checkpoints.wait()  # or two copies of the state would stand in memory at once
    snapshot = _snapshot(trainer)
    if is_main():
        trainer.checkpoints.save(
            trainer.step, snapshot, lambda taken: _export(trainer, folder, taken)
        )
    trainer.saved = trainer.step


def resume(trainer: "Trainer") -> dict:
    """Go on where the newest checkpoint stands, if there is one; returns its state, or none.

    Raises UserError if ranks have found different ones.
    """
    found = set(all_gather_texts(trainer.newest.name if trainer.newest else "the beginning"))
    if len(found) > 1:
        raise UserError(
            f"Ranks would go on from different places ({', '.join(sorted(found))}); put "
            f"out_dir={trainer.config.out_dir} on a disk that all machines share."
        )
    state: dict = {}
    if trainer.newest:
        moved = trainer.module, trainer.optimizer, trainer.ema.tensors, trainer.extra
        state = restore(trainer.newest, *moved)
        if state["scaler"]:  # empty if the run was not in fp16 then
            trainer.scaler.load_state_dict(state["scaler"])
        trainer.guard.resume(state.get("guard", {}))  # earlier versions wrote none
        trainer.step = trainer.saved = state["step"]
        if not is_main():  # rank 0 goes on with the sums
            for tensor in trainer.extra.values():
                tensor.zero_()
    barrier()
    return state


@contextmanager
def saved_if_diverged(trainer: "Trainer", folder: Path) -> Iterator[None]:
    """Save the weights of a run that diverges in here, which are those of its last good step.

    So every rank comes there at the same step; whoever goes on may try as often again.
    """
    try:
        yield
    except Diverged:
        trainer.guard.in_a_row = 0
        if trainer.step not in (0, trainer.saved):
            save(trainer, folder)
        trainer.checkpoints.wait()
        barrier()  # or the first to leave would have the others ended
        raise


def finish(trainer: "Trainer", folder: Path) -> None:
    """Return when all is on the disk, on every rank. Raises Failure if that is full."""
    if trainer.step != trainer.saved:  # a signal has ended the loop
        save(trainer, folder)
    elif trainer.step == trainer.log.start:  # a finished run that was started again
        snapshot = _snapshot(trainer)
        if is_main():
            _export(trainer, folder, snapshot)
    trainer.checkpoints.wait()
    if trainer.checkpoints.is_lost:
        raise Failure(
            f"Step {trainer.step} could not be saved, as the disk of {folder} is full; make room "
            "and start the same command again, which goes on from the checkpoint before."
        )
    trainer.signals.rest()
    barrier()


def say_how_it_ended(trainer: "Trainer", folder: Path, seconds: float) -> None:
    """Write the last line. Raises Preempted unless all steps are done."""
    step, steps, spent = trainer.step, trainer.config.loop.steps, format_seconds(seconds)
    more = f" (loop.steps={steps} asks for fewer)" if step > steps else ""
    saved = f"saved at step {step} of {steps}, {spent}; the same command goes on from there"
    trainer.log.line(f"done: {step} steps{more}, {spent}" if step >= steps else saved)
    trainer.log.close()
    if step < steps:
        mark_preempted(folder, saved)
        raise Preempted(saved)
    barrier()


def _other_schedule(trainer: "Trainer", earlier: int) -> str:
    """How the learning rate jumps where loop.steps was `earlier` up to here, or an empty text."""
    step, steps, optim = trainer.step, trainer.config.loop.steps, trainer.config.optim
    last = max(0, step - 1)
    before, after = learning_rate(last, earlier, optim), learning_rate(step, steps, optim)
    if step >= steps or before == learning_rate(last, steps, optim):
        return ""
    return (
        f"loop.steps was {earlier}: the learning rate follows the new schedule, from "
        f"{format_value('lr', before)} to {format_value('lr', after)}"
    )


def _snapshot(trainer: "Trainer") -> Snapshot:
    trainer.hear()  # of the last step, which counts
    state = {
        "step": trainer.step,
        "steps": trainer.config.loop.steps,  # and so the learning rate up to here
        "cut": {"parts": trainer.accumulation, "ranks": world_size()},
        "content": trainer.trained_on,
        "scaler": trainer.scaler.state_dict(),
        "guard": trainer.guard.state(),
    }
    extra = {name: all_reduce(tensor.clone()) for name, tensor in trainer.extra.items()}
    return take_snapshot(trainer.module, trainer.optimizer, trainer.ema.tensors, extra, state)


def _export(trainer: "Trainer", folder: Path, snapshot: Snapshot) -> None:
    """Write the weights folder, or leave nothing."""
    try:
        trainer.export(folder / "weights", snapshot)
    except Exception:
        shutil.rmtree(folder / "weights.tmp", ignore_errors=True)
        raise
