"""The folder of a run: what it holds, whose it is, and whether a run may go on in it."""

import json
import os
import platform
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torchvision

from MaskGIL.checkout import commit
from MaskGIL.config import changed_keys, identity, load_config, to_yaml
from MaskGIL.distributed import barrier, is_main, world_size
from MaskGIL.durable import replace_file
from MaskGIL.output import check_writable
from MaskGIL.values import amount, show_value
from Network.config import UserError
from Trainer.config import RunConfig
from Trainer.lock import NAME
from Trainer.logger import format_bytes

MARKER = "PREEMPTED"  # a run that a signal has ended, saved: to be started again


def open_run_folder(config: RunConfig) -> Path:
    """Create the folder `out_dir`, or check that it is a run which `config` may resume.

    Raises UserError for a folder that is something else, and for a run whose identity differs.
    """
    folder = Path(config.out_dir)
    check_run_folder(config)
    barrier()  # no rank writes before all have looked
    if is_main():
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "config.yaml", to_yaml(config))  # first: it makes the folder ours
        for name in ("checkpoints", "samples", "tb"):
            (folder / name).mkdir(exist_ok=True)
        with (folder / "command.txt").open("a") as file:
            print(shlex.join([Path(sys.executable).name, *sys.argv]), file=file)
        _write(folder / "env.json", json.dumps(environment(), indent=1))
        (folder / MARKER).unlink(missing_ok=True)
    barrier()
    return folder


def check_run_folder(config: RunConfig) -> None:
    """Raise UserError unless `out_dir` is new, empty or a run with the identity of `config`."""
    if not config.out_dir:
        raise UserError(
            "out_dir is empty; name a recipe, such as MaskGIL/configs/demo/generator.yaml, or the "
            "folder of the run, out_dir=runs/NAME."
        )
    folder = Path(config.out_dir)
    check_writable("out_dir", folder.absolute())
    if not folder.exists() or {path.name for path in folder.iterdir()} <= {
        "cache",
        "bad_files.txt",
        NAME,
    }:
        return
    if not (folder / "config.yaml").is_file():
        raise UserError(
            f"out_dir={folder} is not empty and not one of our runs (it has no config.yaml); "
            "name another folder."
        )
    earlier = load_config(RunConfig, folder / "config.yaml", [])
    changes = changed_keys(identity(earlier), identity(config))
    if config.job == earlier.job == "study":
        return  # whose parts know what they are, each in its own folder
    if changes:
        key, old, new = changes[0]
        more = f" ({len(changes) - 1} more keys differ)" if len(changes) > 1 else ""
        raise UserError(
            f"out_dir={folder} holds a run with {key}={old}, not {new}{more}; "
            "resume it unchanged or name another folder."
        )


def as_begun(config: RunConfig) -> RunConfig:
    """`config` with the weights that the run in its folder began with, where it goes on.

    Raises UserError if it names others, which could have no effect any more.
    """
    earlier = load_config(RunConfig, Path(config.out_dir) / "config.yaml", [])
    for key in ("init_from", "init_skip"):
        given, old = getattr(config, key), getattr(earlier, key)
        if given and given != old:
            raise UserError(
                f"out_dir={config.out_dir} holds a run that began with {key}={show_value(old)}, "
                f"not {show_value(given)}; leave {key} out, or name another out_dir."
            )
    return replace(config, init_from=earlier.init_from, init_skip=earlier.init_skip)


def mark_preempted(folder: Path, told: str) -> None:
    """Leave the sign that this run waits to be started again; every rank comes here."""
    if is_main():
        replace_file(folder / MARKER, f"{told}\n".encode())
    barrier()


def environment() -> dict[str, object]:
    """Versions and machine, for the record; no environment variables."""
    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "commit": commit(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if cuda
        else ["cpu"],
        "ranks": world_size(),
    }


def surroundings(
    folder: Path, device: torch.device, dtype: torch.dtype, step: int, steps: int
) -> dict[str, str]:
    """What the first lines of the log say about machine and folder of a run at `step`."""
    precision = str(dtype).removeprefix("torch.")
    free = format_bytes(shutil.disk_usage(folder).free)
    return {
        "device": f"{device}, {precision}, {amount(world_size(), 'rank')}, "
        f"{amount(torch.get_num_threads(), 'thread')}",
        "run": f"{folder}, step {step:,} of {steps:,}, {free} free on its disk",
    }


def _write(path: Path, text: str) -> None:
    aside = path.with_suffix(".tmp")
    aside.write_text(text)
    os.replace(aside, path)
