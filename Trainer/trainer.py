"""The training loop: fit, step, log, validate, save, resume. What is trained, subclasses say.

A step is a pure function of the weights and of (seed, step): data, masks and dropout are drawn from
those alone, so a run that was stopped goes on exactly as if it had not been.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from MaskGIL.data.sampler import split_ranks
from MaskGIL.device import autocast, choose_device, choose_precision
from MaskGIL.distributed import all_reduce, barrier, is_main, rank, world_size
from MaskGIL.noise import STREAMS, seed_of
from Network.config import UserError
from Trainer.batches import Batch, fetched
from Trainer.blocks import recompute
from Trainer.checkpoint import Checkpoints, read_state, restore, take_snapshot
from Trainer.config import RunConfig
from Trainer.content import Content, check_content, data_content
from Trainer.logger import Logger, format_seconds
from Trainer.memory import fewest_parts
from Trainer.optim import EMA, build_optimizer, gradient_norm, learning_rate, set_learning_rate
from Trainer.parallel import accumulating, holding, is_sharded, parallelise, shard
from Trainer.run_folder import open_run_folder, surroundings
from Trainer.scoring import Scorer
from Trainer.throughput import use_of_card
from Trainer.tokens import open_split
from Trainer.trackers import check_tracker
from Trainer.window import Metrics, Window


class Trainer(ABC):
    """One run on images. Subclasses build the module and say what a batch is and what it costs.

    Making one opens the data and tells mistakes; `prepare` takes the memory, `fit` writes.
    """

    scorer: Scorer  # where loop.score_every asks for it

    def __init__(self, config: RunConfig):
        self.config = config
        self.device = choose_device(config.device)
        self.dtype = self.precision(config, self.device)
        check_tracker(config.loop.tracker)
        self._cut(config.loop.accumulation or 1)
        self.step = 0  # optimiser steps done
        self.extra: dict[str, Tensor] = {}  # what resuming needs beyond weights, summed over ranks
        self.checkpoints = Checkpoints(Path(config.out_dir) / "checkpoints", config.loop.keep)
        self.newest = self.checkpoints.latest()
        self.begun_with = "" if self.newest else config.init_from  # weights, to fine-tune them
        self.images, self.validation_images = open_split(config, "train"), open_split(config, "val")
        if config.loop.score_every:
            self.scorer = Scorer(config, self.validation_images, self.device)
        torch.manual_seed(config.seed)
        self.open()  # draws too, and `build` goes on from there
        self.trained_on = self.content()
        if self.newest:
            check_content(config.out_dir, read_state(self.newest)["content"], self.trained_on)

    @classmethod
    def precision(cls, config: RunConfig, device: torch.device) -> torch.dtype:
        """What a step computes matrix products in."""
        return choose_precision(config.precision, device)

    def open(self) -> None:
        """Open what a run reads beside images and check that it fits; nothing is written yet."""
        return

    @abstractmethod
    def build(self) -> nn.Module:
        """Build the freshly initialised module to train, on the CPU."""

    def outline(self) -> nn.Module | None:
        """What `build` builds, on the meta device, if it may be sharded over ranks."""
        return None

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
    def score(self) -> dict[str, float]:
        """Distance of pictures to validation images, with the averaged weights in place."""

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Write averaged and last weights for users; rank 0 does, but all come to gather them."""

    @abstractmethod
    def facts(self) -> dict[str, str]:
        """What the first lines of the log say about data and model."""

    def content(self) -> Content:
        """What must be the same when a run is resumed, though its path may change."""
        return data_content(self.images)

    def learners(self) -> list[nn.Module]:
        """What is trained; the gradient of each is clipped apart, that of the first is logged."""
        return [self.module]

    def behind_part(self) -> None:
        """Whatever a subclass does behind the backward pass of a part; one that overflows too."""
        return

    def behind_step(self) -> None:
        """Whatever a subclass does between two steps."""
        return

    def flops_per_image(self) -> float:
        """Operations of a step for one image; 0 where nobody counts them."""
        return 0.0

    def gauges(self) -> dict[str, float]:
        """Numbers of the moment for the log, beside the sums that `loss` returns."""
        return {}

    def prepare(self) -> None:
        """Build what a step needs, and encode what has to be in a cache first."""
        config = self.config.optim
        self.shards = is_sharded(self.config.loop.parallel, self.outline(), self.device)
        with torch.device("meta") if self.shards and not is_main() else nullcontext():
            module = self.build()  # or it raises, before anything is encoded
        recompute(module, self.config.loop.checkpoint_blocks)
        self.data = self.dataset()
        self.module = module if self.shards else module.to(self.device)
        self.trained = self.objective()
        if self.shards:
            shard(self.trained, self.module, self.device, self.dtype)
        self.ema = EMA(self.module, config.ema)
        self.optimizer = build_optimizer(self.module, config)
        half = self.dtype == torch.float16  # where small gradients would vanish
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)

    def fit(self) -> None:
        """Train to the last step, going on where the run folder stands."""
        self.prepare()
        loop, folder = self.config.loop, open_run_folder(self.config)
        self._resume()
        self.log = Logger(folder, self.step, loop.steps, loop.tracker)
        around = surroundings(folder, self.device, self.dtype, self.step, loop.steps)
        begun = {"begun with": self.begun_with} if self.begun_with else {}
        for name, fact in {**self.facts(), **begun, **around}.items():
            self.log.line(f"{name:10s} {fact}")
        if not loop.accumulation:
            self._fit_into_memory()
        objective = parallelise(self.trained, self.device, loop.compile)
        started, window = time.monotonic(), Window()
        pinned, steps = self.device.type == "cuda", range(self.step, loop.steps)
        batches = fetched(self.data, steps, self.config.data.workers, pinned)
        for batch in window.timed(batches):
            self.train_step(objective, batch, window)
            if self._due(loop.log_every) or self.step == min(10, loop.steps):
                self._log(window)
                window.clear()
            elif self.step == self.log.start + 10:  # so soon a resumed run tells how long it takes
                self._show(window, window.means())
            with window.paused():
                self._look(folder)
                if self._due(loop.save_every):
                    self._save(folder)
        if self.step == self.log.start:  # a finished run that was started again
            self.export(folder / "weights")
        self.checkpoints.wait()
        spent = format_seconds(time.monotonic() - started)
        more = f" (loop.steps={loop.steps} asks for fewer)" if self.step > loop.steps else ""
        self.log.line(f"done: {self.step} steps{more}, {spent}")
        self.log.close()
        barrier()

    def train_step(self, objective: nn.Module, batch: Batch, window: Window) -> None:
        """One optimiser step on this rank's share of a batch.

        A gradient that overflows in fp16 moves nothing: the batch is computed again, with its loss
        scaled by half as much. Raises UserError if that never helps.
        """
        self.module.train()
        lr = learning_rate(self.step, self.config.loop.steps, self.config.optim)
        set_learning_rate(self.optimizer, lr)
        parts, norm = self._gradient(objective, batch)
        overflows = 0
        while not self._taken():
            parts, norm = self._gradient(objective, batch)
            overflows += 1
        self.ema.update(self.module, self.step)
        for metrics in parts:
            window.add(metrics)
        if overflows:
            share = overflows / world_size()  # the window takes the sum over ranks
            window.add({"overflows": torch.tensor(share, device=self.device)})
        window.behind_step(norm, lr)
        self.step += 1
        self.behind_step()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The module in evaluation mode with its averaged weights, and back."""
        mine, outline = self.module, self.outline() if self.shards else None
        try:
            with holding(mine, self.ema.tensors, outline) as self.module:
                yield
        finally:
            self.module = mine

    def _cut(self, accumulation: int) -> None:
        """Compute a rank's share of each batch in so many parts. Raises UserError if it cannot."""
        parts = split_ranks(self.config.optim.batch, world_size(), accumulation)
        self.accumulation = accumulation
        self.share = slice(parts[rank()][0].start, parts[rank()][-1].stop)  # of the global batch
        self.part = parts[0][0].stop  # images of one part of this rank's share
        self.chunk = min(64, self.part)  # images at once where nothing is learned

    def _piece(self, batch: Batch, part: int) -> Batch:
        """A part of this rank's share, on the device."""
        rows = slice(part * self.part, (part + 1) * self.part)
        # MPS would still read when the batch is gone (pytorch issue 189690); CUDA keeps it pinned
        early = self.device.type == "cuda"
        return {name: t[rows].to(self.device, non_blocking=early) for name, t in batch.items()}

    def _gradient(self, objective: nn.Module, batch: Batch) -> tuple[list[Metrics], Tensor]:
        """Add up the gradient of a batch, part after part: what to log of each, and its norm."""
        parts: list[Metrics] = []
        for part in range(self.accumulation):
            torch.manual_seed(
                seed_of(self.config.seed, STREAMS["dropout"], self.step, rank(), part)
            )
            piece = self._piece(batch, part)
            with accumulating(objective, last=part == self.accumulation - 1):
                with autocast(self.device, self.dtype):
                    loss, metrics = self.loss(objective, piece)
                # DDP takes the mean over ranks, we want the sum
                self.scaler.scale(loss * world_size()).backward()
            self.behind_part()
            parts.append({"loss": loss.detach(), **metrics})
        self.scaler.unscale_(self.optimizer)
        clip = self.config.optim.clip
        norms = [gradient_norm(module.parameters(), clip) for module in self.learners()]
        return parts, norms[0]

    def _taken(self) -> bool:
        """Move the weights along the gradient, unless it overflows: then the scale is halved."""
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        smaller = self.scaler.get_scale()  # in fp16 only, which alone waits for the device
        if smaller < min(scale, 1):
            raise UserError(
                f"The gradient of step {self.step} is not finite in fp16 however its loss is "
                "scaled; go on with precision=fp32, or begin anew with a lower optim.lr."
            )
        return smaller >= scale

    def _fit_into_memory(self) -> None:
        """Cut a step into as few parts as fit, by computing one part without taking the step."""
        batch, objective = self.data[self.step], self.trained
        # As the last step will be computed: whatever joins the loss later has joined it by then
        now, self.step = self.step, max(self.step, self.config.loop.steps - 1)
        before = {name: tensor.clone() for name, tensor in self.module.named_buffers()}

        def loss_of(images: int) -> Tensor:
            self.part = images
            with autocast(self.device, self.dtype):
                return self.loss(objective, self._piece(batch, 0))[0]

        self.module.train()
        share = self.share.stop - self.share.start
        copies = (0 if self.optimizer.state else 2) + (world_size() > 1)  # moments, DDP's buckets
        self._cut(fewest_parts(share, loss_of, self.module, copies, self.device, self.shards))
        self.step = now
        for name, tensor in self.module.named_buffers():  # as those of a batch norm, which count
            tensor.copy_(before[name])
        told = f"{self.part} images at once, {self.accumulation} parts a step: as many as fit"
        self.log.line(f"memory     {told}")

    def _due(self, every: int) -> bool:
        return bool(every) and (self.step % every == 0 or self.step == self.config.loop.steps)

    def _log(self, window: Window) -> None:
        values = self._show(window, {**window.means(), **self.gauges()})
        self.log.record(self.step, "train", values)

    def _show(self, window: Window, values: dict[str, float]) -> dict[str, float]:
        """Print the line of a step; returns its numbers."""
        images = self.config.optim.batch * window.steps / window.seconds
        values |= use_of_card(images / world_size(), self.flops_per_image, self.device, self.dtype)
        self.log.progress(self.step, values, images, window.data_share)
        return {**values, "images_per_second": images}

    def _look(self, folder: Path) -> None:
        """Validate, draw and score with the averaged weights, where it is time."""
        loop = self.config.loop
        self.log.advance(self.step)
        validates, scores = self._due(loop.validate_every), self._due(loop.score_every)
        draws = is_main() and self._due(loop.sample_every)
        if not (validates or draws or scores):
            return
        with self.averaged():
            if validates:
                with autocast(self.device, self.dtype):
                    values = self.validate()
                self.log.tell(self.step, "validation", values)
            if draws:  # the decoder never runs in fp16: pictures choose on their own
                self.picture(folder / "samples" / f"step-{self.step:07d}.png")
            if scores:
                self.log.tell(self.step, "score", self.score())

    def _save(self, folder: Path) -> None:
        """A checkpoint to go on from, and the weights for users."""
        scale = self.scaler.state_dict()
        state = {"step": self.step, "content": self.trained_on, "scaler": scale}
        extra = {name: all_reduce(tensor.clone()) for name, tensor in self.extra.items()}
        snapshot = take_snapshot(self.module, self.optimizer, self.ema.tensors, extra, state)
        if is_main():
            self.checkpoints.save(self.step, snapshot)
        self.export(folder / "weights")

    def _resume(self) -> None:
        if self.newest:
            state = restore(self.newest, self.module, self.optimizer, self.ema.tensors, self.extra)
            if state["scaler"]:  # empty if the run was not in fp16 then
                self.scaler.load_state_dict(state["scaler"])
            self.step = state["step"]
            if not is_main():  # rank 0 goes on with the sums
                for tensor in self.extra.values():
                    tensor.zero_()
        barrier()
