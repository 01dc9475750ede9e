"""A run as one page of HTML: its curves, its samples over time and what it was.

Nothing on it is fetched from anywhere, and nothing runs: charts are SVG, pictures stand inside.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from MaskGIL.config import changed_keys, identity
from MaskGIL.history import spread_steps
from MaskGIL.values import show_value
from Trainer.chart import Line, draw_chart
from Trainer.config import RunConfig
from Trainer.curves import Curves
from Trainer.validation import QUARTERS

MOST_SAMPLES = 12
TRAIN, VALIDATION, SCORE = "#6fa08c", "#23483c", "#b5503c"
SHADES = ("#c9a227", "#8fa65a", "#4f8a7b", "#27506b")  # of little hidden to nearly all
# title -> (kind, name, its own name, colour) of each line, and whether heights are logarithmic
CHARTS: dict[str, tuple[Sequence[tuple[str, str, str, str]], bool]] = {
    "Loss": (
        (("train", "loss", "training", TRAIN), ("validation", "loss", "validation", VALIDATION)),
        False,
    ),
    "Accuracy": (
        (("train", "acc", "training", TRAIN), ("validation", "acc", "validation", VALIDATION)),
        False,
    ),
    **{
        f"{title}, by the share that is hidden": (
            tuple(
                ("validation", f"{name} {quarter}", f"{quarter} hidden", shade)
                for quarter, shade in zip(QUARTERS, SHADES)
            ),
            False,
        )
        for title, name in (("Accuracy", "acc"), ("Loss", "loss"))
    },
    "PSNR in dB": ((("validation", "psnr", "validation", VALIDATION),), False),
    "Codes in use": (
        (("train", "usage", "training", TRAIN), ("validation", "usage", "validation", VALIDATION)),
        False,
    ),
    "Distance to validation images": ((("score", "distance", "samples", SCORE),), False),
    "Gradient norm": ((("train", "gnorm", "training", TRAIN),), True),
    "Learning rate": ((("train", "lr", "training", TRAIN),), False),
    "Images per second": ((("train", "images_per_second", "training", TRAIN),), False),
}
STYLE = """
:root { font: 15px/1.5 ui-sans-serif, system-ui, sans-serif; color: #22252b; background: #fbfaf8 }
body { margin: 0 auto; max-width: 1080px; padding: 28px 24px 64px }
h1 { font-size: 22px; margin: 0 } h2 { font-size: 15px; margin: 0 0 6px; font-weight: 600 }
header p, figcaption, .key, dt { color: #767b86; font-size: 13px } header p { margin: 4px 0 24px }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: 16px }
section { background: #fff; border: 1px solid #e7e4de; border-radius: 12px; padding: 14px 16px }
svg { width: 100%; display: block } .line { fill: none; stroke-width: 1.8; stroke-linejoin: round }
.grid { stroke: #efece6 } .tick { font-size: 11px; fill: #8a8f99; text-anchor: middle }
.tick.end { text-anchor: end } .key span { margin-right: 14px; white-space: nowrap }
.key i { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 5px }
.samples { display: flex; gap: 14px; flex-wrap: wrap; margin: 16px 0 } figure { margin: 0 }
.samples img { width: 220px; border-radius: 8px; image-rendering: pixelated; display: block }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 0 }
dd { margin: 0; overflow-wrap: anywhere; font: 13px/1.6 ui-monospace, monospace }
.wide { margin-top: 16px }
"""


def report_page(run: Curves) -> str:
    """The HTML of a run; what it has no numbers of is left out."""
    last = max(record["step"] for record in run.records)
    told = f"{run.config.job}, {last:,} of {run.config.loop.steps:,} steps"
    name = escape(str(run.source))
    return "\n".join(
        [
            '<!doctype html><html lang="en"><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{name}</title><style>{STYLE}</style>",
            f"<header><h1>{name}</h1><p>{escape(told)}</p></header>",
            f'<div class="charts">{"".join(_chart(run, title, last) for title in CHARTS)}</div>',
            _samples(run.source / "samples"),
            _facts("Settings", _settings(run.config)),
            _facts("Where it ran", run.environment),
            "</html>\n",
        ]
    )


def _chart(run: Curves, title: str, last: int) -> str:
    rows, logarithmic = CHARTS[title]
    lines = [
        Line(own, run.values(kind, name), colour, dots=kind != "train")
        for kind, name, own, colour in rows
    ]
    picture = draw_chart(lines, last, logarithmic)
    if not picture:
        return ""
    key = "".join(
        f'<span><i style="background:{line.colour}"></i>{escape(line.name)}</span>'
        for line in lines
        if line.points
    )
    return f'<section><h2>{escape(title)}</h2>{picture}<div class="key">{key}</div></section>'


def _samples(folder: Path) -> str:
    """The pictures that the run has drawn, spread over its time."""
    files = sorted(folder.glob("step-*.png"))
    shown = [files[index] for index in spread_steps(len(files), MOST_SAMPLES)]
    figures = "".join(
        f'<figure><img alt="" src="data:image/png;base64,{_base64(file)}">'
        f"<figcaption>step {_step(file):,}</figcaption></figure>"
        for file in shown
    )
    return f'<div class="samples">{figures}</div>' if figures else ""


def _base64(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


def _step(file: Path) -> int:
    found = re.search(r"\d+", file.stem)
    return int(found[0]) if found else 0


def _settings(config: RunConfig) -> dict[str, object]:
    """What makes the run another one than a run of nothing but defaults."""
    changes = changed_keys(identity(RunConfig()), identity(config))
    return {key: value for key, _, value in changes}


def _facts(title: str, facts: Mapping[str, object]) -> str:
    rows = "".join(
        f"<dt>{escape(str(key))}</dt><dd>{escape(show_value(value))}</dd>"
        for key, value in facts.items()
    )
    return f'<section class="wide"><h2>{title}</h2><dl>{rows}</dl></section>' if rows else ""
