"""Which settings of a sampler make no difference beside the others, so that nobody is misled.

Stands on the settings, the steps of a plan, and guidance.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from MaskGIL.config import to_dict
from MaskGIL.guidance import scale_at
from MaskGIL.plans import Step
from MaskGIL.sampling import SamplingConfig
from MaskGIL.values import show_value
from Network.config import UserError

OF_MASKS = ("num_steps", "schedule", "counts", "legacy", "order", "noise", "remask", "remask_by")
OF_GUIDANCE = ("guidance_scale", "guidance", "guidance_power", "guidance_from", "guidance_until",
               "two_passes")  # fmt: skip
BESIDE = ("negative_prompt",)  # no settings of a sampler, and as idle as those of guidance
OF_DRAWS = ("top_k", "top_p", "min_p")
# Values that ask for nothing, beside 0, false and an empty list
OFF = {"guidance_scale": 1, "guidance_power": 1, "guidance_until": 1, "top_p": 1,
       "positions": "none"}  # fmt: skip


@dataclass(frozen=True)
class Sampler:
    """A sampler as it will run: its settings, a kind of plan, the steps, and what guides it."""

    settings: SamplingConfig
    kind: str  # a key of plans.PLANS
    steps: Sequence[Step]
    has_null: bool  # whether the network knows a null condition
    asks: bool = True  # whether for some image there is a class or a prompt, to be guided by
    extends: bool = False  # whether its positions go beyond those of training, and can be moved

    @property
    def guided(self) -> bool:
        """Whether any step makes a null pass."""
        scales = (scale_at(self.settings, step.progress) for step in self.steps)
        return self.has_null and self.asks and any(scale != 1 for scale in scales)

    @property
    def greedy(self) -> bool:
        """Whether every token is the most likely one."""
        return not self.settings.temperature and not self.settings.last_temperature


# Settings, when they make no difference, and why
RULES: Sequence[tuple[Sequence[str], Callable[[Sampler], bool], str]] = (
    (("num_ar",), lambda s: s.kind != "hybrid", "only plan=hybrid begins with single tokens"),
    (OF_MASKS, lambda s: s.kind == "ar", "plan=ar draws one token a step, in raster order"),
    (("schedule",), lambda s: bool(s.settings.counts), "counts say what each step reveals"),
    (
        ("noise",),
        lambda s: s.settings.order != "confidence",
        "only order=confidence asks for it",
    ),
    (("remask_by",), lambda s: not s.settings.remask, "remask=0 hides no token again"),
    ((*OF_GUIDANCE, *BESIDE), lambda s: not s.has_null, "these weights know no null class"),
    (
        OF_GUIDANCE,
        lambda s: not s.asks,
        "neither a class nor a prompt is given, and there is nothing to guide images to",
    ),
    (
        (*OF_GUIDANCE, *BESIDE),
        lambda s: not s.guided,
        "no step has guidance: look at guidance_scale, guidance_from and guidance_until",
    ),
    (OF_DRAWS, lambda s: s.greedy, "temperature=0 takes the most likely code"),
    (
        ("positions",),
        lambda s: not s.extends,
        "no side is longer than those of training, or its positions are not those of rows and "
        "columns alone",
    ),
)


def without_effect(sampler: Sampler) -> dict[str, str]:
    """Settings that make no difference to the samples, {key: why}."""
    found: dict[str, str] = {}
    for keys, applies, why in RULES:
        if applies(sampler):
            found = {**dict.fromkeys(keys, why), **found}
    return found


def effective_settings(sampler: Sampler) -> dict[str, Any]:
    """What the samples follow from: samplers that have it in common sample alike."""
    idle = without_effect(sampler)
    settings = to_dict(sampler.settings)
    return {key: value for key, value in settings.items() if key not in idle} | {
        "plan": sampler.kind
    }


def asks(key: str, value: object) -> bool:
    """Whether a setting asks for anything: not 0, false, an empty list, a number of OFF."""
    return bool(value) and value != OFF.get(key)


def check_effects(given: Mapping[str, Any], samplers: Sequence[Sampler]) -> None:
    """Raise UserError for a given setting that makes no difference to any of the samplers.

    One that asks for nothing is none.
    """
    idle = [without_effect(sampler) for sampler in samplers]
    for key, value in given.items():
        if asks(key, value) and all(key in reasons for reasons in idle):
            raise UserError(
                f"{key}={show_value(value)} has no effect: {idle[0][key]}; leave it out."
            )
