"""Whether a step is taken: not if something in it is not finite, nor, if asked, if its loss leaps.

A loss leaps among those of its mode: a generator that learns in two has two levels of loss.
This is decided on the device, so that no step waits for it; the processes hear of it one step late,
all of the same step. R ranks.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from MaskGIL.command import Failure
from MaskGIL.distributed import all_reduce, rank, world_size

RECENT = 128  # losses that a new one is compared with, as many as llm.c's outlier detector takes
_FLAT = 1e-6  # a smaller deviation of recent losses is none

Buffers = list[tuple[Tensor, Tensor]]  # each one, and a copy


class Diverged(Failure):
    """What ends a run whose steps can no longer be taken."""


class Verdict(NamedTuple):
    """On the device: `skip` () is 1.0 where a step must not be taken, else 0.0."""

    mode: str
    skip: Tensor
    total: Tensor  # () the loss of all ranks
    told: Tensor  # (R + 4,) losses of the ranks, z-score, whether finite, skip, ranks that stop


class Heard(NamedTuple):
    """On the host: what has become of a step."""

    step: int
    losses: list[float]  # of each rank
    z: float  # deviations above the recent losses of its mode; nan where these are too few
    is_finite: bool
    is_skipped: bool
    stops: bool  # a rank has been asked to end the run


class Guard:
    """Judges the steps of a run, and counts those that were not taken."""

    def __init__(self, device: torch.device, skip_spikes: float):
        self._spike = skip_spikes or torch.inf
        self._device = device
        self._recent: dict[str, Tensor] = {}  # (RECENT,) losses by mode
        self._on_the_way: tuple[int, Tensor, torch.cuda.Event | None] | None = None
        self.skipped = 0  # steps that were not taken, in the whole run
        self.spikes = 0  # of them, those whose loss leapt, though all was finite
        self.in_a_row = 0  # of them, the latest ones
        self.highest = torch.nan  # finite z-score since `take_highest`

    def judge(self, mode: str, loss: Tensor, norms: list[Tensor], stops: bool) -> Verdict:
        """Judge a step by this rank's loss () and the norms () of the gradients of all ranks.

        Every rank comes here and gets the same verdict; `stops` tells them that this one must end.
        """
        shares = torch.zeros(world_size() + 1, device=loss.device)
        shares[rank()] = loss.detach()
        shares[-1] = float(stops)
        all_reduce(shares)
        total, recent = shares[:-1].sum(), self._losses(mode)
        finite = torch.stack([total, *(norm.float() for norm in norms)]).isfinite().all()
        z = (total - recent.mean()) / recent.std(correction=0).clamp_min(_FLAT)
        skip = ~finite | (z > self._spike)  # nan is not above anything
        flags = torch.stack([z, finite.float(), skip.float(), shares[-1]])
        return Verdict(mode, skip.float(), total, torch.cat([shares[:-1], flags]))

    def send(self, step: int, verdict: Verdict) -> None:
        """Remember the loss of a step that is done, and let `hear` know, when the device does."""
        recent = self._losses(verdict.mode)
        moved = torch.cat([recent[1:], verdict.total[None]])
        self._recent[verdict.mode] = torch.where(verdict.skip > 0, recent, moved)
        if verdict.told.device.type != "cuda":
            self._on_the_way = step, verdict.told, None
            return
        arriving = torch.empty(verdict.told.shape, pin_memory=True)
        arriving.copy_(verdict.told, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._on_the_way = step, arriving, event

    def hear(self) -> Heard | None:
        """What has become of the step that was sent last, once; waits if it is not done yet."""
        if self._on_the_way is None:
            return None
        step, told, event = self._on_the_way
        self._on_the_way = None
        if event is not None:
            event.synchronize()
        *losses, z, finite, skip, stops = told.tolist()
        self.skipped += int(skip)
        self.spikes += int(skip and finite)
        self.in_a_row = self.in_a_row + 1 if skip else 0
        if math.isfinite(z) and not self.highest >= z:
            self.highest = z
        return Heard(step, losses, z, finite == 1, skip == 1, stops > 0)

    def take_highest(self) -> float:
        """The highest finite z-score since the last call, nan where there was none."""
        highest, self.highest = self.highest, torch.nan
        return highest

    def state(self) -> dict:
        """Numbers to go on with; `hear` must have heard of the last step."""
        losses = {
            mode: [loss for loss in recent.tolist() if loss == loss]
            for mode, recent in self._recent.items()
        }
        counts = {"skipped": self.skipped, "spikes": self.spikes, "in_a_row": self.in_a_row}
        return {**counts, "losses": losses}

    def resume(self, state: dict) -> None:
        """Go on with the numbers of `state`; an empty one begins anew."""
        self.skipped, self.in_a_row = state.get("skipped", 0), state.get("in_a_row", 0)
        self.spikes = state.get("spikes", 0)
        for mode, losses in state.get("losses", {}).items():  # earlier versions mixed the modes
            padded = [torch.nan] * RECENT + losses
            self._recent[mode] = torch.tensor(padded[-RECENT:], device=self._device)

    def _losses(self, mode: str) -> Tensor:
        if mode not in self._recent:
            self._recent[mode] = torch.full((RECENT,), torch.nan, device=self._device)
        return self._recent[mode]


def step_unless(optimizer: Optimizer, skip: Tensor) -> None:
    """Take a step of a fused optimiser, unless `skip` () is 1.0: then nothing in it moves.

    The kernels look at `found_inf` themselves: it is how GradScaler tells them of an overflow.
    """
    setattr(optimizer, "found_inf", skip)  # noqa: B010
    optimizer.step()


def remember(module: nn.Module) -> Buffers:
    """The buffers that a forward pass moves, such as those of a batch norm, with copies."""
    kept = module.state_dict()
    return [(b, b.clone()) for name, b in module.named_buffers() if name in kept]


def put_back(buffers: Buffers, skip: Tensor | None = None) -> None:
    """Give buffers their old values if `skip` () is 1.0, or in any case without one."""
    for buffer, before in buffers:
        buffer.copy_(before if skip is None else torch.where(skip > 0, before, buffer))
