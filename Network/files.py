"""Weights in files: read safely, loaded strictly, told in one sentence when they do not fit."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from Network.config import UserError

PICKLED = (".pt", ".pth")
WRAPPERS = ("module", "_orig_mod")  # what DDP and torch.compile put into a name


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file, or a flat .pt or .pth, onto the CPU. Nothing in it is executed.

    Raises UserError if the file is missing, empty, a Git LFS pointer, a web page or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"No such weights file: {path}.")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(64)
    if size == 0:
        raise UserError(f"{path} is empty; copy or download it again.")
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a Git LFS pointer of {size} bytes; run `git lfs pull`.")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise UserError(f"{path} is a web page, not weights; download the file itself.")
    if path.suffix in PICKLED:
        return _read_pickled(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is not a whole safetensors file ({_first_line(error)}).") from None


def load_strict(module: nn.Module, state: Mapping[str, Tensor], source: object) -> None:
    """Copy `state` into `module`; every name and shape must agree, every number be finite.

    What DDP and torch.compile put into names is dropped. Raises UserError that names `source` and
    at most five tensors that do not fit.
    """
    given = {_unwrapped(name): tensor for name, tensor in state.items()}
    wanted = module.state_dict()
    wrong = [f"missing {name}" for name in wanted if name not in given]
    wrong += [f"unexpected {name}" for name in given if name not in wanted]
    wrong += [
        f"{name} is {_shape(given[name])}, not {_shape(tensor)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]
    if wrong:
        raise UserError(f"The weights in {source} do not fit this architecture: {_some(wrong)}.")
    broken = [name for name, tensor in given.items() if not tensor.isfinite().all()]
    if broken:
        raise UserError(
            f"The weights in {source} are not all finite: {_some(broken)}; the run that wrote them "
            "had diverged: train again, with a smaller optim.lr."
        )
    module.load_state_dict(given, strict=True)


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """Sha256 over names, dtypes, shapes and values of tensors, in order of their names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_pickled(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise UserError(f"{path} is damaged, or holds code, which is never run.") from None
    except (RuntimeError, EOFError, ValueError) as error:
        raise UserError(
            f"{path} is not a whole file of weights ({_first_line(error)}); download it again."
        ) from None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise UserError(f"{path} holds something else than tensors under their names.")
    return state


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return "; ".join(names[:5]) + more


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
