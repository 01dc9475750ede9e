"""The training loop: fit, step, log, validate, save, resume. What is trained, subclasses say.

A step is a pure function of the weights and of (seed, step): data, masks and dropout are drawn from
those alone, so a run that was stopped goes on exactly as if it had not been.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from MaskGIL.data.sampler import split_ranks
from MaskGIL.device import autocast, choose_device, choose_precision
from MaskGIL.distributed import is_main, lose_patience, rank, world_size
from MaskGIL.noise import STREAMS, seed_of
from Trainer import keeping
from Trainer.batches import Batch, fetched, told_of_workers
from Trainer.blocks import recompute
from Trainer.checkpoint import Checkpoints, Snapshot, read_state
from Trainer.config import RunConfig
from Trainer.content import Content, check_content, data_content
from Trainer.guard import Diverged, Guard, Verdict, put_back, remember, step_unless
from Trainer.lock import only_job
from Trainer.logger import Logger
from Trainer.looks import look, report
from Trainer.memory import fit_into_memory
from Trainer.optim import EMA, build_optimizer, gradient_norm, learning_rate, set_learning_rate
from Trainer.parallel import accumulating, forget_gradient, holding, is_sharded, parallelise, shard
from Trainer.run_folder import as_begun, check_run_folder, open_run_folder
from Trainer.scoring import Scorer
from Trainer.signals import Signals
from Trainer.skipped import tell_of_skipped
from Trainer.tokens import open_split
from Trainer.trackers import check_tracker
from Trainer.window import Metrics, Window


class Trainer(ABC):
    """One run on images. Subclasses build the module and say what a batch is and what it costs.

    Making one opens the data and tells mistakes; `prepare` takes the memory, `fit` writes.
    """

    scorer: Scorer  # where loop.score_every asks for it
    log: Logger

    def __init__(self, config: RunConfig):
        self.config = config
        self.device = choose_device(config.device)
        self.dtype = self.precision(config, self.device)
        check_tracker(config.loop.tracker)
        self.cut(config.loop.accumulation or 1)
        self.step, self.saved = 0, -1  # optimiser steps done; the step of the last checkpoint
        self.extra: dict[str, Tensor] = {}  # what resuming needs beyond weights, summed over ranks
        self.signals, self.stops = Signals(), False  # whether all ranks end behind this step
        self.guard = Guard(self.device, config.loop.skip_spikes)
        self.say: Callable[[str], object] = print
        kept = config.loop.keep, config.loop.keep_every
        self.checkpoints = Checkpoints(Path(config.out_dir) / "checkpoints", *kept)
        self.found = self.checkpoints.names()
        self.newest = self.checkpoints.latest()
        if self.newest:
            self.config = config = as_begun(config)
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

    def mode(self) -> str:
        """What kind of step this is; its loss is judged by those of its kind alone."""
        return "all"

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
    def export(self, folder: Path, snapshot: Snapshot) -> None:
        """Write the weights folder for users: the averaged weights, and the last ones beside.

        From a snapshot, in a thread beside the steps: no weights of the moment, no random numbers.
        """

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

    def behind_step(self, skip: Tensor) -> None:
        """Whatever a subclass does between two steps; `skip` () is 1.0 if it was not taken."""
        return

    def dearest_step(self) -> int:
        """A step to come that takes most memory: by the last all that may join the loss has."""
        return max(self.step, self.config.loop.steps - 1)

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
        """Train to the last step, going on where the run folder stands.

        Raises Preempted when a signal has ended it, which all ranks obey at the same step.
        """
        check_run_folder(self.config)
        with only_job(Path(self.config.out_dir)):
            keeping.check_found(self)
            self.prepare()
            folder = open_run_folder(self.config)
            state = keeping.resume(self)
            keeping.begin_log(self, folder, state)
            if not self.config.loop.accumulation:
                fit_into_memory(self, state.get("cut", {}))
            lose_patience()
            started = time.monotonic()
            with (
                self.signals,
                told_of_workers(self.config.data.timeout),
                keeping.saved_if_diverged(self, folder),
            ):
                self._train(folder)
                keeping.finish(self, folder)
            keeping.say_how_it_ended(self, folder, time.monotonic() - started)

    def _train(self, folder: Path) -> None:
        """All steps that are left, with whatever is due behind each."""
        loop, data, window = self.config.loop, self.config.data, Window()
        objective = parallelise(self.trained, self.device, loop.compile)
        pinned, steps = self.device.type == "cuda", range(self.step, loop.steps)
        with closing(fetched(self.data, steps, data.workers, pinned, data.timeout)) as batches:
            for batch in window.timed(batches):
                self.train_step(objective, batch, window)
                report(self, window)
                if self.stops and self.step < loop.steps:
                    return
                with window.paused():
                    look(self, folder)
                    if self.is_due(loop.save_every):
                        keeping.save(self, folder)

    def train_step(self, objective: nn.Module, batch: Batch, window: Window) -> None:
        """One optimiser step on this rank's share of a batch.

        Not taken if something is not finite, as the device decides: then weights, moments and
        averages stay, and only the step counts. A gradient that overflows in fp16 moves nothing
        either: there the batch is computed again, with its loss scaled by half as much. Raises
        Diverged if that never helps, or if too many steps in a row are not taken.
        """
        self.module.train()
        lr = learning_rate(self.step, self.config.loop.steps, self.config.optim)
        set_learning_rate(self.optimizer, lr)
        buffers, overflows = remember(self.module), 0
        while True:
            parts, norms = self._gradient(objective, batch)
            loss = torch.stack([part["loss"] for part in parts]).sum()
            verdict = self.guard.judge(self.mode(), loss, norms, bool(self.signals.received))
            try:
                self.hear()  # of the step before, whose weights are still there if it was skipped
                if self._taken(verdict):
                    break
            except Diverged:
                put_back(buffers)
                raise
            overflows += 1
        put_back(buffers, verdict.skip)
        self.ema.update(self.module, self.step, verdict.skip)
        for metrics in parts:
            window.add(metrics)
        if self.scaler.is_enabled():
            share = overflows / world_size()  # the window takes the sum over ranks
            window.add({"overflows": torch.tensor(share, device=self.device)})
        window.behind_step(norms[0], lr, verdict.skip)
        self.guard.send(self.step, verdict)
        self._judged = batch
        self.step += 1
        self.behind_step(verdict.skip)

    def part_loss(self, objective: nn.Module, batch: Batch, part: int) -> tuple[Tensor, Metrics]:
        """`loss` of a part of this rank's share, with the dropout of this step and part."""
        torch.manual_seed(seed_of(self.config.seed, STREAMS["dropout"], self.step, rank(), part))
        with autocast(self.device, self.dtype):
            return self.loss(objective, self._piece(batch, part))

    def hear(self) -> None:
        """Act upon what the device has said of the step before this one."""
        if heard := self.guard.hear():
            self.stops = self.stops or heard.stops
            if heard.is_skipped:
                tell_of_skipped(self, heard, self._judged)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The module in evaluation mode with its averaged weights, and back."""
        mine, outline = self.module, self.outline() if self.shards else None
        try:
            with holding(mine, self.ema.tensors, outline) as self.module:
                yield
        finally:
            self.module = mine

    @contextmanager
    def as_in(self, step: int, images: int) -> Iterator[None]:
        """Compute as in `step`, so many images at once, and then go on as before."""
        kept = self.step, self.part
        self.step, self.part = step, images
        try:
            yield
        finally:
            self.step, self.part = kept

    def cut(self, accumulation: int) -> None:
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

    def _gradient(self, objective: nn.Module, batch: Batch) -> tuple[list[Metrics], list[Tensor]]:
        """Add up the gradient of a batch: what to log of each part, and the norm per learner."""
        parts: list[Metrics] = []
        for part in range(self.accumulation):
            with accumulating(objective, last=part == self.accumulation - 1):
                loss, metrics = self.part_loss(objective, batch, part)
                # DDP takes the mean over ranks, we want the sum
                self.scaler.scale(loss * world_size()).backward()
            self.behind_part()
            parts.append({"loss": loss.detach(), **metrics})
        self.scaler.unscale_(self.optimizer)
        clip = self.config.optim.clip
        return parts, [gradient_norm(module.parameters(), clip) for module in self.learners()]

    def _taken(self, verdict: Verdict) -> bool:
        """Move the weights along the gradient, unless the step is to be skipped.

        In fp16 False for a gradient that overflows, whose loss is finite: the scale is halved.
        """
        if not self.scaler.is_enabled():
            step_unless(self.optimizer, verdict.skip)
            forget_gradient(self.optimizer, self.shards)
            return True
        scale = self.scaler.get_scale()
        if not bool(verdict.total.isfinite()):  # which no scale would change
            forget_gradient(self.optimizer, self.shards)
            self.scaler.update(scale)  # forgets what it has found, and stays as it was
            return True
        if bool(verdict.skip):  # without gradients nothing moves
            self.optimizer.zero_grad(set_to_none=True)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        forget_gradient(self.optimizer, self.shards)
        smaller = self.scaler.get_scale()
        if smaller < min(scale, 1):
            raise Diverged(
                f"The gradient of step {self.step} is not finite in fp16 however its loss is "
                "scaled; go on with precision=fp32, or begin anew with a lower optim.lr."
            )
        return smaller >= scale

    def is_due(self, every: int) -> bool:
        """Whether something done `every` so many steps, and at the end, is to be done now."""
        return bool(every) and (self.step % every == 0 or self.step == self.config.loop.steps)
