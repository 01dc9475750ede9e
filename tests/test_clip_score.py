"""The CLIP score of a random CLIP beside what torchmetrics makes of the same weights."""

import json
import shutil

import pytest
import tiny_text
import torch
from tiny_text import CAPTIONS, save_encoder

from Metrics import clip_score
from Metrics.clip_score import check_clip, open_clip
from Network.config import UserError

transformers = pytest.importorskip("transformers", reason="needs the extra t2i")
CPU = torch.device("cpu")


def save_clip(folder, seed=0, **options):
    """Without what all pictures have in common, else all cosines would be the same."""
    save_encoder(folder, "clip", seed, **options)
    model = transformers.CLIPModel.from_pretrained(folder)
    with torch.no_grad():
        for norm in (model.vision_model.post_layernorm, model.text_model.final_layer_norm):
            norm.bias.zero_()
        model.vision_model.embeddings.class_embedding.zero_()
        model.vision_model.pre_layrnorm.bias.zero_()
    model.save_pretrained(folder)
    rules = {"size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}}
    transformers.CLIPImageProcessor(**rules).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip") / "clip-tiny")


@pytest.fixture(scope="module")
def images():
    noise = torch.Generator().manual_seed(0)
    coarse = torch.randint(256, (len(CAPTIONS), 3, 2, 3), generator=noise).float()
    return torch.nn.functional.interpolate(coarse, (12, 16)).to(torch.uint8)


def opened(folder):
    return open_clip(str(folder), CPU)


def cosines(folder, images, texts):
    """Of transformers, each pair on its own."""
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    see = transformers.CLIPImageProcessor.from_pretrained(folder)
    words = {word: number for number, word in enumerate(tiny_text.WORDS)}
    found = []
    for image, text in zip(images, texts):
        tokens = [words["[CLS]"], *(words[word] for word in text.split()), words["[SEP]"]]
        pixels = see(images=[image], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            out = model(input_ids=torch.tensor([tokens]), pixel_values=pixels)
        found.append(out.image_embeds @ out.text_embeds.T)  # which are of length 1
    return torch.cat(found).flatten()


def test_a_score_is_a_hundred_times_the_cosine_where_that_is_positive(folder, images):
    scores = opened(folder)(images, CAPTIONS)
    expected = cosines(folder, images, CAPTIONS)
    assert expected.min() < 0 < expected.max()
    torch.testing.assert_close(scores, 100 * expected.clamp(min=0), rtol=1e-4, atol=1e-3)


class Features(torch.nn.Module):
    """What torchmetrics 1.9 asks a CLIP for: transformers 5 gives more than the features alone."""

    def __init__(self, folder):
        super().__init__()
        self.clip = transformers.CLIPModel.from_pretrained(folder).eval()
        self.config = self.clip.config

    def get_image_features(self, pixels):
        found = self.clip.get_image_features(pixels)
        return getattr(found, "pooler_output", found)

    def get_text_features(self, tokens, mask):
        found = self.clip.get_text_features(tokens, mask)
        return getattr(found, "pooler_output", found)


@pytest.mark.filterwarnings("ignore:`max_length` is ignored")
def test_torchmetrics_has_the_same_mean_of_pairs_of_positive_cosine(folder, images):
    """torchmetrics takes the maximum with 0 of the mean, not of each pair."""
    functional = pytest.importorskip("torchmetrics.functional.multimodal")
    positive = cosines(folder, images, CAPTIONS) > 0
    texts = [text for text, chosen in zip(CAPTIONS, positive) if chosen]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), pad_token="[PAD]"
    )
    see = transformers.CLIPImageProcessor.from_pretrained(folder)
    processor = transformers.CLIPProcessor(see, tokenizer)

    def pair():
        return Features(folder), processor

    expected = functional.clip_score(list(images[positive]), texts, pair)
    found = opened(folder)(images[positive], texts)
    assert found.mean().item() == pytest.approx(expected.item(), rel=1e-4)


def test_pieces_and_company_change_the_last_bits_alone(folder, images, monkeypatch):
    scorer = opened(folder)
    together = scorer(images, CAPTIONS)
    monkeypatch.setattr(clip_score, "BATCH", 2)
    torch.testing.assert_close(scorer(images, CAPTIONS), together, rtol=1e-4, atol=1e-4)
    swapped = scorer(images, CAPTIONS[::-1])
    assert not torch.allclose(swapped, together, atol=1)


def test_a_text_that_is_too_long_is_cut(folder, images):
    scorer = opened(folder)
    words = "red circle above a blue square on dark " * 5  # 40 of them, of 32 tokens with both ends
    cut = " ".join(words.split()[:30])
    assert torch.equal(scorer(images[:1], [words]), scorer(images[:1], [cut]))


def test_name_and_hash_identify_it(folder, tmp_path):
    scorer = opened(folder)
    assert scorer.name == "clip-tiny"
    same = opened(save_clip(tmp_path / "same"))
    assert (same.name, same.sha256) == ("clip-same", scorer.sha256)
    assert opened(save_clip(tmp_path / "other", seed=1)).sha256 != scorer.sha256
    rules = json.loads((tmp_path / "same/preprocessor_config.json").read_text())
    rules["image_mean"] = [0.5] * 3
    (tmp_path / "same/preprocessor_config.json").write_text(json.dumps(rules))
    assert opened(tmp_path / "same").sha256 != scorer.sha256


def test_mistakes(tmp_path, monkeypatch):
    def sentence(value):
        with pytest.raises(UserError) as error:
            open_clip(str(value), CPU)
        return str(error.value)

    def known_before(value):
        with pytest.raises(UserError) as error:
            check_clip(str(value))
        return str(error.value) == sentence(value)

    assert open_clip("", CPU) is None
    check_clip("")
    check_clip(str(save_clip(tmp_path / "whole")))
    assert known_before("nothing")
    assert sentence("nothing").startswith("clip=nothing is no folder and none of the names flan-t5")
    bert = save_encoder(tmp_path / "bert")
    shutil.copy(bert / "config.json", tmp_path)
    assert sentence(bert).endswith(
        "preprocessor_config.json is missing; name one with all its files."
    )
    assert known_before(bert)
    (bert / "preprocessor_config.json").write_text("{}")
    assert known_before(bert)
    (bert / "config.json").write_text("{")
    assert known_before(bert)
    shutil.copy(tmp_path / "config.json", bert)
    assert sentence(bert) == f"{bert} is a bert and no CLIP; name one."
    damaged = save_clip(tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"damaged")
    assert sentence(damaged).startswith(f"{damaged} is no whole CLIP (")
    monkeypatch.setattr(clip_score, "find_spec", lambda name: None)
    assert sentence(damaged) == "clip=... needs the extra t2i: pip install -e .[t2i]."
