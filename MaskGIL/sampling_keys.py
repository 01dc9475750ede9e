"""What every command that samples is asked: which weights, and what to change of their sampler.

Stands on the pipeline.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from MaskGIL.config import LARGEST_SEED, require_within
from MaskGIL.device import Precision, choose_device, choose_precision
from MaskGIL.effects import Sampler, check_effects
from MaskGIL.pipeline import Pipeline
from MaskGIL.plans import PLANS, plan_kind
from MaskGIL.sampling import SamplingConfig
from Network.config import UserError, setting


def _with_sampler_keys(cls: type) -> type:
    """Give a class of keys every setting of a sampler, null by default."""
    kinds = get_type_hints(SamplingConfig)
    for field in fields(SamplingConfig):
        cls.__annotations__[field.name] = kinds[field.name] | None
        setattr(cls, field.name, setting(None, field.metadata["help"]))
    return cls


@dataclass(frozen=True)
@_with_sampler_keys
class SamplingKeys:
    """Keys of a command that samples; settings of the sampler are null: as the weights have them.

    They are those of `SamplingConfig`, under the same names.
    """

    weights: str = setting("", "weights folder of a trained generator: RUN/weights")
    ar_weights: str = setting(
        "", "weights folder of an AR network of the same tokens, for plan=hybrid and plan=ar"
    )
    text_encoder: str = setting(
        "",
        "where the text encoder of prompts is: a folder, a short name or OWNER/NAME of the hub; "
        "empty: as the weights name it",
    )
    seed: int = setting(0, "seed of the set; the noise of image i follows from (seed, i) alone")
    ema: bool = setting(True, "the averaged weights; false takes those of the last step")
    device: str = setting("auto", "auto, cuda, mps or cpu")
    precision: Precision = setting(
        "auto", "auto: bf16 where the hardware has it, else fp16 on CUDA, else fp32"
    )
    compile: bool = setting(
        False, "torch.compile the blocks when they are first used; a minute, for many images"
    )

    def __post_init__(self):
        require_within("seed", self.seed, 0, LARGEST_SEED)


def open_pipeline(keys: SamplingKeys, height: int = 0, width: int = 0) -> Pipeline:
    """The pipeline of `keys.weights`, its sampler settings replaced by the keys that are not null.

    Raises UserError if the weights cannot be read, for settings that images of `height` x `width`
    pixels (0: as the weights learned) cannot have, and for keys that make no difference.
    """
    pipe = load_pipeline(keys, height, width)
    check_keys(keys, pipe, [pipe.sampling], pipe.grid(height or None, width or None))
    return pipe


def load_pipeline(keys: SamplingKeys, height: int = 0, width: int = 0) -> Pipeline:
    """`open_pipeline` that takes keys without effect: a sweep is to show where they have one."""
    if not keys.weights:
        raise UserError("weights is empty; name the folder of a generator, weights=RUN/weights.")
    device = choose_device(keys.device)
    dtype = choose_precision(keys.precision, device)
    pipe = Pipeline.from_pretrained(
        keys.weights,
        device,
        dtype,
        ema=keys.ema,
        ar_folder=keys.ar_weights or None,
        text_encoder=keys.text_encoder or None,
        compile=keys.compile,
    )
    pipe.sampling = pipe.sampling.changed(**given_settings(keys))
    pipe.plan(grid=pipe.grid(height or None, width or None))  # it checks
    return pipe


def given_settings(keys: SamplingKeys) -> dict[str, Any]:
    """The settings of a sampler that a command names."""
    named = {field.name: getattr(keys, field.name) for field in fields(SamplingConfig)}
    return {name: value for name, value in named.items() if value is not None}


def check_keys(
    keys: SamplingKeys,
    pipe: Pipeline,
    samplers: Sequence[SamplingConfig],
    grid: tuple[int, int] | None = None,
    negative_prompt: str = "",
) -> None:
    """Raise UserError for a key that makes no difference to any of the `samplers` of `pipe`.

    They make images of a grid of tokens (h, w), None: of that of training.
    """
    found = [sampler_of(pipe, settings, grid) for settings in samplers]
    check_effects({**given_settings(keys), "negative_prompt": negative_prompt}, found)
    if keys.ar_weights and all(sampler.kind == "mar" for sampler in found):
        raise UserError(
            f"ar_weights={keys.ar_weights} has no effect on plan=mar; use plan=hybrid or plan=ar, "
            "or leave it out."
        )


def check_asked(
    keys: SamplingKeys, pipe: Pipeline, negative_prompt: str, grid: tuple[int, int], asks: bool
) -> None:
    """Raise UserError for a negative prompt, guidance or text encoder that has no effect.

    `asks` is False where images are of no class and of no prompt.
    """
    if keys.text_encoder and not asks:
        raise UserError(
            f"text_encoder={keys.text_encoder} has no effect without a prompt; leave it out."
        )
    given = {**given_settings(keys), "negative_prompt": negative_prompt}
    check_effects(given, [sampler_of(pipe, pipe.sampling, grid, asks)])


def sampler_of(
    pipe: Pipeline,
    settings: SamplingConfig,
    grid: tuple[int, int] | None = None,
    asks: bool = True,
) -> Sampler:
    """What `settings` become with the networks of `pipe`, for a grid (h, w), None: as trained."""
    kind, config = plan_kind(pipe.objective, settings.plan), pipe.network.config
    configs = [network.config for each, network in pipe.networks.items() if each in PLANS[kind]]
    extends = any(each.extends(grid or config.grid) for each in configs)
    steps = pipe.plan(settings, grid)
    return Sampler(settings, kind, steps, config.is_conditional, asks, extends)


def sampler_line(pipe: Pipeline, grid: tuple[int, int] | None = None, asks: bool = True) -> str:
    """What a command that samples says of its sampler on a grid (h, w) of tokens."""
    return f"sampler    {sampler_words(pipe, grid, asks)}"


def sampler_words(pipe: Pipeline, grid: tuple[int, int] | None = None, asks: bool = True) -> str:
    """What people should read for the sampler of a pipeline."""
    sampler, settings = sampler_of(pipe, pipe.sampling, grid, asks), pipe.sampling
    order = f"by {settings.order}"
    ways = {
        "mar": order,
        "ar": "one by one",
        "hybrid": f"{settings.num_ar} tokens one by one, the rest {order}",
    }
    guidance = f"guidance {settings.guidance_scale:g}" if sampler.guided else "no guidance"
    return (
        f"{len(sampler.steps)} steps, {guidance}, temperature "
        f"{settings.temperature:g}, {ways[sampler.kind]}"
    )
