"""What made a step not finite: images and the first module, by computing the batch once more.

Only then are hooks set, which wait for the device at every module. Shapes: B images of a rank.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from MaskGIL.distributed import rank
from Trainer.guard import put_back, remember

MOST_SAMPLES = 8  # that a sentence lists


def examine(module: nn.Module, parts: list[Tensor], loss_of: Callable[[int], Tensor]) -> str:
    """Say which parts of this rank's batch are not finite, and where they are so first.

    `parts[i]` are the sample numbers of part i, `loss_of(i)` computes its loss with `module`, whose
    buffers and gradients are left as they were. Empty if everything is finite.
    """
    samples: list[int] = []
    place = ""
    for number, members in enumerate(parts):
        if found := _first(module, lambda number=number: loss_of(number)):
            samples += members.tolist()
            place = place or found
    if not samples:
        return ""
    shown = ", ".join(map(str, samples[:MOST_SAMPLES]))
    more = f" and {len(samples) - MOST_SAMPLES} more" if len(samples) > MOST_SAMPLES else ""
    return f"rank {rank()}, samples {shown}{more}, first in {place}"


def _first(module: nn.Module, compute: Callable[[], Tensor]) -> str:
    """The first place of forward and backward pass that is not finite, or an empty text."""
    places: list[str] = []
    buffers = remember(module)
    with _watched(module, places):
        loss = compute()
        if not places and not _is_finite(loss):
            places.append("the loss, behind the last module")
        if not places:  # hooks look at the gradients, which do not go into those of a step
            learned = [p for p in module.parameters() if p.requires_grad]
            torch.autograd.grad(loss, learned, allow_unused=True)
    put_back(buffers)
    return places[0] if places else ""


@contextmanager
def _watched(module: nn.Module, places: list[str]) -> Iterator[None]:
    """Note in `places` whatever is not finite in `module`, in the order of computation."""

    def behind(name: str) -> Callable:
        def look(_: nn.Module, given: tuple, made: Any) -> None:
            if not places and not _is_finite(made):
                sound = _is_finite(given)
                places.append(name if sound else f"what is given to {name}")

        return look

    def gradient(name: str) -> Callable:
        def look(found: Tensor) -> None:
            if not places and not _is_finite(found):
                places.append(f"the gradient of {name}")

        return look

    handles = [
        each.register_forward_hook(behind(name or "the whole"))
        for name, each in module.named_modules()
    ]
    for name, parameter in module.named_parameters():
        if not _is_finite(parameter):
            places.append(f"the weights {name}")
        if parameter.requires_grad:
            handles.append(parameter.register_hook(gradient(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_finite(values: Any) -> bool:
    """Whether all floating-point tensors of a nested tuple, list or dict are finite."""
    if isinstance(values, Tensor):
        return not values.is_floating_point() or bool(values.detach().isfinite().all())
    if isinstance(values, dict):
        return _is_finite(list(values.values()))
    return not isinstance(values, tuple | list) or all(_is_finite(each) for each in values)
