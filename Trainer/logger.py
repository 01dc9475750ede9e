"""What a run says: one greppable line, `metrics.jsonl`, a tracker, a bar on a terminal only."""

import errno
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from MaskGIL.distributed import is_main
from MaskGIL.durable import is_full, replace_file
from Trainer.trackers import TRACKERS


class Logger:
    """Writes for the main process; silent on every other rank."""

    def __init__(self, folder: Path, step: int, total: int, tracker: str = "none"):
        """Continue the records of a run at `step`; lines of steps behind it are dropped."""
        self.total, self.start = total, step
        self.active = is_main()
        if not self.active:
            return
        self._metrics = folder / "metrics.jsonl"
        _drop_after(self._metrics, step)
        self._text = folder / "log.txt"
        self._told_full: set[str] = set()
        self._tracker = TRACKERS[tracker](folder, step)
        terminal = sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=step, disable=not terminal, leave=False, unit="step")
        self._clock = time.monotonic()

    def line(self, text: str) -> None:
        """Print a line above the bar and keep it in log.txt."""
        if self.active:
            self._bar.write(text, file=sys.stdout)
            sys.stdout.flush()
            self._append(self._text, text)

    def advance(self, step: int) -> None:
        """Move the bar to `step`."""
        if self.active:
            self._bar.update(step - self._bar.n)

    def record(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Keep values of a step: a line of metrics.jsonl and points of curves."""
        if not self.active:
            return
        self._append(self._metrics, json.dumps({"step": step, "kind": kind, **values}))
        points = {f"{kind}/{name}": value for name, value in values.items()}
        with self._despite_a_full_disk("curves"):
            self._tracker.log(step, points)

    def tell(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Keep values of a step and print them, but for the details, whose names end in %."""
        self.record(step, kind, values)
        shown = (
            f"{name} {value}" if isinstance(value, int) else f"{name} {value:.4g}"
            for name, value in values.items()
            if not name.endswith("%")
        )
        self.line(" | ".join([f"{kind} at step {step}", *shown]))

    def progress(self, step: int, values: dict[str, float], rate: float, data_share: float) -> None:
        """The line of a training step; `values` are shown in their order, `z` beside the loss."""
        if not self.active:
            return
        width = len(str(self.total))
        numbers = {name: format_value(name, value) for name, value in values.items()}
        if z := numbers.pop("z", ""):
            numbers["loss"] += f" (z{z})"
        shown = " | ".join(f"{name} {number}" for name, number in numbers.items())
        spent = time.monotonic() - self._clock
        eta = spent / max(1, step - self.start) * (self.total - step)
        self.line(
            f"step {step:{width}d}/{self.total} {step / self.total:4.0%} | {shown} | "
            f"{rate:,.0f} img/s | data {data_share:.0%} | eta {format_seconds(eta)}"
        )

    def close(self) -> None:
        """Write out everything."""
        if self.active:
            self._bar.close()
            with self._despite_a_full_disk("curves"):
                self._tracker.close()

    def _append(self, path: Path, line: str) -> None:
        """Add a line to a file, whole or not at all."""
        with self._despite_a_full_disk(path.name), path.open("ab", buffering=0) as file:
            data, size = f"{line}\n".encode(), file.tell()
            try:
                if file.write(data) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                file.truncate(size)
                raise

    @contextmanager
    def _despite_a_full_disk(self, what: str) -> Iterator[None]:
        """Go on where there is no room for a line; it is told once."""
        try:
            yield
        except OSError as error:
            if not is_full(error):
                raise
            if what not in self._told_full:
                print(f"warning: the disk is full: lines of {what} are lost", flush=True)
            self._told_full.add(what)


def format_value(name: str, value: float) -> str:
    """A number as its name wants it: shares in percent, learning rates in powers of ten."""
    if name in ("acc", "mar_acc", "ar_acc", "usage", "mfu"):
        return f"{value:.1%}"
    if name == "z":
        return f"{value:+.1f}"
    if name == "mem":
        return f"{value:.1f}G"
    return f"{value:.1e}" if name == "lr" else f"{value:.4g}"


def format_seconds(seconds: float) -> str:
    """Seconds as 45s, 3m20s or 5h07m."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds}s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes}m{seconds:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"


def format_bytes(count: float) -> str:
    """Bytes as 512 B, 3.2 MB, 6.6 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def _drop_after(path: Path, step: int) -> None:
    """A run that was killed may have logged steps behind its last checkpoint."""
    for left in path.parent.glob(f".{path.name}.*"):  # by a kill in the line at the end of this
        left.unlink()
    if not path.exists():
        return
    lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    replace_file(path, "".join(line + "\n" for line in kept).encode())
