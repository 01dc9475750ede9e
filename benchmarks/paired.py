"""Timing side by side: every way in turn, round after round, in one process.

What disturbs a machine disturbs all ways alike, so a ratio within a round can be trusted where
seconds cannot. Large square matrix products take their turn too: they tell what the machine had
to give while the ways ran. Results go to benchmarks/results/*.json.
"""

import os
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from MaskGIL.command import Flags, run_command
from MaskGIL.config import to_yaml
from MaskGIL.durable import replace_file, to_json
from Trainer.run_folder import environment

RESULTS = Path(__file__).parent / "results"
MATMUL = {"cpu": 2048, "cuda": 8192, "mps": 4096}  # side of the matrices that give the peak

Way = Callable[[], Any]
Case = dict[str, dict[str, Any]]  # what was measured of every way, by its name


def command(job: Callable[[Any], None], schema: type, name: str, about: str) -> int:
    """Run benchmarks/`name`.py as its command line asks; a dry run shows the settings alone."""

    def start(config: Any, flags: Flags) -> None:
        if flags.dry_run:
            print(to_yaml(config), end="")
        else:
            job(config)

    program = f"python benchmarks/{name}.py"
    return run_command(start, schema, sys.argv[1:], program=program, about=about)


def in_turns(
    ways: Mapping[str, Way], rounds: int, seconds: float, device: torch.device
) -> dict[str, list[float]]:
    """Seconds per call of every way, one number per round; a turn lasts at least `seconds`."""
    for way in ways.values():
        way()  # warms up
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(_seconds_per_call(way, seconds, device))
    return times


def against_ours(times: dict[str, list[float]]) -> Case:
    """Median, least and most seconds of every way, and how many times the seconds of "ours"."""
    case: Case = {}
    for name, seconds in times.items():
        case[name] = {"seconds": spread(seconds)}
        if name != "ours":
            ratios = [other / ours for other, ours in zip(seconds, times["ours"])]
            case[name]["ratio_to_ours"] = spread(ratios)
    return case


def compare(
    ways: Mapping[str, Way],
    dtype: torch.dtype,
    device: torch.device,
    rounds: int,
    seconds: float,
    others: Mapping[str, torch.dtype] | None = None,
) -> Case:
    """Time the ways and tell which share of the machine's best matrix product each one reaches.

    The product is in the dtype of the way: `dtype`, or what `others` says of its name.
    """
    flops = {name: count_flops(way) for name, way in ways.items()}
    dtypes = dict.fromkeys(ways, dtype) | dict(others or {})
    products = {_product_name(each, dtype): matmul_way(each, device) for each in dtypes.values()}
    times = in_turns({**ways, **products}, rounds, seconds, device)
    peaks = {
        name: count_flops(product) / min(times.pop(name)) for name, product in products.items()
    }
    case = against_ours(times)
    for name in ways:
        reached = flops[name] / case[name]["seconds"]["median"]
        share = reached / peaks[_product_name(dtypes[name], dtype)]
        case[name] |= {"gigaflops_counted": round(flops[name] / 1e9, 2)}
        case[name] |= {"share_of_matmul_peak": round(share, 3)}
    case |= {name: {"gigaflops_per_second": round(peak / 1e9, 1)} for name, peak in peaks.items()}
    return case


def write(name: str, what: str, settings: dict[str, Any], cases: dict[str, Case]) -> None:
    """Write results/`name`.json, with the machine and the versions, and show a table of it."""
    record = {
        "what": what,
        "command": " ".join(["python", f"benchmarks/{name}.py", *sys.argv[1:]]),
        "settings": settings,
        "machine": machine(),
        "cases": cases,
    }
    RESULTS.mkdir(exist_ok=True)
    replace_file(RESULTS / f"{name}.json", to_json(record) + b"\n")
    print(table(cases))


def machine() -> dict[str, Any]:
    """Processor, threads, how busy it is, versions and commit."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    facts = {"cpu": names[0] if names else "unknown", "threads": torch.get_num_threads()}
    return {**facts, "load": [round(load, 2) for load in os.getloadavg()], **environment()}


def table(cases: dict[str, Case]) -> str:
    """One line per case and way, for people."""
    names = [name for ways in cases.values() for name in ways]
    first, second = (2 + max(map(len, column)) for column in (cases, names))
    titles = f"{'seconds':>11}{'min':>11}{'max':>11}{'x ours':>9}{'of peak':>9}"
    lines = [" " * (first + second) + titles]
    for case, ways in cases.items():
        for name, facts in ways.items():
            if "seconds" not in facts:
                continue
            numbers = [f"{facts['seconds'][key]:11.4g}" for key in ("median", "min", "max")]
            ratio = facts.get("ratio_to_ours", {"median": 1.0})["median"]
            share = facts.get("share_of_matmul_peak")
            numbers += [f"{ratio:9.2f}", f"{share:9.1%}" if share else ""]
            lines.append(f"{case:{first}}{name:{second}}{''.join(numbers)}")
    return "\n".join(lines)


def count_flops(way: Way) -> int:
    """Floating-point operations of a call, as PyTorch's counter sees them."""
    with FlopCounterMode(display=False) as counter:
        way()
    return counter.get_total_flops()


def peak_bytes(way: Way, device: torch.device) -> int:
    """The most bytes that tensors made within a call hold at once, what outlives it included."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        way()
        return torch.cuda.max_memory_allocated(device) - before
    with _Held() as held:
        way()
    return held.most


class _Held(TorchDispatchMode):
    """Bytes of the storages that operations have made and that still live, and the most of them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = {storage._cdata for storage in _storages((args, kwargs))}
        made = func(*args, **kwargs)
        for storage in _storages(made):
            if storage._cdata not in given:  # no view, nothing written in place
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._free, storage.nbytes())
        return made

    def _free(self, count: int) -> None:
        self.now -= count


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def matmul_way(dtype: torch.dtype, device: torch.device) -> Way:
    """A large square matrix product: the best that the machine can do."""
    size = MATMUL[device.type]
    factor = torch.randn(size, size, device=device).to(dtype)
    product = torch.empty_like(factor)
    return lambda: torch.mm(factor, factor, out=product)


def spread(values: list[float]) -> dict[str, Any]:
    """Median, least, most and all of a row of numbers, to four digits."""
    spread = {"median": median(values), "min": min(values), "max": max(values), "rounds": values}
    return {key: _rounded(value) for key, value in spread.items()}


def _seconds_per_call(way: Way, seconds: float, device: torch.device) -> float:
    _wait(device)
    started, calls = time.perf_counter(), 0
    while not calls or time.perf_counter() - started < seconds:
        way()
        calls += 1
    _wait(device)
    return (time.perf_counter() - started) / calls


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _product_name(dtype: torch.dtype, usual: torch.dtype) -> str:
    return "matmul" if dtype == usual else f"matmul {str(dtype).removeprefix('torch.')}"


def _rounded(value: Any) -> Any:
    return [_rounded(v) for v in value] if isinstance(value, list) else float(f"{value:.4g}")
