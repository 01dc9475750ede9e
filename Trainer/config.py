"""The configuration of a run: settings of the loop, and the nesting of every floor's own."""

from dataclasses import dataclass, field
from typing import Literal

from MaskGIL.config import (
    LARGEST_SEED,
    DataConfig,
    MaskingConfig,
    Objective,
    TextConfig,
    require_at_least,
    require_within,
)
from MaskGIL.device import Precision
from MaskGIL.sampling import SamplingConfig
from Network.config import NetworkConfig, TokenizerConfig, UserError, setting

Contest = Literal["hinge", "non-saturating"]
Parallel = Literal["auto", "ddp", "fsdp"]


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, its learning rate over the steps, and the average of the weights."""

    batch: int = setting(256, "images per step, over all ranks")
    lr: float = setting(4e-4, "learning rate at this batch, not scaled by anything")
    warmup: int = setting(100, "steps over which the learning rate grows from 0")
    final_lr: float = setting(0.0, "share of the learning rate left at the end of the cosine")
    beta1: float = setting(0.9, "decay of AdamW's mean of gradients")
    beta2: float = setting(0.96, "decay of AdamW's mean of squared gradients")
    weight_decay: float = setting(0.03, "weight decay of the matrices")
    clip: float = setting(1.0, "largest norm of the gradient; 0 does not clip")
    ema: float = setting(0.9999, "decay of the averaged weights; young averages decay faster")

    def __post_init__(self):
        require_at_least("optim.batch", self.batch, 1)
        require_at_least("optim.lr", self.lr, 0)
        require_at_least("optim.warmup", self.warmup, 0)
        require_within("optim.final_lr", self.final_lr, 0, 1)
        for name in ("beta1", "beta2"):
            require_within(f"optim.{name}", getattr(self, name), 0, 0.999999)
        require_at_least("optim.weight_decay", self.weight_decay, 0)
        require_at_least("optim.clip", self.clip, 0)
        require_within("optim.ema", self.ema, 0, 1)


@dataclass(frozen=True)
class LoopConfig:
    """How long the loop runs and how often it reports. All of it may change on resume."""

    steps: int = setting(1000, "steps of the whole run")
    accumulation: int = setting(
        1,
        "parts that a rank's share of a batch is computed in; 0: as few as fit into memory, and as "
        "many when a run goes on; a discriminator's batch norm and the entropy of tokens see one "
        "part",
    )
    compile: bool = setting(False, "torch.compile the network, a generator block by block")
    parallel: Parallel = setting(
        "auto",
        "how ranks hold a generator: ddp, a copy each; fsdp, a share each; auto: fsdp where a copy "
        "would take more than half of a card's memory",
    )
    checkpoint_blocks: float = setting(
        0.0,
        "share of a generator's blocks that are computed again in the backward pass instead of "
        "kept: 1 takes the least memory and a third more time",
    )
    tracker: Literal["tensorboard", "wandb", "trackio", "none"] = setting(
        "tensorboard", "where curves can be watched, beside metrics.jsonl"
    )
    log_every: int = setting(50, "steps between two lines of the log")
    sample_every: int = setting(500, "steps between two pictures of samples; 0 makes none")
    validate_every: int = setting(500, "steps between two validations; 0 makes none")
    score_every: int = setting(
        0, "steps between two distances of pictures to validation images; 0 makes none"
    )
    score_images: int = setting(1024, "pictures of such a distance, and as many validation images")
    save_every: int = setting(500, "steps between two checkpoints")
    keep: int = setting(2, "newest checkpoints that are kept; at least 2")
    keep_every: int = setting(
        0, "checkpoints whose step it divides are kept for ever; 0 keeps none"
    )
    max_skips: int = setting(
        10, "stop after so many steps in a row that were not taken, as they were not finite"
    )
    skip_spikes: float = setting(
        0.0,
        "do not take a step whose loss is so many standard deviations above the last 128; 0 takes "
        "each",
    )

    def __post_init__(self):
        for name in ("steps", "log_every", "save_every", "max_skips"):
            require_at_least(f"loop.{name}", getattr(self, name), 1)
        require_at_least("loop.accumulation", self.accumulation, 0)
        require_within("loop.checkpoint_blocks", self.checkpoint_blocks, 0, 1)
        require_at_least("loop.sample_every", self.sample_every, 0)
        require_at_least("loop.validate_every", self.validate_every, 0)
        require_at_least("loop.score_every", self.score_every, 0)
        require_at_least("loop.score_images", self.score_images, 2)
        require_at_least("loop.keep_every", self.keep_every, 0)
        require_at_least("loop.skip_spikes", self.skip_spikes, 0)
        require_at_least("loop.keep", self.keep, 2)


@dataclass(frozen=True)
class ReconstructionConfig:
    """The loss of a tokenizer, and how codes that nobody uses come back to life."""

    l1: float = setting(1.0, "weight of the absolute error of a pixel")
    l2: float = setting(1.0, "weight of the squared error of a pixel")
    perceptual: float = setting(0.0, "weight of LPIPS, the distance of VGG-16's features")
    vgg: str = setting(
        "auto",
        "weights of that network: a file; auto: what PyTorch's folder of downloads holds; "
        "download: fetched into it first",
        free=True,
    )
    revive_every: int = setting(25, "steps between two revivals of dead codes; 0 never")
    revive_until: float = setting(0.8, "share of the run after which no code is replaced")

    def __post_init__(self):
        for name in ("l1", "l2", "perceptual"):
            require_at_least(f"reconstruction.{name}", getattr(self, name), 0)
        require_at_least("reconstruction.revive_every", self.revive_every, 0)
        require_within("reconstruction.revive_until", self.revive_until, 0, 1)


@dataclass(frozen=True)
class AdversaryConfig:
    """A discriminator beside a tokenizer, trained with the same optimiser."""

    weight: float = setting(0.0, "weight of the adversarial loss; 0 trains without a discriminator")
    start: int = setting(0, "step from which on both learn from each other")
    adaptive: bool = setting(
        False, "scale the weight so that this loss moves the last layer as much as the others do"
    )
    tokenizer_loss: Contest = setting("hinge", "what the tokenizer is told")
    discriminator_loss: Contest = setting("hinge", "what the discriminator is told")
    lecam: float = setting(0.0, "weight of LeCam regularisation of the discriminator")
    width: int = setting(64, "channels behind the discriminator's first layer")
    depth: int = setting(3, "its layers that halve the resolution")

    def __post_init__(self):
        for name in ("weight", "start", "lecam"):
            require_at_least(f"adversary.{name}", getattr(self, name), 0)
        for name in ("width", "depth"):
            require_at_least(f"adversary.{name}", getattr(self, name), 1)


@dataclass(frozen=True)
class StudyConfig:
    """A grid of commands, job=study: every stage for every arm, value of every axis and seed."""

    stages: tuple[str, ...] = setting(
        (),
        "rows NAME PROGRAM FILE.yaml KEY=VALUE ...: commands that every cell runs one after the "
        "other; @NAME is the folder of an earlier one, @seed the seed; empty: one, train, of the "
        "keys of this file",
    )
    job: Literal["generator", "tokenizer"] = setting(
        "generator", "without stages: what every cell trains"
    )
    changes: tuple[str, ...] = setting((), "rows STAGE:KEY=VALUE: what all cells change")
    arms: tuple[str, ...] = setting(
        (),
        "rows NAME STAGE:KEY=VALUE ... [seeds=A,B]: changes that belong together, under a name; "
        "STAGE=FILE.yaml takes another file, seeds are those of this arm",
    )
    axes: tuple[str, ...] = setting(
        (), "rows STAGE:KEY=VALUE VALUE ...: a key that takes several values; or STAGE=FILE FILE"
    )
    seeds: tuple[int, ...] = setting((0,), "seeds that every cell is run with")
    parts: str = setting(
        "",
        "folder of the parts; studies of the same one, run one after the other, share equal parts; "
        "empty: OUT_DIR",
    )
    workers: int = setting(0, "parts at once, each a process; 0: one by one, in this process")
    part: int = setting(0, "run this part alone, as --dry-run numbers them; 0: all that is missing")
    slurm: bool = setting(
        False, "only write OUT_DIR/submit.sh, which queues every part as a job of an array"
    )
    diverged: float = setting(
        1.2, "a run has diverged if its last training loss is above so many times its least"
    )

    def __post_init__(self):
        require_at_least("study.workers", self.workers, 0)
        require_at_least("study.part", self.part, 0)
        require_at_least("study.diverged", self.diverged, 1)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError("study.seeds takes one seed or several, each once: study.seeds=0,1,2.")


@dataclass(frozen=True)
class RunConfig:
    """Everything that a run is made of."""

    job: Literal["generator", "tokenizer", "cache", "study"] = setting(
        "generator",
        "train a generator, train a tokenizer, only write the token cache, or run a grid of runs",
    )
    objective: Objective = setting(
        "mar",
        "what a generator learns: mar fills in hidden tokens, ar predicts the next one in raster "
        "order, both takes turns by chance",
    )
    out_dir: str = setting("", "folder of the run; running again resumes it", free=True)
    init_from: str = setting(
        "",
        "weights to begin with instead of random ones, a folder, a file or a public name: "
        "fine-tuning",
        free=True,
    )
    init_skip: tuple[str, ...] = setting(
        (),
        "of init_from for a generator: beginnings of names of tensors that are random all the "
        "same; * stands for anything",
        free=True,
    )
    report: str = setting("", "folder of a run: draw its curves and do nothing else", free=True)
    compare: tuple[str, ...] = setting(
        (),
        "folder of a run: compare its curves with those of its recipe, or RUN,OTHER, and do "
        "nothing else",
        free=True,
    )
    seed: int = setting(0, "seed of weights, order, crops and masks")
    device: str = setting("auto", "auto, cuda, mps or cpu", free=True)
    precision: Precision = setting(
        "auto", "auto: bf16 where the hardware has it, else fp16 on CUDA, else fp32", free=True
    )
    data: DataConfig = field(default_factory=DataConfig)
    text: TextConfig = field(default_factory=TextConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    reconstruction: ReconstructionConfig = field(default_factory=ReconstructionConfig)
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loop: LoopConfig = field(default_factory=LoopConfig, metadata={"free": True})
    sampling: SamplingConfig = field(default_factory=SamplingConfig, metadata={"free": True})
    study: StudyConfig = field(default_factory=StudyConfig, metadata={"free": True})

    def __post_init__(self):
        require_within("seed", self.seed, 0, LARGEST_SEED)
        if self.init_skip and (self.job == "tokenizer" or not self.init_from):
            raise UserError("init_skip is for job=generator with init_from=WEIGHTS; leave it out.")
