"""Resume checkpoints: a folder per step, written aside, hashed, then renamed into place.

`step-0000500/` holds tensors as safetensors, numbers as JSON, and a manifest with the sha256 of
each file; `latest` names the newest. The loop waits for the copy to the CPU only.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from MaskGIL.distributed import all_gather_texts, is_main
from MaskGIL.durable import is_full, save_tensors
from Network.config import UserError
from Trainer.logger import format_bytes
from Trainer.parallel import fill_in, whole

FORMAT = 2
OF_GENERATORS = 1  # a format with the same files, in which tokenizers had other names
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
_FLAT = replace(_WHOLE, flatten_optimizer_state_dict=True)  # names for tensors; reading knows them

Snapshot = dict[str, Mapping[str, Any]]  # file name -> tensors, or numbers for *.json


class Checkpoints:
    """The checkpoints of one run. Writing happens in one thread, in order.

    The newest `keep` stay, and for ever each whose step `keep_every` divides, unless it is 0.
    """

    def __init__(self, folder: Path, keep: int, keep_every: int = 0):
        self.folder, self.keep, self.keep_every = folder, keep, keep_every
        self.warn: Callable[[str], object] = print  # takes what a user should know
        self.is_lost = False  # the disk was full when the newest one was written
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future | None = None

    def save(
        self, step: int, snapshot: Snapshot, export: Callable[[Snapshot], None] | None = None
    ) -> None:
        """Write a snapshot in the background, then `export` it; waits only for the one before it.

        A disk that is full is told, and nothing else happens.
        """
        self.wait()
        self._pending = self._writer.submit(self._save, step, snapshot, export)

    def wait(self) -> None:
        """Wait until everything is on disk. Raises what the writing raised."""
        if self._pending:
            pending, self._pending = self._pending, None
            pending.result()

    def names(self) -> list[str]:
        """What the folders of all checkpoints are called, whole or damaged."""
        return sorted(p.name for p in self.folder.glob("step-*") if p.suffix != ".tmp")

    def latest(self) -> Path | None:
        """The newest whole checkpoint, or None. Damaged ones are passed over, with a warning.

        Every rank comes here; rank 0 alone reads the files for it, and names one. None, too, where
        that is not on the disk of this rank. Raises UserError for a checkpoint of a format that
        this version does not read.
        """
        name = all_gather_texts(self._newest_whole() if is_main() else "")[0]
        folder = self.folder / name
        return folder if name and folder.is_dir() else None

    def _newest_whole(self) -> str:
        """What the folder that `latest` looks for is called, or nothing."""
        for name in reversed(self.names()):
            if (damage := damaged_file(self.folder / name)) is None:
                return name
            print(f"warning: checkpoint {name} is passed over: {damage}", flush=True)
        return ""

    def _save(
        self, step: int, snapshot: Snapshot, export: Callable[[Snapshot], None] | None
    ) -> None:
        final = self.folder / f"step-{step:07d}"
        aside = final.with_suffix(".tmp")
        try:
            self._write(final, aside, step, snapshot)
            self.is_lost = False
            self._delete_old(final)
            if export:
                export(snapshot)
        except (OSError, SafetensorError) as error:
            if not is_full(error):
                raise
            self.is_lost = not final.exists()
            shutil.rmtree(aside, ignore_errors=True)
            free = shutil.disk_usage(self.folder).free
            self.warn(
                f"warning: the disk of {self.folder} is full: {final.name} and its weights need up "
                f"to {format_bytes(2 * _size(snapshot))}, {format_bytes(free)} are free. What was "
                "saved before is intact and training goes on; make room before it ends."
            )

    def _write(self, final: Path, aside: Path, step: int, snapshot: Snapshot) -> None:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        for name, content in snapshot.items():
            if name.endswith(".json"):
                (aside / name).write_text(json.dumps(content, indent=1))
            else:
                save_tensors(content, aside / name)
        hashes = {name: _sha256(aside / name) for name in snapshot}
        manifest = {"format": FORMAT, "step": step, "sha256": hashes}
        (aside / "manifest.json").write_text(json.dumps(manifest, indent=1))
        for file in aside.iterdir():
            _sync(file)
        shutil.rmtree(final, ignore_errors=True)  # the same step again, of a resumed run
        os.replace(aside, final)
        _sync(self.folder)
        (self.folder / "latest.tmp").write_text(final.name)
        os.replace(self.folder / "latest.tmp", self.folder / "latest")

    def _delete_old(self, newest: Path) -> None:
        # Later ones are damaged leftovers that were passed over: they do not count as kept
        whole = [each for each in self.folder.glob("step-*[0-9]") if each.name <= newest.name]
        for old in sorted(whole)[: -self.keep]:
            if self.keep_every and int(old.name.removeprefix("step-")) % self.keep_every == 0:
                continue
            try:
                shutil.rmtree(old)
            except OSError as error:
                self.warn(f"warning: the old checkpoint {old} cannot be deleted: {error}")


def damaged_file(folder: Path) -> str | None:
    """What is wrong with a checkpoint folder, in a few words; None if nothing is.

    Raises UserError for a format that this version does not read.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        known = manifest["format"] == FORMAT or _is_of_generator(folder, manifest)
        hashes = manifest["sha256"].items() if known else ()
        damaged = [name for name, expected in hashes if _sha256(folder / name) != expected]
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        return f"manifest.json or a file of it is missing or unreadable ({error})"
    if not known:
        raise UserError(
            f"The checkpoint {folder} has format {manifest['format']}, this version reads "
            f"{FORMAT}; resume with the version that wrote it, or name another out_dir."
        )
    return f"{damaged[0]} is damaged" if damaged else None


