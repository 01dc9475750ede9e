"""Text encoders against `transformers` itself, which pads and masks where ours does not."""

import json
import random
import socket
import warnings
from pathlib import Path

import pytest
import tiny
import tiny_text
import torch
from safetensors.torch import load_file, save_file
from tiny_text import CAPTIONS, MODELS, save_encoder, save_tokenizer

from Network import text
from Network.condition import Captions
from Network.config import UserError
from Network.text import _leave_out, load_text_encoder

transformers = pytest.importorskip("transformers", reason="needs the extra t2i")
SENTENCE = "two red circle above a blue square"  # 7 words, 9 tokens


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("encoders")
    return {kind: save_encoder(place / kind, kind) for kind in MODELS}


@pytest.fixture
def folder(tmp_path):
    """An encoder to be damaged."""
    return save_encoder(tmp_path / "encoder")


def many(count):
    """Captions of 0 to 9 words."""
    draw = random.Random(0)
    return [" ".join(draw.choices(tiny_text.WORDS[4:], k=draw.randrange(10))) for _ in range(count)]


def padded_features(model, tokenizer, captions):
    """Of transformers: padded behind, with a mask."""
    given = tokenizer(captions, padding=True, return_tensors="pt")
    with torch.no_grad():
        features = model(**given).last_hidden_state
    return [row[mask.bool()] for row, mask in zip(features, given["attention_mask"])]


READERS = {
    "bert": lambda folder: transformers.BertModel.from_pretrained(folder),
    "t5": lambda folder: transformers.T5ForConditionalGeneration.from_pretrained(folder).encoder,
    "clip": lambda folder: transformers.CLIPModel.from_pretrained(folder).text_model,
    "clip_text_model": lambda folder: transformers.CLIPTextModel.from_pretrained(folder),
}


@pytest.mark.parametrize("kind", MODELS)
def test_features_are_those_of_transformers(folders, kind):
    encoder, model = load_text_encoder(folders[kind]), READERS[kind](folders[kind])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folders[kind] / "tokenizer.json"), pad_token="[PAD]"
    )
    expected = padded_features(model.eval(), tokenizer, CAPTIONS)
    found = encoder.features(CAPTIONS)
    assert [row.shape for row in found] == [row.shape for row in expected]
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert encoder.lengths(CAPTIONS) == [len(caption.split()) + 2 for caption in CAPTIONS]


