"""Where tensors live and how wide they are: the one place that decides device and precision."""

import re
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch

from MaskGIL.distributed import local_rank, world_size
from MaskGIL.values import amount
from Network.config import UserError

Precision = Literal["auto", "fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# The last default build for CUDA 12 (12.8, its metadata says; 2.11 asks for 13.0): any driver for
# CUDA 12 serves it, by NVIDIA's compatibility of minor versions
CUDA_12_BUILD = 'TORCH="torch==2.10.0 torchvision"'
_TOO_OLD = "driver on your system is too old"
# As CUDA says it, its libraries, and a CPU
_OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED", "can't allocate memory")


def choose_device(name: str) -> torch.device:
    """`auto` is cuda, mps or cpu, whichever is there first; else the device of that name.

    Raises UserError when the asked device is not there, and when a GPU is, but its driver is too
    old: else `auto` would compute on the CPU unnoticed.
    """
    available = {
        "cuda": _cuda_is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name.startswith(("auto", "cuda")) and not available["cuda"]:
        _check_driver()
    if name == "auto":
        name = next(kind for kind, there in available.items() if there)
    kind = name.split(":")[0]
    if kind not in available:
        raise UserError(f"Unknown device {name!r}. Known: auto, {', '.join(available)}.")
    if kind == "cuda" and not available[kind] and not torch.backends.cuda.is_built():
        raise UserError(
            f"device={name} needs another PyTorch, as this one is built without CUDA; install one "
            "that has it (see pytorch.org), or use device=cpu (slow)."
        )
    if not available[kind]:
        raise UserError(f"No {kind} device here; use device=cpu (slow) or device=auto.")
    if ":" in name and world_size() > 1:
        raise UserError(f"device={name} would put all processes on one; use device={kind}.")
    number = name.partition(":")[2] or (str(local_rank()) if kind == "cuda" else "0")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if not number.isdecimal() or int(number) >= count:
        raise UserError(
            f"There is no device {kind}:{number}, only {count} of them; use device={kind} and at "
            f"most {amount(count, 'process')} on a machine."
        )
    device = torch.device(kind, int(number)) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bf16 where the hardware has it, else fp16 on CUDA, else fp32."""
    if name != "auto":
        if name == "fp16" and device.type != "cuda":
            raise UserError("precision=fp16 needs a CUDA device; use precision=auto.")
        return DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16
    return torch.bfloat16 if device.type == "cpu" and _cpu_has_bf16() else torch.float32


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine, says by this that its memory has run out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY)


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """Matrix products in `dtype`; nothing at all for float32 and float64."""
    if dtype in (torch.float32, torch.float64):
        return nullcontext()
    return torch.autocast(device.type, dtype)


@contextmanager
def without_tf32() -> Iterator[None]:
    """Matrix products and convolutions of float32 in full float32, whatever is set around."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def decoder_dtype(dtype: torch.dtype) -> torch.dtype:
    """Precision of a tokenizer's decoder, whose activations overflow fp16."""
    return torch.float32 if dtype == torch.float16 else dtype


def _cuda_is_available() -> bool:
    with warnings.catch_warnings():  # `_check_driver` has a better sentence
        warnings.filterwarnings("ignore", f".*{_TOO_OLD}")
        return torch.cuda.is_available()


def _check_driver() -> None:
    """Raise UserError if the driver is too old: `is_available` tells that once in a process."""
    if torch.version.cuda is None:
        return
    try:
        torch.cuda.init()
    except RuntimeError as error:
        found = re.search(rf"{_TOO_OLD} \(found version (\d+)\)", str(error))
        if not found:  # no driver, or no GPU behind it: then the CPU is all there is
            return
        major, minor = divmod(int(found[1]) // 10, 100)  # 12040 is 12.4
        older = f", run make setup {CUDA_12_BUILD}" if major == 12 else ""
        raise UserError(
            f"The NVIDIA driver is for CUDA {major}.{minor}, this PyTorch for CUDA "
            f"{torch.version.cuda}; update the driver{older} or use device=cpu (slow)."
        ) from None


def _cpu_has_bf16() -> bool:
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)