def _is_of_generator(folder: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether a checkpoint of the first format is one of a generator, which is still read."""
    if manifest["format"] != OF_GENERATORS:
        return False
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = file.keys()
    return not any(name.startswith("encoder.") for name in names)


def take_snapshot(
    module: nn.Module,
    optimizer: Optimizer,
    ema: Mapping[str, Tensor],
    extra: Mapping[str, Tensor],
    state: dict,
) -> Snapshot:
    """Copy everything that resuming needs to the CPU; every rank must come, rank 0 gets it."""
    moments = get_optimizer_state_dict(module, optimizer, options=_FLAT)
    tensors = {name: value for name, value in moments.items() if isinstance(value, Tensor)}
    numbers = {name: value for name, value in moments.items() if not isinstance(value, Tensor)}
    return {
        "model.safetensors": _copied(get_model_state_dict(module, options=_WHOLE)),
        "ema.safetensors": _copied(ema),
        "optim.safetensors": _copied(tensors),
        "extra.safetensors": _copied(extra),
        "state.json": {**state, "optimizer": numbers},
    }


def read_state(folder: Path) -> dict:
    """The numbers of a checkpoint: the `state` of its snapshot, and those of the optimiser."""
    return json.loads((folder / "state.json").read_text())


def restore(
    folder: Path,
    module: nn.Module,
    optimizer: Optimizer,
    ema: Mapping[str, Tensor],
    extra: Mapping[str, Tensor],
) -> dict:
    """Load a checkpoint into what it was taken of; returns the rest of the state."""
    state = read_state(folder)
    weights: dict[str, Any] = {**load_file(folder / "model.safetensors")}
    set_model_state_dict(module, weights, options=StateDictOptions(full_state_dict=True))
    for file, tensors in (("ema.safetensors", ema), ("extra.safetensors", extra)):
        saved = load_file(folder / file)
        assert saved.keys() == tensors.keys()
        for name, tensor in tensors.items():
            fill_in(tensor, saved[name])
    moments = {**load_file(folder / "optim.safetensors"), **state.pop("optimizer")}
    set_optimizer_state_dict(module, optimizer, moments, options=_WHOLE)
    return state


def _size(snapshot: Snapshot) -> int:
    """Bytes of its tensors."""
    files = (content.values() for content in snapshot.values())
    return sum(each.nbytes for values in files for each in values if isinstance(each, Tensor))


def _copied(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """On the CPU and apart from the originals, which the next step changes; of rank 0 alone."""
    copies: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        full = whole(tensor.detach())  # one after the other, so that no rank holds them all
        if is_main():
            copies[name] = torch.empty(full.shape, dtype=full.dtype).copy_(full)
    return copies


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
