"""Runs to look at: `python main.py report=RUN` and `compare=RUN`.

Stands on `Trainer/curves.py`, which reads and compares them, and on `Trainer/report_page.py`.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

from MaskGIL.durable import replace_file
from MaskGIL.values import show_value
from Network.config import UserError
from Trainer.curves import SUFFIX, Curves, comparison, find_reference, read_curves, write_curves
from Trainer.report_page import report_page

SHOWN = {
    "loss": "loss",
    "acc": "accuracy",
    "psnr": "PSNR in dB",
    "usage": "codes in use",
    "distance": "distance to validation images",
}
STYLES = {"train": "-", "validation": "o-", "score": "s-"}


def write_report(folder: Path) -> list[Path]:
    """Draw the curves of a run folder, keep them as a file, and make a page of all that it is.

    Returns the three paths. Raises UserError if the folder has no metrics.jsonl, or one without
    anything to draw.
    """
    run = read_curves(folder, "report")
    picture, file = folder / "curves.png", folder / f"run{SUFFIX}"
    draw([run], picture)
    write_curves(run, file)
    page = folder / "report.html"
    replace_file(page, report_page(run).encode())
    return [picture, file, page]


def compare(paths: Sequence[str]) -> str:
    """A table of a run beside another one, or beside the curves of its recipe.

    Both are drawn into compare.png where the first lies. Raises UserError for more than two, for
    what has no curves, and for a run whose recipe has none.
    """
    if len(paths) > 2:
        raise UserError(f"compare={show_value(tuple(paths))} names more than two runs: name two.")
    run = read_curves(Path(paths[0]))
    other = read_curves(Path(paths[1])) if len(paths) > 1 else find_reference(run)
    table = comparison(run, other)
    folder = run.source if run.source.is_dir() else run.source.parent
    draw([run, other], folder / "compare.png")
    return f"{table}\nwrote       {folder / 'compare.png'}"


def draw(runs: Sequence[Curves], path: Path) -> None:
    """One panel for each kind of number that the first run has; another run is grey behind it.

    Raises UserError if it has none.
    """
    run = runs[0]
    names = [name for name in SHOWN if any(name in record for record in run.records)]
    if not names:
        raise UserError(
            f"report={run.source} has no curves yet: train it for loop.log_every steps first."
        )
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(names), figsize=(4.2 * len(names), 3.2), squeeze=False)
    for axis, name in zip(axes[0], names):
        for number, each in reversed(list(enumerate(runs))):
            for kind, style in STYLES.items():
                points = each.values(kind, name)
                if points:
                    look = (
                        {"color": "0.7", "label": f"{kind}, there"} if number else {"label": kind}
                    )
                    axis.plot(*zip(*points.items()), style, markersize=3, **look)
        axis.set(xlabel="step", title=SHOWN[name])
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
