"""What a call of the pipeline is given: a seed and settings of the sampler, of whatever kind.

Numbers may be NumPy's; what cannot be meant is told in a sentence.
"""

import secrets
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, get_type_hints

import numpy as np
import torch
from torch import Tensor

from MaskGIL.config import LARGEST_SEED
from MaskGIL.sampling import SamplingConfig
from MaskGIL.values import amount, describe_type, did_you_mean, quote
from Network.config import UserError

Seed = int | torch.Generator
Seeds = Seed | Sequence[Seed] | Tensor | None
KINDS = get_type_hints(SamplingConfig)


def read_seeds(generator: Seeds, count: int) -> int | list[int]:
    """The seed of a set, or those of its `count` images; None is a random seed.

    A torch.Generator stands for the next seed that it draws. Raises UserError for seeds that are
    no whole numbers of 64 signed bits, and for another number of them than of images.
    """
    if isinstance(generator, Tensor | np.ndarray):
        generator = generator.tolist()
    if not isinstance(generator, list | tuple | range):
        return secrets.randbits(62) if generator is None else _read_seed(generator)
    if len(generator) != count:
        raise UserError(
            f"generator has {amount(len(generator), 'seed')} for {amount(count, 'image')}; give "
            "one for each, or one alone."
        )
    return [_read_seed(seed) for seed in generator]


def read_settings(given: dict[str, Any]) -> dict[str, Any]:
    """The settings of a sampler that a call names, those that are None left out.

    num_inference_steps is another name of num_steps. Raises UserError for an unknown name and for
    a value of another type.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if {"num_steps", "num_inference_steps"} <= given.keys():
        raise UserError("num_inference_steps and num_steps are the same; give one of them.")
    found = {}
    for name, value in given.items():
        key = "num_steps" if name == "num_inference_steps" else name
        if key not in KINDS:
            hint = did_you_mean(name, KINDS) or f" Settings are {', '.join(KINDS)}."
            raise UserError(f"Unknown argument {name!r}.{hint}")
        found[key] = read_setting(name, value, KINDS[key])
    return found


def read_setting(name: str, value: Any, kind: Any) -> Any:
    """`value` as the plain Python value that a setting of type `kind` has. Raises UserError."""
    words = describe_type(kind)
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if kind in (int, int | None) and whole:
        return int(value)
    if kind in (float, float | None) and isinstance(value, Real) and not isinstance(value, bool):
        return float(value)
    if kind == tuple[int, ...] and isinstance(value, Sequence | np.ndarray | Tensor):
        counts = value if isinstance(value, Sequence) else value.tolist()
        return tuple(read_setting(name, count, int) for count in counts)
    if kind is bool and isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, str) and words.startswith("one of"):
        return value  # the plan says which words are known
    raise UserError(f"{name} takes {words}, not {quote(value)}.")


def _read_seed(seed: object) -> int:
    if isinstance(seed, torch.Generator):
        return int(torch.randint(2**62, (), generator=seed, device=seed.device))
    if not isinstance(seed, Integral) or isinstance(seed, bool):
        raise UserError(
            f"generator is {seed!r}; give a seed, a torch.Generator, one of them for each "
            "image, or None for a random seed."
        )
    if not -LARGEST_SEED - 1 <= int(seed) <= LARGEST_SEED:
        raise UserError(
            f"generator={seed} is no seed of 64 signed bits; give one up to {LARGEST_SEED}."
        )
    return int(seed)
