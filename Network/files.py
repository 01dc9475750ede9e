"""Weights in files: read safely, loaded strictly, told in one sentence when they do not fit."""

import hashlib
import struct
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from Network.config import UserError

PICKLED = (".pt", ".pth", ".ckpt", ".bin", ".th")
WRAPPERS = ("module", "_orig_mod")  # what DDP and torch.compile put into a name
# What PyTorch raises for a file of which a part is missing or wrong, besides UnpicklingError
DAMAGE = (
    *(RuntimeError, EOFError, OSError, struct.error),
    *(ValueError, TypeError, AttributeError, LookupError),
)


class StandIn:
    """What an object of a class unknown to PyTorch is read as; whatever it was made of is lost."""

    def __init__(self, *args: Any):
        pass

    def __setstate__(self, state: Any):
        pass


class StandInDict:
    """The same for a kind of dictionary: a plain one, with its entries."""

    def __new__(cls, *args: Any) -> Any:
        """Return no `StandInDict`: PyTorch fills exact dictionaries only."""
        return OrderedDict()


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file, or a flat pickled one, onto the CPU. Nothing in it is executed.

    Raises UserError as `read_contents`, and if the file holds more than tensors.
    """
    state = read_contents(path)
    if not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise UserError(f"{path} holds something else than tensors under their names.")
    return state


def read_contents(path: str | Path) -> dict[str, Any]:
    """Read what a safetensors or a pickled file (`PICKLED`) holds under names, onto the CPU.

    Nothing in it is executed: objects of unknown classes become stand-ins that hold nothing. Raises
    UserError if the file is missing, empty, a Git LFS pointer, a web page or damaged, and if it
    cannot be read without its code.
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
    given = {unwrapped(name): tensor for name, tensor in state.items()}
    if wrong := differences(given, module.state_dict()):
        raise UserError(f"The weights in {source} do not fit this architecture: {some(wrong)}.")
    check_finite(given, source)
    module.load_state_dict(given, strict=True)


def differences(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """What is wrong with the names and shapes of `given`, a phrase for each tensor."""
    wrong = [f"missing {name}" for name in wanted if name not in given]
    wrong += [f"unexpected {name}" for name in given if name not in wanted]
    return wrong + [
        f"{name} is {_shape(given[name])}, not {_shape(tensor)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]


def check_finite(state: Mapping[str, Tensor], source: object) -> None:
    """Raise UserError that names `source` unless every number is finite."""
    broken = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if broken:
        raise UserError(
            f"The weights in {source} are not all finite: {some(broken)}; the run that wrote them "
            "had diverged: train again, with a smaller optim.lr."
        )


def some(names: Sequence[str], between: str = "; ") -> str:
    """Five of the names at most, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return between.join(names[:5]) + more


def unwrapped(name: str) -> str:
    """Return the name of a tensor without what DDP and torch.compile put into it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """Sha256 over names, dtypes, shapes and values of tensors, in order of their names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_pickled(path: Path) -> dict[str, Any]:
    try:
        with torch.serialization.safe_globals(_stand_ins(path)), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # it reads or it raises
            contents = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise UserError(
            f"{path} is damaged, or holds code, which is never run; save its tensors alone."
        ) from None
    except DAMAGE as error:
        raise UserError(
            f"{path} is not a whole file of weights ({_first_line(error)}); download it again."
        ) from None
    if not isinstance(contents, dict):
        raise UserError(f"{path} holds something else than tensors under their names.")
    return contents


def _stand_ins(path: Path) -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Every unknown class or function of the file with what takes its place.

    PyTorch lists them for its zip format alone; the older one is read without stand-ins.
    """
    if not is_zipfile(path):
        return []
    unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    return [(StandInDict if name.lower().endswith("dict") else StandIn, name) for name in unknown]


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
