"""Text encoders: captions -> features of their tokens, on which a generator is conditioned.

They come from `transformers` (the extra `t2i`) and a folder as the hub has it: the encoder of a T5,
the text half of a CLIP, BERT and its kin.
Shapes: B captions, P condition tokens, n tokens of a caption, C width of features.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import ModuleList

from Network.condition import Captions
from Network.config import CAPTION_TOKENS, UserError
from Network.files import DAMAGE, check_finite, fingerprint, some

BATCH = 8  # captions that the encoder gets at once, always: rounding depends on the shape
# What reads text in models that do more; of any other one all of it is taken
HALVES = {
    "clip": "CLIPTextModel",
    "mt5": "MT5EncoderModel",
    "t5": "T5EncoderModel",
    "umt5": "UMT5EncoderModel",
}
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")  # in one file or in several
SAVE = "save it anew with save_pretrained of transformers, model and tokenizer"


class TextEncoder(Protocol):
    """What every text encoder offers; see `PretrainedEncoder` for shapes."""

    name: str
    width: int  # C
    num_tokens: int  # P, to which captions are padded
    most_tokens: int  # n is at most this; longer captions are cut

    @property
    def precision(self) -> str: ...  # noqa: D102
    @property
    def fingerprint(self) -> str: ...  # noqa: D102
    def lengths(self, captions: Sequence[str]) -> list[int]: ...  # noqa: D102
    def features(self, captions: Sequence[str]) -> list[Tensor]: ...  # noqa: D102
    def __call__(self, captions: Sequence[str]) -> Captions: ...  # noqa: D102


class EncoderFacts(NamedTuple):
    """What is left of a text encoder that has been let go: what its features depend on."""

    name: str
    width: int
    num_tokens: int
    most_tokens: int
    precision: str
    fingerprint: str

    @classmethod
    def of(cls, encoder: TextEncoder) -> "EncoderFacts":
        """Reads all weights once, for their fingerprint."""
        return cls(*(getattr(encoder, name) for name in cls._fields))


def load_text_encoder(
    folder: str | Path,
    *,
    name: str = "",
    num_tokens: int = CAPTION_TOKENS,
    skip_layers: int = 0,
    dtype: torch.dtype = torch.float32,
) -> "PretrainedEncoder":
    """Read `config.json`, `tokenizer.json` and the safetensors of a folder, onto the CPU.

    `name` is what it is called, else the folder's name. Of its blocks the last `skip_layers` are
    left out, a norm behind them is kept: an encoder that makes one vector of a text tells more of
    its single words further down. fp16 is not for `dtype`: T5 overflows it. Raises UserError
    without the extra, for a folder that lacks or does not fit something, and without blocks left.
    """
    assert dtype in (torch.float32, torch.bfloat16)
    folder = Path(folder)
    check_extra()
    if not folder.is_dir():
        raise UserError(f"No such folder of a text encoder: {folder}.")
    try:
        if missing := missing_file(folder):
            raise UserError(f"{folder} is no text encoder, {missing} is missing; {SAVE}.")
        tokenizer = _read_tokenizer(folder)
        model = _read_model(folder, dtype)
        _leave_out(model, skip_layers, folder)
        most_tokens = min(num_tokens, _limit(folder, model))
    except UserError:
        raise
    except (*DAMAGE, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{folder} is no whole text encoder ({reason}); {SAVE}.") from error
    return PretrainedEncoder(name or folder.name, model, tokenizer, num_tokens, most_tokens)


def check_extra() -> None:
    """Raise UserError without the packages that text encoders come from."""
    if find_spec("transformers") is None:
        raise UserError("A text encoder needs the extra t2i: pip install -e .[t2i].")


def read_width(folder: Path) -> int:
    """Width C of the features of an encoder, as its `config.json` has it; 0 if that is unclear."""
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        return int(getattr(config, "text_config", config).hidden_size)
    except (*DAMAGE, AttributeError):  # which loading it tells
        return 0


def missing_file(folder: Path) -> str:
    """The first file that an encoder needs and `folder` lacks, "" if it lacks none."""
    whole, index = (folder / name for name in WEIGHTS)
    names = ["config.json", "tokenizer.json"]
    if index.is_file() and not whole.is_file():
        names += sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    else:
        names += [whole.name]
    return next((name for name in names if not (folder / name).is_file()), "")


class PretrainedEncoder:
    """A model of `transformers` and its tokenizer: frozen, and never in training mode.

    It stands on the device of `model`. A caption has the same features in any company: captions
    of one length make a batch, so that nothing is padded, and every batch has `BATCH` of them.
    """

    def __init__(
        self, name: str, model: Any, tokenizer: Any, num_tokens: int, most_tokens: int
    ) -> None:
        self.name, self.model, self.tokenizer = name, model, tokenizer
        self.num_tokens, self.most_tokens = num_tokens, most_tokens
        self.width: int = model.config.hidden_size
        tokenizer.no_padding()
        tokenizer.enable_truncation(most_tokens)
        self._has_warned = False
        self._fingerprint = ""

    def to(self, device: torch.device | str) -> "PretrainedEncoder":
        """Move the model there, and return the encoder."""
        self.model.to(device)
        return self

    @property
    def precision(self) -> str:
        """`fp32` or `bf16`."""
        return "bf16" if self.model.dtype == torch.bfloat16 else "fp32"

    @property
    def fingerprint(self) -> str:
        """Hash over the weights and the rules of the tokenizer; a caption cache remembers it."""
        if not self._fingerprint:
            rules = json.loads(self.tokenizer.to_str())
            rules |= {"padding": None, "truncation": None}  # ours
            digest = hashlib.sha256(fingerprint(self.model.state_dict()).encode())
            digest.update(json.dumps(rules, sort_keys=True).encode())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def __call__(self, captions: Sequence[str]) -> Captions:
        """B captions -> features (B, P, C) and mask (B, P)."""
        return Captions.padded(self.features(captions), self.num_tokens)

    def lengths(self, captions: Sequence[str]) -> list[int]:
        """Tokens n of each caption, at most `most_tokens`. Warns once if one is cut."""
        return [len(tokens) for tokens in self._tokens(captions)]

    @torch.no_grad()
    def features(self, captions: Sequence[str]) -> list[Tensor]:
        """Features (n, C) of each caption. Warns once if one is cut."""
        tokens = self._tokens(captions)
        nothing = torch.empty(0, self.width, dtype=self.model.dtype, device=self.model.device)
        features = [nothing] * len(tokens)
        for length in sorted({len(row) for row in tokens} - {0}):
            alike = [index for index, row in enumerate(tokens) if len(row) == length]
            for start in range(0, len(alike), BATCH):
                batch = alike[start : start + BATCH]
                encoded = self._encode([tokens[index] for index in batch])
                for index, row in zip(batch, encoded):
                    features[index] = row
        return features

    def _encode(self, tokens: list[list[int]]) -> Tensor:
        """Features (b, n, C) of b <= BATCH rows of n tokens; they fill up the batch in turn."""
        rows = torch.arange(BATCH) % len(tokens)
        filled = torch.tensor(tokens)[rows].to(self.model.device)  # (BATCH, n)
        with torch.autocast(filled.device.type, enabled=False):
            return self.model(input_ids=filled).last_hidden_state[: len(tokens)]

    def _tokens(self, captions: Sequence[str]) -> list[list[int]]:
        encodings = self.tokenizer.encode_batch(list(captions))
        if not self._has_warned:
            self._warn_of_cut(captions, encodings)
        return [encoding.ids for encoding in encodings]

    def _warn_of_cut(self, captions: Sequence[str], encodings: Sequence[Any]) -> None:
        for caption, encoding in zip(captions, encodings):
            if rest := encoding.overflowing:
                special = self.tokenizer.num_special_tokens_to_add(is_pair=False)
                count = len(encoding) + sum(len(part) - special for part in rest)
                warnings.warn(
                    f"A caption of {count} tokens is cut to {self.most_tokens}, the most for "
                    f"{self.name} here, and so is every longer one: {caption[:60]!r}...",
                    stacklevel=2,
                )
                self._has_warned = True
                return


def _read_tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer

    text = (folder / "tokenizer.json").read_text("utf-8")
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # it raises nothing more special
        raise ValueError(f"tokenizer.json: {error}") from error


def _read_model(folder: Path, dtype: torch.dtype) -> Any:
    """The frozen model, of whose weights none is missing."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    kind = config.model_type
    does_more = config.is_encoder_decoder or hasattr(config, "vision_config")
    if does_more and kind not in HALVES:
        raise UserError(
            f"{folder} is a {kind}, of which we know no half that reads text alone; name another "
            f"encoder, such as one of the kinds {', '.join(HALVES)}."
        )
    with quiet(transformers.utils.logging):
        model, report = getattr(transformers, HALVES.get(kind, "AutoModel")).from_pretrained(
            *(folder,),
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    if hasattr(model, "pooler"):  # it makes one vector of a text, and may have no weights
        model.pooler = None
    if missing := sorted(set(report["missing_keys"]) & model.state_dict().keys()):
        raise UserError(f"The weights in {folder} lack {some(missing)}; {SAVE}.")
    check_finite(model.state_dict(), folder)
    return model.requires_grad_(False).eval()


def _leave_out(model: Any, count: int, folder: Path) -> None:
    """Take the last `count` blocks from a model."""
    blocks = next((part for part in model.modules() if isinstance(part, ModuleList)), ModuleList())
    if count and count >= len(blocks):
        raise UserError(
            f"text.skip_layers={count} leaves nothing of {folder}, which has {len(blocks)} layers; "
            f"leave out at most {max(len(blocks) - 1, 0)}."
        )
    del blocks[len(blocks) - count :]


def _limit(folder: Path, model: Any) -> int:
    """The most tokens that the model was made for, as far as its folder says it."""
    path = folder / "tokenizer_config.json"
    said = json.loads(path.read_text("utf-8")) if path.exists() else {}
    limits = (said.get("model_max_length"), getattr(model.config, "max_position_embeddings", None))
    return int(min(limit for limit in (*limits, 1 << 30) if limit))


@contextmanager
def quiet(logging: Any) -> Iterator[None]:
    """Without bars and reports of `transformers`: what they tell is checked here."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
