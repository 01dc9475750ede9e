"""The settings of a sampler: how an empty grid of tokens becomes an image.

Weights carry them; a call or a command changes what it names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from MaskGIL.config import Schedule, require_at_least, require_positive, require_within
from Network.config import UserError, setting

Plan = Literal["auto", "mar", "ar", "hybrid"]
Order = Literal["confidence", "random", "halton", "local"]
Remask = Literal["random", "confidence"]
Guidance = Literal["constant", "linear", "cosine"]
Positions = Literal["none", "linear", "ntk"]


@dataclass(frozen=True)
class SamplingConfig:
    """How an empty grid of tokens becomes an image."""

    plan: Plan = setting(
        "auto",
        "mar: many tokens a step; ar: one token a step, in raster order; hybrid: the first num_ar "
        "tokens one by one, the rest as mar; auto: mar where the weights have learned it, else ar",
    )
    num_ar: int | None = setting(None, "tokens that plan=hybrid draws one by one, in raster order")
    num_steps: int = setting(8, "decoding steps of an image, not those of single tokens")
    schedule: Schedule = setting("arccos", "share of tokens that is still hidden after each step")
    counts: tuple[int, ...] = setting(
        (), "tokens that each step reveals, a,b,c, in place of num_steps and schedule"
    )
    legacy: bool = setting(
        False, "tokens per step as the published code has them, for 256 tokens alone"
    )
    order: Order = setting(
        "confidence",
        "which tokens a step reveals: the most confident ones; random ones; halton: spread over "
        "the grid; local: near known ones, apart from each other",
    )
    noise: float = setting(4.5, "Gumbel noise on order=confidence at the first step, annealed to 0")
    remask: float = setting(
        0.0, "share of the tokens drawn so far that each masked step hides again; 0 keeps them all"
    )
    remask_by: Remask = setting(
        "random", "which ones remask hides: random ones, or the less confident ones sooner"
    )
    guidance: Guidance = setting(
        "linear",
        "the guidance scale over the steps: constant, or growing from 1: linear, cosine",
    )
    guidance_scale: float = setting(3.0, "classifier-free guidance; 1 is off")
    guidance_power: float = setting(
        1.0, "of guidance=cosine: above 1 it grows later, below 1 earlier"
    )
    guidance_from: float = setting(
        0.0, "progress in [0, 1] from which there is guidance; before, no null pass is made"
    )
    guidance_until: float = setting(
        1.0, "progress in [0, 1] up to which there is guidance; behind, no null pass is made"
    )
    two_passes: bool = setting(
        False,
        "condition and null condition one after the other, in half the memory, not as one batch; "
        "of no effect where there is no guidance",
    )
    temperature: float = setting(
        1.0,
        "temperature of the drawn tokens; below 1 is safer, 0 takes the most likely code, "
        "whatever top_k, top_p and min_p are",
    )
    last_temperature: float | None = setting(
        None,
        "temperature at the last step, reached linearly; null: the same at all steps, as is a "
        "number equal to temperature, for weights that have another one",
    )
    top_k: int = setting(0, "draw from the k most likely codes only; 0 draws from all")
    top_p: float = setting(
        1.0, "draw from the most likely codes only, as few as have this probability together"
    )
    min_p: float = setting(
        0.0, "draw only codes with at least this share of the probability of the most likely one"
    )
    positions: Positions = setting(
        "none",
        "rotary positions of an image that is longer than those of training: none: as they come; "
        "linear: squeezed into those of training; ntk: the slower a frequency, the more",
    )

    def __post_init__(self):
        require_at_least("num_steps", self.num_steps, 1)
        if self.counts:
            require_at_least("counts", min(self.counts), 1)
            self._check_counts()
        require_at_least("noise", self.noise, 0)
        require_within("remask", self.remask, 0, 1)
        self._check_guidance()
        require_at_least("temperature", self.temperature, 0)
        if self.last_temperature is not None:
            require_at_least("last_temperature", self.last_temperature, 0)
        require_at_least("top_k", self.top_k, 0)
        require_positive("top_p", self.top_p)
        require_within("top_p", self.top_p, 0, 1)
        require_within("min_p", self.min_p, 0, 1)

    def changed(self, **changes: object) -> SamplingConfig:
        """Replace the settings by those changes that are not None; num_steps follows counts."""
        given = {name: value for name, value in changes.items() if value is not None}
        counts = given.get("counts")
        if isinstance(counts, Sequence) and counts:
            given = {"num_steps": len(counts), **given}
        return replace(self, **given)

    def _check_counts(self) -> None:
        steps = len(self.counts)
        if self.num_steps != steps:
            raise UserError(
                f"num_steps={self.num_steps} contradicts counts, which has {steps} steps; use "
                f"num_steps={steps} or leave counts empty."
            )
        if self.legacy:
            raise UserError("counts and legacy=true both say what steps reveal; use legacy=false.")

    def _check_guidance(self) -> None:
        require_at_least("guidance_scale", self.guidance_scale, 0)
        require_positive("guidance_power", self.guidance_power)
        if self.guidance_power != 1 and self.guidance != "cosine":
            raise UserError(
                f"guidance_power={self.guidance_power:g} is of guidance=cosine, not of "
                f"guidance={self.guidance}; use guidance=cosine or guidance_power=1."
            )
        require_within("guidance_from", self.guidance_from, 0, 1)
        require_within("guidance_until", self.guidance_until, 0, 1)
        if self.guidance_from > self.guidance_until:
            raise UserError(
                f"guidance_from={self.guidance_from:g} is behind "
                f"guidance_until={self.guidance_until:g}, so there would be no guidance; "
                "lower the first, or use guidance_scale=1."
            )
