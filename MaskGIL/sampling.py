"""The settings of a sampler: how an empty grid of tokens becomes an image.

Weights carry them; a call or a command changes what it names.
"""

from dataclasses import dataclass
from typing import Literal

from MaskGIL.config import Schedule, require_at_least, require_positive
from Network.config import setting

Plan = Literal["auto", "mar", "ar"]
Order = Literal["confidence", "random"]
Guidance = Literal["constant", "linear"]


@dataclass(frozen=True)
class SamplingConfig:
    """How an empty grid of tokens becomes an image."""

    plan: Plan = setting(
        "auto",
        "mar: many tokens a step; ar: one token a step, in raster order; auto: mar where the "
        "weights have learned it, else ar",
    )
    num_steps: int = setting(8, "decoding steps of an image by plan=mar")
    schedule: Schedule = setting("arccos", "share of tokens that is still hidden after each step")
    order: Order = setting(
        "confidence", "which tokens a step reveals: the most confident ones, or random ones"
    )
    noise: float = setting(4.5, "Gumbel noise on the confidence at the first step, annealed to 0")
    guidance: Guidance = setting(
        "linear", "the guidance scale over the steps: the same, or growing from 1"
    )
    guidance_scale: float = setting(3.0, "classifier-free guidance; 1 is off")
    temperature: float = setting(1.0, "temperature of the drawn tokens; below 1 is safer")
    top_k: int = setting(0, "draw from the k most likely codes only; 0 draws from all")

    def __post_init__(self):
        require_at_least("sampling.num_steps", self.num_steps, 1)
        require_at_least("sampling.noise", self.noise, 0)
        require_at_least("sampling.guidance_scale", self.guidance_scale, 0)
        require_positive("sampling.temperature", self.temperature)
        require_at_least("sampling.top_k", self.top_k, 0)
