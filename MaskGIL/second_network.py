"""A second network beside that of a pipeline: one draws the first tokens, the other all the rest.

Stands on weights folders.
"""

from pathlib import Path

from MaskGIL.plans import OBJECTIVES
from MaskGIL.weights import Weights, load_weights
from Network.config import UserError
from Network.gpt import GPT


def load_second(folder: str | Path, beside: Weights, source: str | Path, ema: bool) -> GPT:
    """The network of AR weights that go with the masked ones of `source`.

    Raises UserError unless both make the same tokens of the same classes or prompts.
    """
    found, masked = load_weights(folder, ema=ema), beside.network
    if found.network is None:
        raise UserError(f"ar_weights={folder} holds a tokenizer, no generator; name RUN/weights.")
    if "ar" not in OBJECTIVES[found.objective]:
        raise UserError(
            f"ar_weights={folder} were trained with objective={found.objective}; name weights of "
            "an AR network."
        )
    if "mar" not in OBJECTIVES[beside.objective]:
        raise UserError(
            f"weights={source} are those of an AR network, as ar_weights are; name weights that "
            "were trained with masks."
        )
    assert masked is not None
    config, other = masked.config, found.network.config
    pairs = {
        "tokenizer": (beside.tokenizer.fingerprint, found.tokenizer.fingerprint),
        "codebook": (config.codebook_size, other.codebook_size),
        "number of classes": (config.num_classes, other.num_classes),
        "list of classes": (beside.classes, found.classes),
        "text encoder": tuple(text and text[1:] for text in (beside.text, found.text)),
        "length of captions": (config.caption_tokens, other.caption_tokens),
        "grid": (config.grid, other.grid),
    }
    for name, (ours, theirs) in pairs.items():
        if ours != theirs:
            raise UserError(
                f"ar_weights={folder} have another {name} than weights={source}; both networks "
                "must make the same tokens of the same condition."
            )
    return found.network
