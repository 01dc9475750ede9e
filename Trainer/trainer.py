"""The training loop: fit, step, log, validate, save, resume. What is trained, subclasses say.

A step is a pure function of the weights and of (seed, step): data, masks and dropout are drawn from
those alone, so a run that was stopped goes on exactly as if it had not been.
"""

import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from MaskGIL.data.sampler import split_ranks
from MaskGIL.device import autocast, choose_device, choose_precision
from MaskGIL.distributed import all_reduce, barrier, is_main, rank, world_size
from MaskGIL.noise import STREAMS, seed_of
from Network.config import UserError
from Trainer.batches import Batch, Shielded
from Trainer.checkpoint import Checkpoints, restore, take_snapshot
from Trainer.config import RunConfig
from Trainer.logger import Logger, format_bytes, format_seconds
from Trainer.optim import EMA, build_optimizer, gradient_norm, learning_rate, set_learning_rate
from Trainer.parallel import accumulating, parallelise
from Trainer.run_folder import open_run_folder

Metrics = dict[str, Tensor]


class Trainer(ABC):
    """One run. Subclasses build the module and say what a batch is and what it costs."""

    def __init__(self, config: RunConfig):
        self.config = config
        self.device = choose_device(config.device)
        self.dtype = choose_precision(config.precision, self.device)
        parts = split_ranks(config.optim.batch, world_size(), config.loop.accumulation)
        self.share = slice(parts[rank()][0].start, parts[rank()][-1].stop)  # of the global batch
        self.part = parts[0][0].stop  # images of one part of this rank's share
        self.step = 0  # optimiser steps done
        self.extra: dict[str, Tensor] = {}  # what resuming needs beyond weights, summed over ranks
        torch.manual_seed(config.seed)
        self.module = self.build().to(self.device)
        self.ema = EMA(self.module, config.optim.ema)
        self.optimizer = build_optimizer(self.module, config.optim)
        scaled = self.dtype == torch.float16  # small gradients would vanish in fp16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scaled)

    @abstractmethod
    def build(self) -> nn.Module:
        """Open the data and build the freshly initialised module to train."""

    @abstractmethod
    def dataset(self) -> Dataset[Batch]:
        """Item `step` is this rank's share of the batch of that step, on the CPU."""

    @abstractmethod
    def objective(self) -> nn.Module:
        """The module whose forward makes what `loss` needs; DDP and compile wrap it."""

    @abstractmethod
    def loss(self, objective: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """Loss of one part of a batch and numbers to log; their sums over all parts count."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Numbers on the validation data, with the averaged weights in place."""

    @abstractmethod
    def picture(self, path: Path) -> None:
        """Draw a picture from fixed seeds, with the averaged weights in place."""

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Write the weights folder for users: the averaged weights, and the last ones beside."""

    @abstractmethod
    def facts(self) -> dict[str, str]:
        """What the first lines of the log say about data and model."""

    def content(self) -> dict[str, str]:
        """What must be the same when a run is resumed, though its path may change."""
        return {}

    def behind_step(self) -> None:
        """Whatever a subclass does between two steps."""
        return

    def gauges(self) -> dict[str, float]:
        """Numbers of the moment for the log, beside the sums that `loss` returns."""
        return {}

    def fit(self) -> None:
        """Train to the last step, going on where the run folder stands."""
        loop, folder = self.config.loop, open_run_folder(self.config)
        self.checkpoints = Checkpoints(folder / "checkpoints", loop.keep)
        self._resume()
        self.log = Logger(folder, self.step, loop.steps)
        for name, fact in {**self.facts(), **self._surroundings(folder)}.items():
            self.log.line(f"{name:10s} {fact}")
        objective = parallelise(self.objective(), self.device, loop.compile)
        started, window = time.monotonic(), Window()
        for batch in window.timed(self._batches()):
            self.train_step(objective, batch, window)
            if self._due(loop.log_every) or self.step == min(10, loop.steps):
                self._log(window)
                window.clear()
            self._look(folder)
            if self._due(loop.save_every):
                self._save()
        if is_main():
            self.export(folder / "weights")
        self.checkpoints.wait()
        self.log.line(f"done: {loop.steps} steps, {format_seconds(time.monotonic() - started)}")
        self.log.close()
        barrier()

    def train_step(self, objective: nn.Module, batch: Batch, window: "Window") -> None:
        """One optimiser step on this rank's share of a batch, part after part."""
        self.module.train()
        accumulation, config = self.config.loop.accumulation, self.config.optim
        for part in range(accumulation):
            torch.manual_seed(
                seed_of(self.config.seed, STREAMS["dropout"], self.step, rank(), part)
            )
            piece = {
                name: tensor[part * self.part : (part + 1) * self.part].to(self.device)
                for name, tensor in batch.items()
            }
            with accumulating(objective, last=part == accumulation - 1):
                with autocast(self.device, self.dtype):
                    loss, metrics = self.loss(objective, piece)
                # DDP takes the mean over ranks, we want the sum
                self.scaler.scale(loss * world_size()).backward()
            window.add({"loss": loss.detach(), **metrics})
        self.scaler.unscale_(self.optimizer)
        norm = gradient_norm(self.module.parameters(), config.clip)
        set_learning_rate(
            self.optimizer, lr := learning_rate(self.step, self.config.loop.steps, config)
        )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.module, self.step)
        window.behind_step(norm, lr)
        self.step += 1
        self.behind_step()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The module in evaluation mode with its averaged weights, and back."""
        current = {name: tensor.clone() for name, tensor in self.module.state_dict().items()}
        self.module.load_state_dict(self.ema.tensors)
        self.module.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.module.load_state_dict(current)

    def _batches(self) -> Iterator[Batch]:
        steps = range(self.step, self.config.loop.steps)
        loader = DataLoader(
            Shielded(self.dataset()),
            batch_size=None,
            sampler=steps,
            num_workers=self.config.data.workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # the global one must not move
        )
        for batch in loader:
            if isinstance(batch, UserError):
                raise batch
            yield batch

    def _due(self, every: int) -> bool:
        return bool(every) and (self.step % every == 0 or self.step == self.config.loop.steps)

    def _log(self, window: "Window") -> None:
        values = {**window.means(), **self.gauges()}
        images = self.config.optim.batch * window.steps / window.seconds
        self.log.record(self.step, "train", {**values, "images_per_second": images})
        self.log.progress(self.step, values, images, window.data_share)

    def _look(self, folder: Path) -> None:
        """Validate and draw with the averaged weights, where it is time."""
        loop = self.config.loop
        self.log.advance(self.step)
        if self._due(loop.validate_every):
            with self.averaged(), autocast(self.device, self.dtype):
                values = self.validate()
            self.log.record(self.step, "validation", values)
            shown = " | ".join(f"{name} {value:.4g}" for name, value in values.items())
            self.log.line(f"validation at step {self.step} | {shown}")
        if self._due(loop.sample_every) and is_main():
            with self.averaged():  # the decoder never runs in fp16: pictures choose on their own
                self.picture(folder / "samples" / f"step-{self.step:07d}.png")

    def _save(self) -> None:
        scale = self.scaler.state_dict()
        state = {"step": self.step, "content": self.content(), "scaler": scale}
        extra = {name: all_reduce(tensor.clone()) for name, tensor in self.extra.items()}
        snapshot = take_snapshot(self.module, self.optimizer, self.ema.tensors, extra, state)
        if is_main():
            self.checkpoints.save(self.step, snapshot)

    def _resume(self) -> None:
        if checkpoint := self.checkpoints.latest():
            state = restore(checkpoint, self.module, self.optimizer, self.ema.tensors, self.extra)
            self._check_content(state["content"])
            self.scaler.load_state_dict(state["scaler"])
            self.step = state["step"]
            if not is_main():  # rank 0 goes on with the sums
                for tensor in self.extra.values():
                    tensor.zero_()
        barrier()

    def _check_content(self, saved: dict[str, str]) -> None:
        for name, value in self.content().items():
            if saved[name] != value:
                raise UserError(
                    f"{self.config.out_dir} was trained with {name} {saved[name]}, here it is "
                    f"{value}; give the same one or name another out_dir."
                )

    def _surroundings(self, folder: Path) -> dict[str, str]:
        precision = str(self.dtype).removeprefix("torch.")
        done = f"step {self.step:,} of {self.config.loop.steps:,}"
        free = format_bytes(shutil.disk_usage(folder).free)
        return {
            "device": f"{self.device}, {precision}, {world_size()} rank(s), "
            f"{torch.get_num_threads()} threads",
            "run": f"{folder}, {done}, {free} free on its disk",
        }


class Window:
    """Sums over the steps since the last line of the log; they stay on the device until then."""

    def __init__(self):
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self._sums: dict[str, Tensor] = {}
        self._norms: Tensor | float = 0.0
        self._lr = 0.0
        self._waited = 0.0
        self._started = time.monotonic()
        self.steps = 0

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Pass batches on, counting the time that is spent waiting for them."""
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            self._waited += time.monotonic() - asked
            if batch is None:
                return
            yield batch

    def add(self, metrics: Metrics) -> None:
        """Add the numbers of one part."""
        for name, value in metrics.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def behind_step(self, norm: Tensor, lr: float) -> None:
        """Close a step: the norm of its gradient and its learning rate."""
        self._norms = self._norms + norm
        self._lr = lr
        self.steps += 1

    @property
    def seconds(self) -> float:
        """Wall time of the window."""
        return time.monotonic() - self._started

    @property
    def data_share(self) -> float:
        """Share of the time that was spent waiting for data."""
        return self._waited / max(self.seconds, 1e-9)

    def means(self) -> dict[str, float]:
        """Means over the steps, summed over ranks. The one place that waits for the device."""
        names = list(self._sums)
        values = all_reduce(torch.stack([self._sums[name] for name in names])) / self.steps
        means = dict(zip(names, values.tolist()))
        return {**means, "gnorm": float(self._norms) / self.steps, "lr": self._lr}
