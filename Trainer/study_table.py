"""The table of a study in Markdown: a row for each arm and its values, means over seeds."""

from collections.abc import Sequence
from typing import Any

from Trainer.equal_cost import COMPUTE, DISTANCE

Record = dict[str, Any]

COSTS = ("parameters", "training teraFLOPs")
# Numbers that the table shows; the record has all
SHOWN = (DISTANCE, "FID", "rFID", "PSNR (dB)", "psnr", "SSIM", "usage",
         "usage (share)", "loss", "ar_loss", "bits per image", "bits per image (mar)",
         "bits per image (ar)", "bits per token", "distance", COMPUTE, "class accuracy",
         *COSTS)  # fmt: skip
NOTES = {
    "bits per token": "Bits per token are not comparable across codebooks of different sizes; bits "
    "per image are.",
    "bits per image": "Bits per image are exact for a generator in raster order; for a masked one "
    "they are an upper bound, with the number of hidden tokens drawn evenly.",
    DISTANCE: "The distance is that of our own feature network: no FID.",
    "training teraFLOPs": "Operations are counted, not estimated: a multiplication and an addition "
    "are two.",
}


WITHIN = (
    "Distances within some seconds are the least of the settings swept that take no longer for an "
    "image; in that time every row can make one. Seconds are of this machine."
)


def to_markdown(study: Record) -> str:
    """Means and standard deviations over seeds; notes, and the command of each part, once."""
    means, time = study["means"], study["time"]
    stages = list(study["cells"][0]["parts"])
    columns = shown_numbers(study)
    titles = columns[:] if len(stages) > 1 else [name.split(": ", 1)[1] for name in columns]
    timed = time["at equal sampling time"]
    titles += [
        f"{name}: distance within {each['seconds per image']:.2g} s" for name, each in timed.items()
    ]
    axes = list(dict.fromkeys(key for row in means for key in row["values"]))
    table = [["", *axes, "seeds", "diverged", *titles]]
    for number, row in enumerate(means):
        values = [row["values"].get(axis, "") for axis in axes]
        counts = [str(row["seeds"]), str(row["diverged"] or "")]
        shown = [_number(row["numbers"].get(name)) for name in columns]
        shown += [_number(each["distances"][number]) for each in timed.values()]
        table.append([row["arm"] or "all", *values, *counts, *shown])
    notes = [note for name, note in NOTES.items() if any(name in title for title in titles)]
    if study["equal compute"]:
        flops = f"{study['equal compute']:.3g} teraFLOPs"
        notes.append(f"Equal compute is {flops} of training, where the cheapest one ends.")
    if timed:
        notes.append(WITHIN)
    notes.append(
        f"{time['parts']:,.0f} s in {len(time['seconds'])} parts, of an interrupted one that of "
        f"its last attempt; {time['idle share']:.1%} of the whole was idle between them. Written "
        f"by `{study['command']}` at {study['environment']['commit']}."
    )
    lines = ["# Means over seeds ± their standard deviation", "", *_lined(table), ""]
    lines += [*(f"* {note}" for note in notes), "", "# The command of each part", "", "```"]
    commands: dict[str, str] = {}
    for stage in stages:
        commands |= {cell["parts"][stage]: cell["commands"][stage] for cell in study["cells"]}
    lines += [f"# {part}\n{command}" for part, command in commands.items()]
    return "\n".join([*lines, "```"]) + "\n"


def shown_numbers(study: Record) -> list[str]:
    """The numbers of a record that tables and pictures show, each "STAGE: NAME"."""
    names = dict.fromkeys(name for row in study["means"] for name in row["numbers"])
    return [name for name in names if name.split(": ", 1)[1] in SHOWN]


def _lined(table: Sequence[Sequence[str]]) -> list[str]:
    """Rows of a table whose first one is its head; numbers stand at the right."""
    widths = [max(map(len, column)) for column in zip(*table)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    rows = [table[0], rule, *table[1:]]
    return [
        f"| {' | '.join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])} |"
        for row in rows
    ]


def _number(about: Record | None) -> str:
    """Mean ± deviation, the mean with four digits or whole, the deviation with two."""
    if about is None or about["mean"] is None:
        return "-"
    mean, deviation = about["mean"], about["deviation"]
    if deviation is None:
        return _plain(mean)
    return f"{_plain(mean)} ± {deviation:.2g}"


def _plain(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
