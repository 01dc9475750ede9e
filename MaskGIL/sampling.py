"""What every command that samples is asked: which weights, and what to change of their sampler.

Stands on the pipeline; also looks at a place for results before the first expensive line.
"""

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path

from MaskGIL.config import (
    LARGEST_SEED,
    Guidance,
    Order,
    Plan,
    SamplingConfig,
    Schedule,
    require_within,
)
from MaskGIL.device import Precision, choose_device, choose_precision
from MaskGIL.pipeline import Pipeline
from Network.config import UserError, setting


@dataclass(frozen=True)
class SamplingKeys:
    """Keys of a command that samples; those that are null stay as the weights have them."""

    weights: str = setting("", "weights folder of a trained generator: RUN/weights")
    seed: int = setting(0, "seed of the set; the noise of image i follows from (seed, i) alone")
    plan: Plan | None = setting(
        None, "mar: many tokens a step; ar: one a step; auto: mar where the weights can"
    )
    num_steps: int | None = setting(
        None, "decoding steps of an image by plan=mar; null: as the weights have it"
    )
    schedule: Schedule | None = setting(None, "share of tokens still hidden after each step")
    order: Order | None = setting(
        None, "which tokens a step reveals: the most confident ones, or random ones"
    )
    guidance: Guidance | None = setting(
        None, "the guidance scale over the steps: the same, or growing from 1"
    )
    guidance_scale: float | None = setting(None, "classifier-free guidance; 1 is off")
    temperature: float | None = setting(None, "temperature of the drawn tokens; below 1 is safer")
    top_k: int | None = setting(None, "draw from the k most likely codes only; 0 draws from all")
    noise: float | None = setting(None, "Gumbel noise on the confidence at the first step")
    ema: bool = setting(True, "the averaged weights; false takes those of the last step")
    device: str = setting("auto", "auto, cuda, mps or cpu")
    precision: Precision = setting(
        "auto", "auto: bf16 where the hardware has it, else fp16 on CUDA, else fp32"
    )

    def __post_init__(self):
        require_within("seed", self.seed, 0, LARGEST_SEED)


def open_pipeline(keys: SamplingKeys) -> Pipeline:
    """The pipeline of `keys.weights`, its sampler settings replaced by the keys that are not null.

    Raises UserError if the weights cannot be read, and for settings that their grid cannot have.
    """
    if not keys.weights:
        raise UserError("weights is empty; name the folder of a generator, weights=RUN/weights.")
    device = choose_device(keys.device)
    dtype = choose_precision(keys.precision, device)
    pipe = Pipeline.from_pretrained(keys.weights, device, dtype, ema=keys.ema)
    given = {field.name: getattr(keys, field.name, None) for field in fields(SamplingConfig)}
    changes = {name: value for name, value in given.items() if value is not None}
    pipe.sampling = replace(pipe.sampling, **changes)
    pipe.plan()  # it checks
    return pipe


def output_path(key: str, value: str, suffix: str) -> Path:
    """`value` as the path of a file that can be written. Raises UserError naming `key`."""
    path = Path(value)
    if path.suffix.lower() != suffix:
        raise UserError(f"{key}={value} must end in {suffix}.")
    if path.is_dir():
        raise UserError(
            f"{key}={value} is a folder; name a file in it, {key}={path / 'NAME'}{suffix}."
        )
    check_writable(key, path.absolute().parent)
    return path


def check_writable(key: str, folder: Path) -> None:
    """Raise UserError naming `key` unless `folder` exists or can be made, and can be written to."""
    place = next(p for p in (folder, *folder.parents) if p.exists())
    if not place.is_dir():
        raise UserError(f"{key} lies in {place}, which is a file; choose another folder.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(
            f"{key} lies in {place}, which you may not write to; choose another folder."
        )
