"""Sampling and scoring of emoji64 from the first command to the table, at two sizes of the set.

Everything that FID_sample.py can tell without Inception: distance, near training images, ladder,
classifier. Each size is a process of its own, so that its peak of memory is its own: beside the
smaller set stands what the larger one takes. Needs trained weights and `prepare emoji64 FOLDER`.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from paired import against_ours, command, write

from MaskGIL.config import to_dict
from Network.config import UserError, setting

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class ScoringBenchmark:
    """What to measure."""

    weights: str = setting("runs/emoji64/generator/weights", "weights of the emoji64 recipe")
    data: str = setting("", "folder of emoji64")
    num_images: tuple[int, ...] = setting((500, 2000), "sizes of the set, the smallest first")


def main(config: ScoringBenchmark) -> None:
    if not config.data:
        raise UserError("data is empty; make it by `python -m MaskGIL prepare emoji64 FOLDER`.")
    cases = {f"{count} images": measure(config, count) for count in config.num_images}
    first = next(iter(cases.values()))["ours"]["peak_memory_bytes"]
    for case in cases.values():
        ratio = case["ours"]["peak_memory_bytes"] / first
        case["ours"]["memory_to_smallest"] = round(ratio, 3)
        print(f"{case['ours']['peak_memory_bytes'] / 1e9:.2f} GB, {ratio:.2f} of the smallest set")
    write("scoring", "seconds and memory of sampling and scoring", to_dict(config), cases)


def measure(config: ScoringBenchmark, count: int) -> dict:
    with TemporaryDirectory() as folder:
        words = [f"weights={config.weights}", f"reference={config.data}", f"train={config.data}"]
        words += [f"out={folder}/samples.npz", f"nearest={folder}/near.png", f"num_images={count}"]
        words += ["classifier=true", "inception=none", "device=cpu"]
        recipe = ROOT / "MaskGIL/configs/emoji64/score.yaml"
        started = time.monotonic()
        process = subprocess.Popen([sys.executable, ROOT / "FID_sample.py", recipe, *words])
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        assert status == 0, f"FID_sample.py ended with {status}"
        sampling = json.loads(Path(folder, "samples.json").read_text())["made"]["seconds"]
    case = against_ours({"ours": [seconds], "sampling alone": [sampling]})
    unit = 1 if sys.platform == "darwin" else 1024
    case["ours"]["peak_memory_bytes"] = usage.ru_maxrss * unit
    return case


if __name__ == "__main__":
    sys.exit(command(main, ScoringBenchmark, "scoring", __doc__ or ""))