@pytest.mark.parametrize("kind", MODELS)
def test_features_of_a_layer_further_down_are_those_of_transformers(folders, kind):
    """Behind the norm that ends a T5 or CLIP, as behind the last layer."""
    encoder, model = load_text_encoder(folders[kind], skip_layers=1), READERS[kind](folders[kind])
    tokens = torch.tensor([encoder.tokenizer.encode(SENTENCE).ids])
    with torch.no_grad():
        hidden = model.eval()(input_ids=tokens, output_hidden_states=True).hidden_states
        norms = [each for name, each in model.named_modules() if name.endswith("final_layer_norm")]
        norms += [each for name, each in model.named_modules() if name.endswith("encoder.norm")]
        expected = norms[-1](hidden[-2]) if norms else hidden[-2]
    torch.testing.assert_close(encoder.features([SENTENCE])[0], expected[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(
        load_text_encoder(folders[kind]).features([SENTENCE])[0], expected[0], atol=0.1
    )
    with pytest.raises(UserError) as error:
        load_text_encoder(folders[kind], skip_layers=2)
    assert str(error.value) == (
        f"text.skip_layers=2 leaves nothing of {folders[kind]}, which has 2 layers; leave out at "
        "most 1."
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", MODELS)
def test_features_are_identical_alone_and_among_64(folders, kind, dtype):
    encoder, captions = load_text_encoder(folders[kind], dtype=dtype), many(64)
    together, backwards = encoder(captions), encoder(captions[::-1])
    assert torch.equal(together.features, backwards.features.flip(0))
    for row, caption in enumerate(captions):
        alone = encoder([caption])
        assert torch.equal(alone.features[0], together.features[row])
        assert torch.equal(alone.mask[0], together.mask[row])
    assert together.features.dtype == dtype
    assert encoder.precision == {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]


def test_captions_are_padded_in_front(folders):
    encoder = load_text_encoder(folders["t5"], num_tokens=12)
    captions, features = encoder(CAPTIONS), encoder.features(CAPTIONS)
    assert captions.features.shape == (len(CAPTIONS), 12, encoder.width)
    for row, mask, own in zip(captions.features, captions.mask, features):
        assert mask.tolist() == [True] * (12 - len(own)) + [False] * len(own)
        assert not row[: 12 - len(own)].any()
        assert torch.equal(row[12 - len(own) :], own)


def test_an_encoder_is_frozen_whatever_surrounds_it(folders):
    encoder = load_text_encoder(folders["t5"])  # with dropout 0.1 in training
    expected = encoder.features([SENTENCE])[0]
    with torch.autocast("cpu", torch.bfloat16):
        found = encoder.features([SENTENCE])[0]
    assert torch.equal(found, expected)
    assert not any(parameter.requires_grad for parameter in encoder.model.parameters())
    weight = torch.ones(encoder.width, requires_grad=True)
    (found @ weight).sum().backward()  # would raise for a tensor of inference_mode
    torch.testing.assert_close(weight.grad, expected.sum(0))


def test_a_caption_without_tokens_has_no_features(tmp_path):
    encoder = load_text_encoder(save_encoder(tmp_path / "bare", ends=None), num_tokens=4)
    captions = encoder(["", "a star"])
    assert encoder.lengths(["", "a star"]) == [0, 2]
    assert captions.mask.tolist() == [[True] * 4, [True, True, False, False]]
    assert not captions.features[0].any()


def test_a_generator_trains_on_features_of_either_precision(folders):
    network = tiny.network(caption_width=16, num_classes=0).float()
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        captions = load_text_encoder(folders["bert"], dtype=dtype)(["a star", SENTENCE])
        network.zero_grad()
        network(tiny.tokens(), captions).square().sum().backward()
        gradients.append(network.condition.up.weight.grad.clone())
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0.1, atol=0.1 * gradients[0].std())


# ------------------------------------------------------------------------------- too long
def test_what_is_too_long_is_cut_before_the_end_token_and_told_once(folders):
    encoder = load_text_encoder(folders["bert"], name="tiny", num_tokens=6)
    told = (
        "A caption of 9 tokens is cut to 6, the most for tiny here, and so is every longer one: "
        "'two red circle above a blue square'..."
    )
    with pytest.warns(UserWarning, match="is cut to 6") as record:
        assert encoder.lengths(["a star", SENTENCE]) == [4, 6]
    assert [str(warning.message) for warning in record] == [told]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cut, fitting = encoder.features([SENTENCE, "two red circle above"])
    assert torch.equal(cut, fitting)


@pytest.mark.parametrize(
    ("kind", "positions", "num_tokens", "most"),
    [("bert", 32, 120, 24), ("bert", 11, 120, 11), ("clip", 10, 120, 10), ("t5", 0, 7, 7)],
)
def test_no_caption_is_longer_than_model_tokenizer_and_padding_allow(
    tmp_path, kind, positions, num_tokens, most
):
    folder = save_encoder(tmp_path / "encoder", kind, positions=positions)
    encoder = load_text_encoder(folder, num_tokens=num_tokens)
    with pytest.warns(UserWarning, match=f"of 102 tokens is cut to {most},"):
        captions = encoder(["a " * 100])
    assert encoder.most_tokens == most
    assert captions.mask.sum().item() == num_tokens - most


# ----------------------------------------------------------------------------- fingerprint
def test_a_fingerprint_is_of_weights_and_tokenizer(tmp_path):
    first = load_text_encoder(save_encoder(tmp_path / "first"))
    same = load_text_encoder(save_encoder(tmp_path / "same"), name="other", num_tokens=5)
    same.lengths(["a star"])
    assert same.fingerprint == first.fingerprint
    assert len(first.fingerprint) == 64
    others = [
        load_text_encoder(save_encoder(tmp_path / "weights", seed=1)),
        load_text_encoder(save_encoder(tmp_path / "tokenizer", ends=("[SEP]", "[CLS]"))),
        load_text_encoder(tmp_path / "first", dtype=torch.bfloat16),
        load_text_encoder(tmp_path / "first", skip_layers=1),
    ]
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 5


# ------------------------------------------------------------------------------- bad input
def test_without_the_extra_its_name_is_told(folders, monkeypatch):
    monkeypatch.setattr(text, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^A text encoder needs the extra t2i: pip install -e .*"):
        load_text_encoder(folders["bert"])


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(UserError, match=r"^No such folder of a text encoder: .*/nowhere\.$"):
        load_text_encoder(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_told(folder, name):
    (folder / name).unlink()
    (folder / "pytorch_model.bin").touch()  # a pickle is not read
    with pytest.raises(UserError) as caught:
        load_text_encoder(folder)
    told = f"{folder} is no text encoder, {name} is missing; save it anew with save_pretrained of "
    assert str(caught.value) == told + "transformers, model and tokenizer."


def test_the_parts_of_weights_are_all_needed(folder):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"is no text encoder, model-2\.safetensors is missing"):
        load_text_encoder(folder)
    path.write_text("{")
    with pytest.raises(UserError, match="is no whole text encoder"):
        load_text_encoder(folder)


def test_weights_in_several_files_are_the_same(folder, tmp_path):
    whole = load_text_encoder(folder)
    model = transformers.BertModel.from_pretrained(folder)
    model.save_pretrained(tmp_path / "parts", max_shard_size="8KB")
    save_tokenizer(tmp_path / "parts")
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    assert load_text_encoder(tmp_path / "parts").fingerprint == whole.fingerprint


def change_weights(folder, change):
    path = folder / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


NAME = "encoder.layer.1.output.dense.bias"
DAMAGES = {
    "a weight is missing": (
        lambda folder: change_weights(folder, lambda state: state.pop(NAME)),
        rf"The weights in .* lack {NAME}; save it anew",
    ),
    "a weight is not finite": (
        lambda folder: change_weights(folder, lambda state: state[NAME].fill_(torch.nan)),
        rf"The weights in .* are not all finite: {NAME}",
    ),
    "another size": (
        lambda folder: change_config(folder, intermediate_size=64),
        r".* is no whole text encoder \(.*\); save it anew",
    ),
    "no safetensors": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"\x80\x02."),
        r".* is no whole text encoder \(.*\); save it anew",
    ),
    "no tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text("{"),
        r".* is no whole text encoder \(tokenizer.json: .*\); save it anew",
    ),
    "no JSON": (
        lambda folder: (folder / "config.json").write_text("{"),
        r".* is no whole text encoder \(.*\); save it anew",
    ),
    "an unknown model": (
        lambda folder: change_config(folder, model_type="mystery"),
        r".* is no whole text encoder \(.*mystery.*\); save it anew",
    ),
    "no JSON beside the tokenizer": (
        lambda folder: (folder / "tokenizer_config.json").write_text("["),
        r".* is no whole text encoder \(.*\); save it anew",
    ),
    "another kind of JSON": (
        lambda folder: (folder / "config.json").write_text("[]"),
        r".* is no whole text encoder \(.*\); save it anew",
    ),
    "images too": (
        lambda folder: change_config(folder, model_type="siglip"),
        r".* is a siglip, of which we know no half that reads text alone; name another encoder",
    ),
    "an encoder and decoder": (
        lambda folder: change_config(folder, model_type="bart", is_encoder_decoder=True),
        r".* is a bart, of which we know no half that reads text alone; name another encoder",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_encoder_is_refused_in_a_sentence(folder, name):
    damage, told = DAMAGES[name]
    damage(folder)
    with pytest.raises(UserError, match=f"^{told}") as caught:
        load_text_encoder(folder)
    assert "\n" not in str(caught.value)


def test_a_pooler_is_not_needed(folder):
    def without_pooler(state):
        for name in [name for name in state if name.startswith("pooler.")]:
            del state[name]

    expected = load_text_encoder(folder)
    change_weights(folder, without_pooler)
    found = load_text_encoder(folder)
    assert found.fingerprint == expected.fingerprint
    assert torch.equal(found.features([SENTENCE])[0], expected.features([SENTENCE])[0])


def test_loading_says_nothing_and_leaves_the_log_as_it_was(folders, capfd):
    logging = transformers.utils.logging
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_text_encoder(folders["t5"])  # half of the weights are not for the encoder
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")


# ---------------------------------------------------------------------------------- MiniLM
SENTENCES = [
    "Two red circles above a blue square on a dark background.",
    "On black, a blue square below a pair of red circles",
    "The central bank raised its interest rates; markets fell.",
    "Ünïcode — café\n🙂",
]


@pytest.fixture(scope="module")
def minilm():
    return load_text_encoder(tiny_text.minilm(), name="all-minilm-l6-v2")


def test_minilm_loads_without_any_network(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("something asks the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    encoder = load_text_encoder(tiny_text.minilm())
    # 22,713,216 of its card, without the 384 x 384 and 384 of the pooler
    assert sum(parameter.numel() for parameter in encoder.model.parameters()) == 22_565_376
    assert (encoder.width, encoder.most_tokens) == (384, 120)


def test_minilm_gives_the_features_of_transformers(minilm):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_text.minilm())
    model = transformers.AutoModel.from_pretrained(tiny_text.minilm()).eval()
    for ours, theirs in zip(
        minilm.features(SENTENCES), padded_features(model, tokenizer, SENTENCES)
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_minilm_knows_what_is_alike(minilm):
    means = torch.stack([row.mean(0) for row in minilm.features(SENTENCES)])
    means = torch.nn.functional.normalize(means, dim=1)
    likeness = means @ means.T
    assert likeness[0, 1] > 0.5 > 0.2 > likeness[0, 2]


def test_minilm_features_are_identical_alone_and_among_64(minilm):
    captions = [*SENTENCES, *many(60)]
    together = minilm(captions)
    for row in (0, 2, 3, 4, 31, 63):
        assert torch.equal(minilm([captions[row]]).features[0], together.features[row])


def test_padding_is_never_attended(folders):
    encoder = load_text_encoder(folders["t5"], num_tokens=12)
    network = tiny.network(caption_width=16, num_classes=0)
    captions = encoder(["a star", SENTENCE])
    noise = torch.randn_like(captions.features).where(captions.mask[..., None], captions.features)
    with torch.no_grad():
        expected = network(tiny.tokens(), captions)
        found = network(tiny.tokens(), Captions(noise, captions.mask))
    assert not torch.equal(noise, captions.features)
    assert torch.equal(found, expected)


def test_an_encoder_whose_blocks_are_not_found_says_so():
    model = torch.nn.Linear(2, 2)
    _leave_out(model, 0, Path("folder"))
    with pytest.raises(UserError, match=r"leaves nothing of folder, which has 0 layers"):
        _leave_out(model, 1, Path("folder"))
