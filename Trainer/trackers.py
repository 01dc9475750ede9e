"""Where the curves of a run can be watched: one adapter for each tracker, imported on demand.

`metrics.jsonl` is written whatever the tracker. A resumed run goes on in the curves it had.
"""

import importlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from Network.config import UserError

PROJECT = "maskgil"


class Tracker(Protocol):
    """Takes numbers by name."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Keep the numbers of a step."""

    def close(self) -> None:
        """Send or write what is still on its way."""


class Nothing:
    """No tracker."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Keep nothing."""

    def close(self) -> None:
        """There is nothing to close."""


class TensorBoard:
    """Event files in FOLDER/tb. What was written behind the resumed step is struck out."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tb"), purge_step=step + 1)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Write a scalar per value."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush the event file."""
        self._writer.close()


class Hosted:
    """Weights & Biases or Trackio, which take the same calls. The run is known by tracker.txt."""

    def __init__(self, package: str, folder: Path) -> None:
        self._module = importlib.import_module(package)
        name = _run_name(folder)
        known_by = {"id": name, "dir": str(folder)} if package == "wandb" else {}
        try:
            self._module.init(project=PROJECT, name=name, resume="allow", **known_by)
        except Exception as error:  # each package has its own for a missing login or network
            raise UserError(
                f"loop.tracker={package} cannot start ({error}); log in as {package} asks, or use "
                "loop.tracker=tensorboard."
            ) from error

    def log(self, step: int, values: dict[str, float]) -> None:
        """Send the values."""
        self._module.log(values, step=step)

    def close(self) -> None:
        """Wait until all is sent."""
        self._module.finish()


TRACKERS: dict[str, Callable[[Path, int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": lambda folder, step: Hosted("wandb", folder),
    "trackio": lambda folder, step: Hosted("trackio", folder),
    "none": lambda folder, step: Nothing(),
}


def check_tracker(name: str) -> None:
    """Raise UserError if the package of a tracker is not installed."""
    found = None if name == "none" else find_spec(name)
    if name != "none" and (found is None or found.origin is None):  # None: a folder of that name
        raise UserError(
            f"loop.tracker={name} needs the package {name}: pip install {name}, or use "
            "loop.tracker=tensorboard."
        )


def _run_name(folder: Path) -> str:
    """The name that a run keeps for life, drawn when it begins."""
    path = folder / "tracker.txt"
    if not path.exists():
        path.write_text(f"{folder.resolve().name}-{uuid4().hex[:8]}\n")
    return path.read_text().strip()
