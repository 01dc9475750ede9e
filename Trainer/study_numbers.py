"""The picture of what a study has found: a panel for each number, means with error bars."""

from pathlib import Path
from typing import Any

import matplotlib

from Trainer.study_table import COSTS, shown_numbers

STYLES = ("-", "--", ":", "-.")  # of values

Record = dict[str, Any]


def draw_numbers(study: Record, file: Path) -> None:
    """A row for each arm and its values; a bar is the standard deviation over seeds.

    Numbers that are the same for all rows, or told by one alone, have no panel.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot

    means = study["means"]
    names = [name for name in shown_numbers(study) if _is_drawn(name, means)]
    if not names:
        return
    labels = [" ".join([row["arm"], *row["values"].values()]).strip() or "all" for row in means]
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    size = (1.5 + 2.6 * columns, rows * (0.9 + 0.26 * len(labels)))
    figure, grid = pyplot.subplots(
        rows, columns, figsize=size, squeeze=False, sharey=True, layout="constrained"
    )
    for panel, name in zip(grid.flat, names):
        for place, row in enumerate(means):
            about = row["numbers"].get(name)
            if about and about["mean"] is not None:
                panel.errorbar(about["mean"], place, xerr=about["deviation"], fmt="o", color="C0",
                               markersize=4, capsize=3)  # fmt: skip
        panel.set_title(name, fontsize=8)
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.25)
    for panel in list(grid.flat)[len(names) :]:
        panel.set_visible(False)
    grid[0, 0].set_yticks(range(len(labels)), labels=labels)
    grid[0, 0].invert_yaxis()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def draw_blocks(study: Record, file: Path) -> None:
    """How large the hidden states are behind each block, a line for each cell that tells it.

    Arms have colours, values of an axis styles.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot

    told = [cell for cell in study["cells"] if "blocks" in cell["curves"]]
    if not told:
        return
    figure, panel = pyplot.subplots(figsize=(6, 4), layout="constrained")
    labels = [" ".join([cell["arm"], *cell["values"].values()]).strip() or "all" for cell in told]
    arms, values = (
        list(dict.fromkeys(names))
        for names in zip(*((cell["arm"], str(cell["values"])) for cell in told))
    )
    for cell, label in zip(told, labels):
        curve, colour = cell["curves"]["blocks"], f"C{arms.index(cell['arm'])}"
        style = STYLES[values.index(str(cell["values"])) % len(STYLES)]
        own = label if label not in [line.get_label() for line in panel.lines] else None
        panel.plot(curve["block"], curve["size"], style, color=colour, label=own, linewidth=1)
    panel.set(xlabel="block", ylabel="root mean square behind it", yscale="log")
    panel.grid(alpha=0.25)
    figure.legend(fontsize=7, loc="outside right upper")
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def _is_drawn(name: str, means: list[Record]) -> bool:
    """Costs are told by the table alone, and so is what does not tell rows apart."""
    if name.split(": ", 1)[1] in COSTS:
        return False
    told = [row["numbers"][name]["mean"] for row in means if name in row["numbers"]]
    fewest = 2 if len(means) > 1 else 1
    return len({mean for mean in told if mean is not None}) >= fewest
