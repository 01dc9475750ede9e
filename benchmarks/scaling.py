"""The law behind a study of sizes: loss = floor + scale * x ** -exponent.

x are parameters, or operations of training. Reads the study.json of scaling-cpu.yaml. Errors are
those of a jackknife that leaves one size out at a time. Then the GPU-hours of the recipes on
ImageNet: their operations are counted, the share of the peak is assumed, so the hours are derived
and not measured. A picture shows the law and its band, one standard error to either side.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from paired import command
from scipy.optimize import least_squares

from MaskGIL.config import load_config
from MaskGIL.durable import replace_file, to_json
from Network.config import UserError, setting
from Trainer.config import RunConfig
from Trainer.dry_run import Generator
from Trainer.throughput import PEAKS

ROOT = Path(__file__).parent.parent
AXES = ("parameters", "training teraFLOPs")
LOSS = "bits per image"
STAGE = "train"


@dataclass(frozen=True)
class Scaling:
    """What to fit, and where to write it."""

    study: str = setting("runs/studies/scaling-cpu/study.json", "record of the study")
    out: str = setting("runs/studies/scaling-cpu/scaling.json", "the law and the hours, JSON")
    picture: str = setting("runs/studies/scaling-cpu/scaling.png", "the law, drawn")
    recipes: tuple[str, ...] = setting(("b", "l", "xl", "xxl"), "recipes whose hours are derived")
    mfu: float = setting(0.4, "share of the peak of an A100 that is assumed")


def main(config: Scaling) -> None:
    study = json.loads(Path(config.study).read_text())
    laws = {axis: fit_with_errors(*points(study, axis)) for axis in AXES}
    hours = {name: gpu_hours(name, config.mfu) for name in config.recipes}
    for axis, law in laws.items():
        told = ", ".join(f"{name} {law[name]:.3g} ± {law[f'{name} error']:.2g}" for name in NAMES)
        print(f"{LOSS} over {axis}: {told}")
    for name, value in hours.items():
        print(f"{name}: {value:,.0f} hours of an A100, derived at {config.mfu:.0%} of its peak")
    record = {"study": study["command"], "laws": laws, "derived GPU-hours": hours}
    replace_file(Path(config.out), to_json({**record, "mfu": config.mfu}) + b"\n")
    draw(study, Path(config.picture))


NAMES = ("floor", "scale", "exponent")


def points(study: dict[str, Any], axis: str) -> tuple[list[float], list[float]]:
    """Of each size the number on the axis, and the mean loss over its seeds.

    Raises UserError for fewer than four sizes, of which three numbers are fitted while one is left
    out, and where a run has diverged.
    """
    found = [
        [row["numbers"].get(f"{STAGE}: {name}", {"mean": None})["mean"] for name in (axis, LOSS)]
        for row in study["means"]
    ]
    trained = [pair for pair in found if None not in pair]
    if len(trained) < max(4, len(found)):
        raise UserError(
            f"The study has {len(found)} sizes, of which {len(trained)} are trained with all "
            "seeds; a law and its error need four, and all of them."
        )
    x, loss = zip(*trained)
    return list(x), list(loss)


def fit_with_errors(x: Sequence[float], loss: Sequence[float]) -> dict[str, float]:
    """Floor, scale and exponent of the law, and the jackknife's standard error of each.

    The error is sqrt((n - 1) / n * sum (value without i - their mean)^2) (Efron 1982, eq. 3.6).
    """
    errors = standard_error(fits_without_one(x, loss))
    return {
        **dict(zip(NAMES, map(float, fit(x, loss)))),
        **dict(zip((f"{name} error" for name in NAMES), map(float, errors))),
    }


def fits_without_one(x: Sequence[float], loss: Sequence[float]) -> np.ndarray:
    """The laws (n, 3) of all sizes but one."""
    return np.array([fit(np.delete(x, place), np.delete(loss, place)) for place in range(len(x))])


def standard_error(values: np.ndarray) -> np.ndarray:
    """The jackknife's, of `values` (n, ...) each of which was found without one point."""
    count = len(values)
    return np.sqrt((count - 1) / count * np.square(values - values.mean(0)).sum(0))


def curve(law: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The losses that a law foretells."""
    floor, scale, exponent = law
    return floor + scale * x**-exponent


def fit(x: Sequence[float] | np.ndarray, loss: Sequence[float] | np.ndarray) -> np.ndarray:
    """Floor, scale and exponent, all positive, of the least squares of logarithms of the loss."""
    logs, wanted = np.log(np.asarray(x, float)), np.log(np.asarray(loss, float))
    centre = logs.mean()

    def residuals(found: np.ndarray) -> np.ndarray:
        floor, scale, exponent = np.exp(found)
        return np.log(floor + scale * np.exp(-exponent * (logs - centre))) - wanted

    least, spread = np.min(loss), np.ptp(loss)
    starts = [np.log([share * least, spread, 0.3]) for share in (0.2, 0.5, 0.8, 0.95)]
    best = min((least_squares(residuals, start) for start in starts), key=lambda found: found.cost)
    floor, scale, exponent = np.exp(best.x)
    return np.array([floor, scale * np.exp(exponent * centre), exponent])


def draw(study: dict[str, Any], file: Path) -> None:
    """A panel for each axis: sizes as points with their deviation over seeds, the law, its band."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(AXES), figsize=(9, 3.8), layout="constrained")
    errors = [row["numbers"][f"{STAGE}: {LOSS}"]["deviation"] or 0.0 for row in study["means"]]
    for panel, axis in zip(panels, AXES):
        x, loss = points(study, axis)
        line = np.geomspace(min(x), max(x), 100)
        law = fit(x, loss)
        middle = curve(law, line)
        band = standard_error(np.array([curve(one, line) for one in fits_without_one(x, loss)]))
        told = f"{law[0]:.3g} + {law[1]:.3g} x^-{law[2]:.2f}"
        panel.plot(line, middle, color="C0", linewidth=1.2, label=told)
        panel.fill_between(line, middle - band, middle + band, color="C0", alpha=0.15)
        panel.errorbar(x, loss, yerr=errors, fmt="o", color="C0", markersize=4, capsize=3)
        for place, row in zip(zip(x, loss), study["means"]):
            panel.annotate(row["arm"], place, xytext=(4, 5), textcoords="offset points", fontsize=7)
        margin = 0.5 * np.ptp(loss)  # a band may be far wider than what was measured
        limits = min(loss) - margin, max(loss) + margin
        panel.set(xlabel=axis, ylabel=LOSS, xscale="log", ylim=limits)
        panel.grid(alpha=0.25)
        panel.legend(fontsize=8)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def gpu_hours(recipe: str, mfu: float) -> float:
    """Hours of one A100 for all steps of a recipe."""
    run = load_config(RunConfig, ROOT / f"MaskGIL/configs/{recipe}.yaml", [])
    model = Generator(run)
    with torch.device("meta"):
        (flops,) = model.flops(model.build(), 64)  # of the one shape that its images have
    return flops * run.optim.batch * run.loop.steps / (PEAKS["A100"] * 1e12 * mfu) / 3600


if __name__ == "__main__":
    sys.exit(command(main, Scaling, "scaling", __doc__ or ""))
