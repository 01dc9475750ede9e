"""Prompts: texts become the captions that a network has learned to draw images of.

Stands on the text encoders; that of the weights is opened when the first prompt comes.
Shapes: B texts, P condition tokens, C width of features.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from MaskGIL.device import DTYPES
from MaskGIL.text_source import TextOrigin, open_text_encoder
from Network.condition import Captions
from Network.config import NetworkConfig, UserError
from Network.gpt import GPT
from Network.text import PretrainedEncoder

Prompts = str | Sequence[str]


def read_texts(key: str, given: Prompts) -> list[str]:
    """One text or several, white space as in captions. Raises UserError naming `key`."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{key} is {given!r}; give a text, or a list of texts.")
    if not texts:
        raise UserError(f"{key} is an empty list; give a text, or leave it out.")
    return [" ".join(text.split()) for text in texts]


def check_kind(config: NetworkConfig, class_labels: object, **prompts: object) -> None:
    """Raise UserError for classes where a network has learned prompts, and the reverse.

    None and an empty text are not given.
    """
    if config.caption_width and class_labels is not None:
        raise UserError("class_labels is not for these weights, which know prompts; use prompt=...")
    for key in (key for key, texts in prompts.items() if texts not in (None, "")):
        if not config.caption_width:
            known = "classes; use class_labels=..." if config.num_classes else "none; leave it out."
            raise UserError(f"{key} is not for these weights, which know {known}")


class PromptEncoder:
    """Texts -> captions for one network, by the encoder whose features it has learned from."""

    def __init__(self, network: GPT, origin: TextOrigin | None, asked: str | None = None):
        """`asked` says where the encoder is, a folder or a name; None: what `origin` calls it.

        Raises UserError if it is asked for and the network knows no prompts.
        """
        if asked and not network.config.caption_width:
            raise UserError(
                f"text_encoder={asked} has no effect: these weights know no prompts; leave it out."
            )
        self.network, self.origin, self.asked = network, origin, asked
        self._encoder: PretrainedEncoder | None = None
        self._has_warned = False
        self._known = lru_cache(maxsize=2)(self._read)  # what is checked is drawn thereafter

    def __call__(self, texts: Sequence[str]) -> Captions:
        """B texts -> features (B, P, C) float32 and mask (B, P), on the device of the network.

        A text has the same ones in any company, rounded to bf16 as in a caption cache. An empty
        text is dropped, which no encoder is needed for: each network puts its null caption there,
        as long as captions of its training usually are. The first one is warned of. Raises
        UserError as `encoder` does.
        """
        if not all(texts) and not self._has_warned:
            text = "An empty prompt asks for nothing: its image is drawn without condition."
            warnings.warn(text, stacklevel=2)
            self._has_warned = True
        return self._captions(texts)

    def against(self, texts: Sequence[str], captions: Captions) -> Captions:
        """B texts -> what guidance leads away from; of an empty one the null caption of its row."""
        found = self._captions(texts)
        assert found.mask is not None
        assert captions.mask is not None
        mask = torch.where(self._empty(texts)[:, None], captions.mask, found.mask)
        return replace(found, mask=mask)

    def _captions(self, texts: Sequence[str]) -> Captions:
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        rows = torch.tensor([places[text] for text in texts])
        found = self._known(tuple(places)).to(self._device)[rows]
        return replace(found, dropped=self._empty(texts))

    def _read(self, texts: tuple[str, ...]) -> Captions:
        """Captions of different texts, of which an empty one is not read."""
        config, said = self.network.config, [self._spelt(text) for text in texts if text]
        read = iter(self.encoder.features(said) if said else ())
        usual, most = self.origin.null_tokens if self.origin else 0, config.caption_tokens
        null = torch.zeros(usual or most, config.caption_width, device=self._device)
        features = [next(read) if text else null for text in texts]
        return Captions.padded([each.bfloat16().float() for each in features], most)

    def _empty(self, texts: Sequence[str]) -> Tensor:
        """Where texts are empty, (B,) bool."""
        return torch.tensor([not text for text in texts], device=self._device)

    @property
    def encoder(self) -> PretrainedEncoder:
        """The text encoder, opened once.

        Raises UserError if the weights do not say which one and nobody does, if it cannot be had,
        and if it is another one than the network has learned from.
        """
        if self._encoder is None:
            self._encoder = self._open()
        return self._encoder.to(self._device)

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    def _open(self) -> PretrainedEncoder:
        config, origin = self.network.config, self.origin
        asked = self.asked or (origin.encoder if origin else "")
        if not asked:
            raise UserError(
                "These weights do not say which text encoder they learned from; name it, "
                "text_encoder=FOLDER."
            )

        def check_width(width: int) -> None:
            if width != config.caption_width:
                raise UserError(
                    f"text_encoder={asked} gives a token {width} numbers, and these weights take "
                    f"{config.caption_width}; name the encoder that they learned from."
                )

        given: dict[str, Any] = {"num_tokens": config.caption_tokens}
        if origin:
            given |= {"skip_layers": origin.skip_layers, "dtype": DTYPES[origin.precision]}
        encoder = open_text_encoder("text_encoder", asked, check_width, **given)
        if origin and origin.fingerprint not in ("", encoder.fingerprint):
            raise UserError(
                f"text_encoder={asked} has the fingerprint {encoder.fingerprint[:16]}, and these "
                f"weights learned from {origin.encoder} with {origin.fingerprint[:16]}; name that "
                "one."
            )
        return encoder

    def _spelt(self, text: str) -> str:
        return text.lower() if self.origin and self.origin.lower_case else text


class Texts:
    """Texts that are cut as labels (B,) are, by `[start:stop]`, and encoded when they are."""

    def __init__(self, encode: Callable[[Sequence[str]], Captions], texts: Sequence[str]):
        self.encode, self.texts = encode, texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, rows: slice) -> Captions:
        return self.encode(self.texts[rows])
