"""CLIP score (Hessel et al. 2021): how near a picture lies to its caption in the space of a CLIP.

100 max(cos, 0) of each pair, then the mean, as torchmetrics and published tables of generators have
it; the paper's own factor is 2.5. Scores of different CLIPs are not comparable: torchmetrics'
default is ViT-L/14 (`clip-vit-l14`). B images with a text each, D width of the shared space.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from MaskGIL.device import without_tf32
from MaskGIL.text_source import find_text_encoder, look_up
from Network.config import UserError
from Network.files import DAMAGE, check_finite, fingerprint, some
from Network.text import quiet

BATCH = 32
RULES = ("tokenizer.json", "preprocessor_config.json")  # how it takes texts and pictures
FACTOR = 100
HOW = f"{FACTOR} max(cos, 0) of picture and caption, the mean over all pairs"


class ClipScorer:
    """A CLIP of `transformers` in float32. `name` and `sha256` identify it in results."""

    def __init__(self, folder: Path, device: torch.device, name: str) -> None:
        """Raises UserError without the extra, and for a folder that is no whole CLIP."""
        _check_extra()
        with _told_of_damage(folder):
            self._model, self._tokenizer, self._processor = _read(folder)
        self._model.to(device)
        self.name = f"clip-{name.removeprefix('clip-')}"
        digest = hashlib.sha256(fingerprint(self._model.state_dict()).encode())
        for rules in RULES:
            digest.update((folder / rules).read_bytes())
        self.sha256 = digest.hexdigest()

    def __call__(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Scores (B,) in [0, 100], on the CPU, of images (B, 3, H, W) uint8 and their texts.

        A text of more tokens than the CLIP takes is cut.
        """
        assert len(images) == len(texts), (len(images), len(texts))
        pieces = range(0, len(texts), BATCH)
        return torch.cat([self._score(images[s : s + BATCH], texts[s : s + BATCH]) for s in pieces])

    @torch.inference_mode()
    def _score(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        with without_tf32(), torch.autocast(self._model.device.type, enabled=False):
            cosine = F.cosine_similarity(self._see(images), self._read(texts))
        return FACTOR * cosine.clamp(min=0).cpu()

    def _see(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) uint8 -> (B, D)."""
        pixels = self._processor(images=list(images.cpu()), return_tensors="pt")["pixel_values"]
        seen = self._model.vision_model(pixel_values=pixels.to(self._model.device))
        return self._model.visual_projection(seen.pooler_output)

    def _read(self, texts: Sequence[str]) -> Tensor:
        """B texts -> (B, D)."""
        encodings = self._tokenizer.encode_batch(list(texts))
        tokens = torch.tensor([each.ids for each in encodings], device=self._model.device)  # (B, n)
        mask = torch.tensor([each.attention_mask for each in encodings], device=tokens.device)
        read = self._model.text_model(input_ids=tokens, attention_mask=mask)
        return self._model.text_projection(read.pooler_output)


def open_clip(value: str, device: torch.device) -> ClipScorer | None:
    """The CLIP that a key `clip` of this value asks for, "" for none.

    It is a folder or a name, as `MaskGIL.text_source` finds them. Raises UserError.
    """
    if not value:
        return None
    return ClipScorer(find_text_encoder("clip", value), device, Path(value).resolve().name)


def check_clip(value: str) -> None:
    """Raise UserError for what cannot be a CLIP, as far as that shows before it is fetched."""
    if not value:
        return
    _check_extra()
    folder, _ = look_up("clip", value)
    if folder:
        with _told_of_damage(folder):
            _check_kind(folder)


def _check_extra() -> None:
    if find_spec("transformers") is None:
        raise UserError("clip=... needs the extra t2i: pip install -e .[t2i].")


def _check_kind(folder: Path) -> None:
    import transformers

    for name in ("config.json", *RULES):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is no CLIP, {name} is missing; name one with all its files.")
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    if config.model_type != "clip":
        raise UserError(f"{folder} is a {config.model_type} and no CLIP; name one.")


@contextmanager
def _told_of_damage(folder: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (*DAMAGE, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{folder} is no whole CLIP ({reason}); save it anew with save_pretrained of "
            "transformers: model, tokenizer and image processor."
        ) from error


def _read(folder: Path) -> tuple[Any, Any, Any]:
    """Model, tokenizer and image processor."""
    import transformers
    from tokenizers import Tokenizer

    _check_kind(folder)
    with quiet(transformers.utils.logging):
        loaded: Any = transformers.CLIPModel.from_pretrained(
            *(folder,),
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"The weights in {folder} lack {some(missing)}; fetch them anew.")
    check_finite(model.state_dict(), folder)
    tokenizer = Tokenizer.from_str((folder / RULES[0]).read_text("utf-8"))
    tokenizer.enable_truncation(model.config.text_config.max_position_embeddings)
    tokenizer.enable_padding(pad_id=0)  # behind the end of a text, where a causal model never looks
    processor = transformers.CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
    return model.eval().requires_grad_(False), tokenizer, processor
