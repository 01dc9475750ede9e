"""Files of the public tokenizers: where the weights are in them, and under which names.

Our names are those of taming-transformers (3ba01b24); one table translates LlamaGen's (ce98ec41).
The reading itself, which executes nothing, is in `Network/files.py`.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from Network.config import UserError
from Network.files import read_contents, unwrapped

WEIGHTS = "tokenizer.safetensors"  # in a weights folder of ours
# The first that a file has is read, in the order of LlamaGen's own reader; else it is flat
CONTAINERS = ("ema", "model", "state_dict")
PARTS = ("encoder.", "decoder.", "quantize.", "quant_conv.", "post_quant_conv.")
UNUSED = ("quantize.codebook_used",)  # LlamaGen counts there which codes it met in training

# Pairs of an official part of a name and ours. A family that is not here uses our names.
RENAMED = {
    "llamagen": (
        ("encoder.conv_blocks.", "encoder.down."),
        ("decoder.conv_blocks.", "decoder.up."),
        (".res.", ".block."),
        (".mid.0.", ".mid.block_1."),
        (".mid.1.", ".mid.attn_1."),
        (".mid.2.", ".mid.block_2."),
    ),
}
DECODER_LEVEL = re.compile(r"^(decoder\.(?:conv_blocks|up))\.(\d+)\.")

# A part of names by which a family is told; LlamaGen's names hold MaskGIT's mark too
MARKS = {
    "llamagen": ".conv_blocks.",
    "maskgit": ".mid.0.",
    "magvit2": ".mid_block.",
    "taming": ".mid.block_1.",
}
SAME_NAMES = ("taming", "chameleon", "llamagen", "patches")  # which we hold under taming's names


def official_state(path: str | Path, family: str) -> dict[str, Tensor]:
    """Read the weights of a tokenizer of `family` from its authors' file, or ours, by our names.

    Of a folder, its `WEIGHTS`.

    Averaged weights are preferred where the file has them, as the authors do. Discriminators,
    losses and optimizers are left out. Whether every tensor is there is for `load_strict` to see.
    Raises UserError as `read_contents`, if the file holds no tokenizer, and if its names are those
    of another family.
    """
    path = Path(path) / WEIGHTS if Path(path).is_dir() else path
    state = _container(read_contents(path))
    names = [name for name in state if name.startswith(PARTS) and name not in UNUSED]
    if not names:
        raise UserError(
            f"{path} holds no tokenizer (nothing named encoder.* or decoder.*); give another file."
        )
    found = _naming(names)
    if found not in (None, family) and not (found == "taming" and family in SAME_NAMES):
        raise UserError(
            f"{path} looks like a tokenizer of the family {found}, not {family}; "
            f"build one of {found}, or give another file."
        )
    weights = _averaged(state, names)
    ours = our_names(names, found or "taming")  # untold, they are no LlamaGen's
    return {ours[name]: tensor for name, tensor in weights.items()}


def our_names(names: Iterable[str], family: str) -> dict[str, str]:
    """Map each official name of a whole tokenizer of `family` to ours."""
    return _renamed(list(names), RENAMED.get(family, ()))


def official_names(names: Iterable[str], family: str) -> dict[str, str]:
    """Map each of our names of a whole tokenizer of `family` to the official one."""
    return _renamed(list(names), [(ours, theirs) for theirs, ours in RENAMED.get(family, ())])


def _container(contents: Mapping[str, Any]) -> dict[str, Tensor]:
    inside = (contents[name] for name in CONTAINERS if isinstance(contents.get(name), Mapping))
    state = next(inside, contents)
    tensors = {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    return {unwrapped(str(name)): tensor for name, tensor in tensors.items()}


def _naming(names: list[str]) -> str | None:
    """Return the family that names its tensors so, if it can be told."""
    marks = MARKS.items()
    return next((family for family, mark in marks if any(mark in name for name in names)), None)


def _averaged(state: Mapping[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """Take the moving averages, which Open-MAGVIT2 (b9a17eac) names without dots, or all as is."""
    averages = {name: f"model_ema.{name.replace('.', '')}" for name in names}
    complete = all(average in state for average in averages.values())
    return {name: state[averages[name] if complete else name] for name in names}


def _renamed(names: list[str], pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Exchange parts of names; where there are any, count the decoder's levels from below."""
    if not (pairs := tuple(pairs)):
        return {name: name for name in names}
    last = max((int(found[2]) for name in names if (found := DECODER_LEVEL.match(name))), default=0)
    renamed = {}
    for name in names:
        new = DECODER_LEVEL.sub(lambda found: f"{found[1]}.{last - int(found[2])}.", name)
        for old, replacement in pairs:
            new = new.replace(old, replacement)
        renamed[name] = new
    return renamed
