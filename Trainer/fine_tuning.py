"""Begins a tokenizer's run with weights that are there already, if they are of its architecture."""

from pathlib import Path
from typing import Any

from MaskGIL.config import from_dict, to_dict
from MaskGIL.distributed import first_rank_first
from MaskGIL.public import public_file
from MaskGIL.values import did_you_mean, show_value
from MaskGIL.weights import read_config
from Network.config import TokenizerConfig, UserError
from Network.files import load_strict
from Network.tokenizer import NAMED
from Network.tokenizer.official import official_state
from Network.tokenizer.vq import VQTokenizer

# Keys of a tokenizer that change neither tokens nor pixels
NOT_ARCHITECTURE = ("name", "weights", "codebook_weight", "commitment_weight", "entropy_weight")


def begin_from(tokenizer: VQTokenizer, source: str) -> None:
    """Load a weights folder of ours, a file of the authors or a public name.

    Raises UserError for what is not there and for another architecture, also where no shape tells;
    nothing is fetched for another one. A file alone tells no more than names and shapes.
    """
    path = Path(source)
    if source in NAMED:
        remedy = f"begin with MaskGIL/configs/tokenizers/{source}.yaml"
        _check_architecture(tokenizer.config, to_dict(NAMED[source]), source, remedy)
        with first_rank_first():
            path = public_file(source)
    elif path.is_dir():
        stored = read_config(path)["tokenizer"]["config"]
        remedy = "give it the tokenizer section of that run"
        _check_architecture(tokenizer.config, stored, source, remedy)
    elif not path.exists():
        raise UserError(
            f"init_from={source} is no file, no weights folder and none of the names "
            f"{', '.join(NAMED)}.{did_you_mean(source, NAMED)}"
        )
    load_strict(tokenizer, official_state(path, tokenizer.config.family), path)


def _check_architecture(
    config: TokenizerConfig, stored: dict[str, Any], source: str, remedy: str
) -> None:
    """Raise UserError unless both agree in all that makes tokens and pixels."""
    found, wanted = to_dict(from_dict(TokenizerConfig, stored)), to_dict(config)
    for key in wanted:
        if key not in NOT_ARCHITECTURE and found[key] != wanted[key]:
            raise UserError(
                f"init_from={source} has tokenizer.{key}={show_value(found[key])}, this run "
                f"{show_value(wanted[key])}; {remedy}."
            )
