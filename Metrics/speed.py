"""What sampling took beside its images per second: an image alone, and the most memory held."""

import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor


def seconds_alone(sample: Callable[[], Tensor]) -> float:
    """Seconds of a call that makes an image and brings it to the CPU, the second one of two.

    The first may have kernels to choose or to compile for a batch of one.
    """
    sample().cpu()
    started = time.perf_counter()
    sample().cpu()
    return time.perf_counter() - started


def peak_memory(device: torch.device) -> int | None:
    """The most bytes so far: of CUDA's allocator, else of the process; None where nobody counts."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
