"""The curves of a run: read from its folder or from a file, and two of them compared.

`NAME.curves.json` beside a recipe is what one run of it gave: `python main.py compare=RUN` finds it
by the settings that make the run what it is, the seed apart, and says where both part.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import MaskGIL
from MaskGIL.config import changed_keys, from_dict, identity, load_config, to_dict
from MaskGIL.durable import replace_file, to_json
from MaskGIL.values import show_value
from Network.config import UserError
from Trainer.config import RunConfig

CONFIGS = Path(MaskGIL.__file__).parent / "configs"
SUFFIX = ".curves.json"
ROWS = 8  # of training in the table
COMPARED = ("loss", "acc", "psnr")  # what a table shows, as far as both runs have it
VERSIONS = ("commit", "torch", "devices", "ranks")  # what may make equal recipes differ

Values = dict[str, Any]


@dataclass(frozen=True)
class Curves:
    """What a run logged, and what it was: its settings, versions and machine."""

    source: Path
    config: RunConfig
    environment: Values
    records: list[Values]  # {"step", "kind": train | validation | score, name: number}

    def averages(self) -> dict[int, int]:
        """Step -> how many steps its training record is the mean of; fewer after a resume."""
        counts = self.values("train", "averaged_over")
        return {step: int(count) for step, count in counts.items()}

    def values(self, kind: str, name: str) -> dict[int, float]:
        """Step -> number, of the records of a kind that have it."""
        own = (record for record in self.records if record["kind"] == kind)
        return {record["step"]: record[name] for record in own if name in record}


def read_curves(path: Path, key: str = "compare") -> Curves:
    """The curves of a run folder, or of a file that `write_curves` made; `key` asked for them.

    Raises UserError if there are none.
    """
    if path.is_file():
        try:
            stored = json.loads(path.read_text("utf-8"))
            config = from_dict(RunConfig, stored["config"], str(path))
            return Curves(path, config, stored["environment"], stored["records"])
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"{key}={path} holds no curves: name a run folder or a {SUFFIX}."
            ) from None
    config, environment = path / "config.yaml", path / "env.json"
    return Curves(
        path,
        load_config(RunConfig, config, []) if config.is_file() else RunConfig(),
        json.loads(environment.read_text()) if environment.is_file() else {},
        _records(path, key),
    )


def write_curves(run: Curves, path: Path) -> None:
    """Keep the curves of a run as a file, without speeds and folders: a reference for others."""
    records = [
        {name: value for name, value in record.items() if name != "images_per_second"}
        for record in run.records
    ]
    nowhere = replace(run.config.data, path="", cache="")
    config = replace(run.config, out_dir="", report="", compare=(), data=nowhere)
    content = {"config": to_dict(config), "environment": run.environment, "records": records}
    replace_file(path, to_json(content) + b"\n")


def find_reference(run: Curves) -> Curves:
    """The curves beside the recipe of a run. Raises UserError that names the nearest recipe."""
    known = [read_curves(file) for file in sorted(CONFIGS.rglob(f"*{SUFFIX}"))]
    changes = [_differences(run, each) for each in known]
    nearest = min(range(len(known)), key=lambda index: len(changes[index]))
    if changes[nearest]:
        key, there, here = changes[nearest][0]
        more = len(changes[nearest]) - 1
        raise UserError(
            f"No recipe with curves equals {run.source}; the nearest, {known[nearest].source.name}"
            f", has {key}={show_value(there)}, not {show_value(here)} (other keys that differ: "
            f"{more}). Name what to compare with: compare={run.source},OTHER."
        )
    return known[nearest]


def comparison(run: Curves, other: Curves) -> str:
    """A table of both at common steps, what of them differs, and how far they part."""
    lines = [f"{'compare':12}{run.source}", f"{'with':12}{other.source}"]
    lines += [f"{'differs':12}{text}" for text in _what_differs(run, other)]
    rows = list(_rows(run, other))
    if not rows:
        raise UserError(f"{run.source} and {other.source} have no logged step in common.")
    lines += ["", f"{'step':>8}  {'kind':10}  {'':5}{'here':>10}{'there':>10}{'apart':>9}"]
    for step, kind, name, here, there in rows:
        apart = f"{_apart(here, there):9.2%}"
        lines.append(f"{step:8}  {kind:10}  {name:5}{here:10.4g}{there:10.4g}{apart}")
    return "\n".join([*lines, "", f"{'in all':12}{_verdict(run, other)}"])


def _records(folder: Path, key: str) -> list[Values]:
    """The lines of a run's metrics.jsonl; one that a kill has torn is left out."""
    file = folder / "metrics.jsonl"
    if not file.is_file():
        raise UserError(f"{key}={folder} is no run folder: it has no metrics.jsonl.")
    return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]


def _differences(run: Curves, other: Curves) -> list[tuple[str, Any, Any]]:
    """(key, other's value, run's value) of what makes them other runs, the seed apart."""
    changes = changed_keys(identity(other.config), identity(run.config))
    return [change for change in changes if change[0] != "seed"]


def _what_differs(run: Curves, other: Curves) -> Iterator[str]:
    for key, there, here in changed_keys(identity(other.config), identity(run.config)):
        yield f"{key}: {show_value(here)}, there {show_value(there)}"
    here, there = run.config.loop.steps, other.config.loop.steps
    if here != there:  # the learning rate follows from it
        yield f"loop.steps: {here}, there {there}"
    for key in VERSIONS:
        here, there = run.environment.get(key), other.environment.get(key)
        if here != there:
            yield f"{key}: {show_value(here)}, there {show_value(there)}"


def _rows(run: Curves, other: Curves) -> Iterator[tuple[int, str, str, float, float]]:
    for kind in ("train", "validation"):
        for name in COMPARED:
            here, there = run.values(kind, name), other.values(kind, name)
            steps = _common(run, other, kind, name)
            stride = math.ceil(len(steps) / ROWS) or 1
            for step in steps[::-stride][::-1]:  # the last one among them
                yield step, kind, name, here[step], there[step]


def _common(run: Curves, other: Curves, kind: str, name: str) -> list[int]:
    """The steps that both have logged; of means, those that both took over as many steps."""
    steps = sorted(run.values(kind, name).keys() & other.values(kind, name).keys())
    if kind != "train":
        return steps
    here, there = run.averages(), other.averages()
    return [step for step in steps if here.get(step, 0) == there.get(step, here.get(step, 0))]


def _verdict(run: Curves, other: Curves) -> str:
    """How far the losses are apart at most, over every step that both have logged."""
    here, there = run.values("train", "loss"), other.values("train", "loss")
    common = _common(run, other, "train", "loss")
    apart = {step: _apart(here[step], there[step]) for step in common}
    if not any(apart.values()):
        return f"the training losses of all {len(common)} common steps are equal"
    first = next(step for step in common if apart[step])
    most = max(apart, key=lambda step: apart[step])
    return (
        f"the training losses part at step {first}, are {apart[most]:.2%} apart at most (step "
        f"{most}) and {apart[common[-1]]:.2%} at the end (step {common[-1]})"
    )


def _apart(here: float, there: float) -> float:
    """The difference as a share of the other's number; infinite where either is not finite."""
    difference = abs(here - there)
    if not math.isfinite(difference):
        return math.inf
    return difference / max(abs(there), 1e-12)
