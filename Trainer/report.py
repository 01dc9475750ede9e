"""Curves of a run as a picture: `python main.py report=RUN` draws RUN/curves.png."""

import json
from pathlib import Path

import matplotlib

from Network.config import UserError

SHOWN = {
    "loss": "loss",
    "acc": "accuracy",
    "psnr": "PSNR in dB",
    "usage": "codes in use",
    "distance": "distance to validation images",
}
STYLES = {"train": "-", "validation": "o-", "score": "s-"}


def write_report(folder: Path) -> Path:
    """Draw training and validation curves of a run folder; returns the picture's path.

    Raises UserError if the folder has no metrics.jsonl, or one without anything to draw.
    """
    file = folder / "metrics.jsonl"
    if not file.is_file():
        raise UserError(f"report={folder} is no run folder: it has no metrics.jsonl.")
    lines = file.read_text().splitlines()
    records = [json.loads(line) for line in lines if line.endswith("}")]  # a kill tears the last
    names = [name for name in SHOWN if any(name in record for record in records)]
    if not names:
        raise UserError(
            f"report={folder} has no curves yet: train it for loop.log_every steps first."
        )
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(names), figsize=(4.2 * len(names), 3.2), squeeze=False)
    for axis, name in zip(axes[0], names):
        for kind, style in STYLES.items():
            points = [(r["step"], r[name]) for r in records if r["kind"] == kind and name in r]
            if points:
                axis.plot(*zip(*points), style, label=kind, markersize=3)
        axis.set(xlabel="step", title=SHOWN[name])
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(folder / "curves.png", dpi=110)
    pyplot.close(figure)
    return folder / "curves.png"
