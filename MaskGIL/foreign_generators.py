"""Generators of other projects, from a file or by name, each with the tokenizer it was made for.

Stands on `Network/generator_files.py` and on the table of public weights.
"""

from pathlib import Path

from MaskGIL.public import GENERATORS
from MaskGIL.values import did_you_mean
from MaskGIL.weights import (
    Weights,
    load_tokenizer,
    load_weights,
    open_generator,
    open_tokenizer,
    public_tokenizer,
)
from Network.config import TokenizerConfig, UserError
from Network.generator_files import holds_generator
from Network.tokenizer import NAMED
from Network.tokenizer.vq import VQTokenizer


def is_generator(source: str) -> bool:
    """Whether `source` is a row of `GENERATORS`, or a file that holds a generator."""
    path = Path(source)
    return holds_generator(path) if path.is_file() else source in GENERATORS


def open_foreign_generator(source: str, tokenizer: str) -> Weights:
    """A generator and its tokenizer: a name of NAMED, a weights folder, or told by the source.

    It is told by a row of `GENERATORS`: that of the name, or the one whose file is called so.
    What is only named is fetched. Raises UserError if the tokenizer cannot be told, and for one
    beside a name, which has its own.
    """
    path = Path(source)
    if not path.is_file():
        if tokenizer:
            raise UserError(f"{source} has its own tokenizer; leave tokenizer={tokenizer} out.")
        return load_weights(source)
    name = row_of(path)
    return open_generator(path, _tokenizer(path, tokenizer, name), name)


def row_of(file: Path) -> str:
    """The row of `GENERATORS` whose file is called so, or nothing."""
    rows = GENERATORS.items()
    return next((name for name, row in rows if Path(row.file.file).name == file.name), "")


def _tokenizer(file: Path, asked: str, name: str) -> VQTokenizer:
    if asked in NAMED:
        return open_tokenizer(TokenizerConfig(name=asked))
    if asked and not Path(asked).exists():
        raise UserError(
            f"tokenizer={asked} is no weights folder and none of the names {', '.join(NAMED)}."
            f"{did_you_mean(asked, NAMED)}"
        )
    if asked:
        return load_tokenizer(asked)
    if name:
        return public_tokenizer(name)
    raise UserError(
        f"tokenizer is empty; name the one whose tokens {file} generates, a weights folder or "
        f"tokenizer=NAME: {', '.join(NAMED)}."
    )
