import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from tiny_text import save_encoder, text_pipeline

from MaskGIL.data.crops import to_uint8
from MaskGIL.decoding import decode
from MaskGIL.noise import random_bits
from MaskGIL.pipeline import Pipeline, image_seeds
from MaskGIL.predictor import PREDICTORS
from MaskGIL.sampling import SamplingConfig
from MaskGIL.weights import save_weights
from Network.condition import Captions
from Network.config import UserError
from Network.text import load_text_encoder

CLASSES = ["red circle", "blue square", "goldfish"]
MASK = 11


@pytest.fixture(scope="module")
def pipe():
    """4x4 tokens, 8x8 pixels; drawn sharply, so that rounding in a batch changes nothing."""
    settings = SamplingConfig(num_steps=5, temperature=0.5)
    return Pipeline(tiny.network().float(), tiny.tokenizer(), CLASSES, settings)


def arrays(images):
    return np.stack([np.asarray(image) for image in images])


# Labels


def test_labels_by_number_and_name(pipe):
    assert pipe.labels([2, "goldfish", "1", "RED circle"]).tolist() == [2, 2, 1, 0]
    assert pipe.labels("goldfish").tolist() == pipe.labels(2).tolist() == [2]
    assert pipe.labels(range(3)).tolist() == pipe.labels(torch.arange(3)).tolist() == [0, 1, 2]
    assert pipe.labels(np.int64(2)).tolist() == pipe.labels(torch.tensor(2)).tolist() == [2]
    assert pipe.labels(np.array([1, 0])).tolist() == [1, 0]
    assert pipe.labels(None).tolist() == [pipe.network.null_label] == [3]
    assert pipe.labels("goldfish").dtype == torch.int64


def test_labels_matter_and_names_are_numbers(pipe):
    found = pipe([0, 1, 2], generator=[7, 7, 7]).tokens
    assert len({str(tokens.tolist()) for tokens in found}) == 3
    assert torch.equal(pipe(CLASSES, generator=[7, 7, 7]).tokens, found)


# Seeds


def test_a_seed_is_a_set(pipe):
    found = pipe([0, 1, 0], generator=5).tokens
    assert torch.equal(pipe([0, 1, 0], generator=5).tokens, found)
    assert not torch.equal(pipe([0, 1, 0], generator=6).tokens, found)
    assert not torch.equal(found[0], found[2])  # one class, two images
    assert torch.equal(pipe([0, 1], generator=5).tokens, found[:2])  # a smaller set is its start
    assert torch.equal(pipe([0, 1, 0]).tokens, pipe([0, 1, 0], generator=0).tokens)


def test_a_seed_per_image(pipe):
    found = pipe([0, 1, 2, 0], generator=[3, -1, 3, 3]).tokens
    assert torch.equal(found[0], found[3])
    for index, (label, seed) in enumerate(zip([0, 1, 2, 0], [3, -1, 3, 3])):
        assert torch.equal(pipe(label, generator=[seed]).tokens[0], found[index])
    seeds = image_seeds(5, torch.tensor([0, 1])).tolist()
    assert torch.equal(pipe([0, 1], generator=seeds).tokens, pipe([0, 1], generator=5).tokens)


def test_a_generator_of_torch(pipe):
    found = pipe([0, 1], generator=torch.Generator().manual_seed(4)).tokens
    generator = torch.Generator().manual_seed(4)
    assert torch.equal(pipe([0, 1], generator=generator).tokens, found)
    assert not torch.equal(pipe([0, 1], generator=generator).tokens, found)  # it has moved on


def test_no_generator_is_a_random_seed(pipe):
    first, second = (pipe([0, 1, 2], generator=None).tokens for _ in range(2))
    assert not torch.equal(first, second)


def test_a_generator_of_torch_per_image(pipe):
    def generators():
        return [torch.Generator().manual_seed(seed) for seed in (4, 5)]

    found = pipe([0, 1], generator=generators()).tokens
    assert torch.equal(pipe([0, 1], generator=generators()).tokens, found)
    assert torch.equal(pipe([1], generator=generators()[1:]).tokens[0], found[1])


def test_image_seeds_do_not_depend_on_the_batch():
    seeds = image_seeds(9, torch.arange(50))
    assert torch.equal(image_seeds(9, torch.tensor([40, 3])), seeds[[40, 3]])
    assert len(set(seeds.tolist())) == 50
    assert torch.equal(seeds, random_bits(torch.tensor(9), "seed", 0, torch.arange(50)))


def test_the_global_generator_is_not_touched(pipe):
    state = torch.get_rng_state()
    pipe([0, 1], generator=5)
    assert torch.equal(torch.get_rng_state(), state)


# Images


def test_images_are_the_decoded_tokens(pipe):
    found = pipe([0, 1, 2])
    assert found.tokens.shape == (3, 4, 4)
    assert found.tokens.max() < MASK
    assert all(isinstance(image, Image.Image) for image in found.images)
    assert (found.images[0].size, found.images[0].mode) == ((8, 8), "RGB")
    with torch.no_grad():
        expected = to_uint8(pipe.tokenizer.decode(found.tokens))
    assert np.array_equal(arrays(found.images), expected.permute(0, 2, 3, 1).numpy())
    as_bytes = pipe([0, 1, 2], output_type="uint8").images
    assert torch.equal(as_bytes, expected)


@pytest.mark.parametrize(("height", "width"), [(8, 16), (12, 4), (None, 4), (6, None)])
def test_other_sizes_than_trained(pipe, height, width):
    found = pipe([0, 1], height=height, width=width)
    assert found.tokens.shape == (2, (height or 8) // 2, (width or 8) // 2)
    assert found.images[1].size == (width or 8, height or 8)


def test_the_callback_sees_every_step(pipe):
    seen = []
    found = pipe(
        [0, 1], num_inference_steps=4, callback_on_step_end=lambda *given: seen.append(given)
    )
    assert [step for _, step, _ in seen] == [0, 1, 2, 3]
    assert all(given[0] is pipe for given in seen)
    hidden = [(values["tokens"] == MASK).sum().item() for _, _, values in seen]
    assert hidden == sorted(hidden, reverse=True)
    assert 0 < hidden[0] < 32
    assert hidden[-1] == 0
    assert torch.equal(seen[-1][2]["tokens"], found.tokens)


# Settings


def test_settings_are_those_of_the_weights_unless_given(pipe):
    def steps(**settings):
        seen = []
        pipe(0, callback_on_step_end=lambda *given: seen.append(given[1]), **settings)
        return len(seen)

    assert steps() == 5
    assert steps(num_inference_steps=3) == 3
    assert pipe.sampling.num_steps == 5  # a call does not change the next one
    asked = [{}, {"guidance_scale": 9.0}, {"schedule": "square"}, {"noise": 0.0}, {"top_k": 1},
             {"temperature": 3.0}, {"order": "random"}, {"guidance": "constant"}]  # fmt: skip
    labels = [0, 1, 2] * 4
    assert len({str(pipe(labels, **each).tokens.tolist()) for each in asked}) == len(asked)


def test_weights_of_the_next_token_are_decoded_in_raster_order(pipe):
    causal = Pipeline(pipe.network, pipe.tokenizer, CLASSES, pipe.sampling, objective="ar")
    seen = []
    found = causal([0, 1], callback_on_step_end=lambda *given: seen.append(given[2]["tokens"]))
    assert len(seen) == len(causal.plan()) == 16
    hidden = [(tokens == MASK).flatten(1)[0].tolist() for tokens in seen]
    assert hidden == [[place > step for place in range(16)] for step in range(16)]
    alone = causal([1], generator=[int(image_seeds(0, torch.arange(2))[1])]).tokens
    assert torch.equal(alone[0], found.tokens[1])
    both = Pipeline(pipe.network, pipe.tokenizer, CLASSES, pipe.sampling, objective="both")
    assert torch.equal(both([0, 1], plan="ar").tokens, found.tokens)
    assert torch.equal(both([0, 1]).tokens, pipe([0, 1]).tokens)
    wide = causal([0], height=4, width=12).tokens
    assert wide.shape == (1, 2, 6)


def test_guidance_off_never_sees_the_null_condition(pipe, monkeypatch):
    encoded, encode = [], pipe.network.encode
    monkeypatch.setattr(
        pipe.network, "encode", lambda labels: encoded.append(labels) or encode(labels)
    )
    pipe([0, 2], guidance_scale=1.0)
    assert [labels.tolist() for labels in encoded] == [[0, 2]]
    pipe([0, 2], guidance_scale=2.0)
    assert [labels.tolist() for labels in encoded[1:]] == [[0, 2], [3, 3]]


def test_an_unconditional_network(monkeypatch):
    network = tiny.network(num_classes=0).float()
    pipe = Pipeline(network, tiny.tokenizer(), sampling=SamplingConfig(num_steps=4))
    encoded, encode = [], network.encode
    monkeypatch.setattr(network, "encode", lambda labels: encoded.append(labels) or encode(labels))
    found = pipe(guidance_scale=5.0)
    assert found.tokens.shape == (1, 4, 4)
    assert len(found.images) == 1
    assert len(encoded) == 1  # no second pass: there is nothing to guide by
    with pytest.raises(UserError, match=r"^This model knows no classes; leave class_labels out\.$"):
        pipe([0])
    with pytest.raises(UserError, match=r"^prompt is not for these weights, which know none"):
        pipe(prompt="a cat")


def test_the_decoder_stays_wide(pipe, monkeypatch):
    narrow = Pipeline(pipe.network, pipe.tokenizer, dtype=torch.float16)
    seen, decode = [], pipe.tokenizer.decode

    def spy(tokens, clamp):
        seen.append(torch.is_autocast_enabled("cpu"))
        return decode(tokens, clamp)

    monkeypatch.setattr(pipe.tokenizer, "decode", spy)
    tokens = torch.zeros(1, 4, 4, dtype=torch.int64)
    assert narrow.pixels(tokens).dtype == torch.float32
    assert Pipeline(pipe.network, pipe.tokenizer, dtype=torch.bfloat16).pixels(tokens).dtype == (
        torch.float32
    )
    assert seen == [False, True]


# From a folder


def test_from_a_folder(tmp_path, pipe):
    average = {name: 1.01 * tensor for name, tensor in pipe.network.state_dict().items()}
    save_weights(
        tmp_path / "weights", pipe.tokenizer, network=pipe.network, average=average,
        classes=CLASSES, sampling=pipe.sampling,
    )  # fmt: skip
    last = Pipeline.from_pretrained(tmp_path / "weights", "cpu", torch.float32, ema=False)
    assert last.device == torch.device("cpu")
    assert last.sampling == pipe.sampling
    found = last(["goldfish", 0], generator=3)
    expected = pipe(["goldfish", 0], generator=3)
    assert torch.equal(found.tokens, expected.tokens)
    assert np.array_equal(arrays(found.images), arrays(expected.images))
    averaged = Pipeline.from_pretrained(str(tmp_path / "weights"), dtype=torch.float32)
    assert torch.equal(
        averaged.network.token_embedding.weight.cpu(), average["token_embedding.weight"]
    )


def test_a_folder_of_a_tokenizer(tmp_path):
    save_weights(tmp_path / "weights", tiny.tokenizer())
    with pytest.raises(UserError, match=r"holds a tokenizer, no generator; give weights=RUN/weigh"):
        Pipeline.from_pretrained(tmp_path / "weights")


# Two networks


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Weights of masks and of the next token, 4x4 tokens of one tokenizer; and their parts."""
    folder, tokenizer = tmp_path_factory.mktemp("pair"), tiny.tokenizer()
    networks = {"mar": tiny.network().float(), "ar": tiny.fill(tiny.network().float(), 1)}
    for objective, network in networks.items():
        save_weights(
            folder / objective, tokenizer, network=network, classes=CLASSES,
            sampling=SamplingConfig(num_steps=5, temperature=0.5), objective=objective,
        )  # fmt: skip
    return folder, networks, tokenizer


def test_a_hybrid_asks_both_networks(pair, pipe):
    folder, networks, tokenizer = pair
    both = Pipeline.from_pretrained(
        folder / "mar", "cpu", torch.float32, ema=False, ar_folder=folder / "ar"
    )
    labels, settings = [0, 1, 2], {"plan": "hybrid", "num_inference_steps": 4}
    seen = []
    found = both(labels, **settings, num_ar=6,
                 callback_on_step_end=lambda *given: seen.append(given[2]))  # fmt: skip
    assert len(seen) == 10
    causal = Pipeline(networks["ar"], tokenizer, CLASSES, both.sampling, objective="ar")
    alone = causal(labels).tokens.flatten(1)
    # Guidance grows along the whole plan in both, so the first tokens are drawn alike
    assert torch.equal(found.tokens.flatten(1)[:, :6], alone[:, :6])
    assert not torch.equal(found.tokens.flatten(1)[:, 6:], alone[:, 6:])
    assert torch.equal(both(labels, **settings, num_ar=16).tokens.flatten(1), alone)
    assert torch.equal(both(labels, plan="ar").tokens.flatten(1), alone)
    masked = pipe(labels, num_inference_steps=4).tokens
    assert torch.equal(both(labels, **settings, num_ar=0).tokens, masked)
    assert torch.equal(both(labels, num_inference_steps=4).tokens, masked)  # auto
    assert (seen[-1]["confidence"] <= 0).all()
    assert (seen[0]["confidence"].flatten(1)[:, 1:] == -torch.inf).all()


def test_weights_trained_both_ways_need_no_second_network(pipe):
    both = Pipeline(pipe.network, pipe.tokenizer, CLASSES, pipe.sampling, objective="both")
    found = both([0, 1], plan="hybrid", num_ar=16).tokens
    assert torch.equal(found, both([0, 1], plan="ar").tokens)
    assert both([0, 1], plan="hybrid", num_ar=8, remask=0.3, order="local").tokens.max() < MASK


# Prompts


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def text_pipe(encoder_folder):
    return text_pipeline(encoder_folder)


PROMPTS = ["a star", "two red circle above a blue square", "a green heart on dark"]


@pytest.mark.parametrize("plan", ["mar", "ar"])
def test_prompts_are_decoded_under_their_captions(text_pipe, encoder_folder, plan):
    """By hand, with captions of the encoder itself, rounded to bf16 as a cache has them."""
    captions = load_text_encoder(encoder_folder, num_tokens=10)(PROMPTS)
    captions = Captions(captions.features.bfloat16(), captions.mask)
    settings = replace(text_pipe.sampling, plan=plan)
    predictor = PREDICTORS[plan](text_pipe.network, captions, settings)
    expected = decode(
        predictor, torch.full((3, 4, 4), MASK), text_pipe.plan(settings),
        image_seeds(7, torch.arange(3)), mask_id=MASK, sampling=settings,
    )  # fmt: skip
    found = text_pipe(prompt=PROMPTS, generator=7, plan=plan)
    assert torch.equal(found.tokens, expected)
    assert np.array_equal(arrays(found.images[:1]), arrays(text_pipe(
        prompt=PROMPTS[0], generator=[int(image_seeds(7, torch.tensor(0)))], plan=plan
    ).images))  # fmt: skip


def test_a_prompt_draws_the_same_alone_and_among_others(text_pipe):
    found = text_pipe(prompt=[*PROMPTS, "a star"], generator=[3, -1, 3, 4]).tokens
    assert len({str(tokens.tolist()) for tokens in found}) == 4
    for index, (prompt, seed) in enumerate(zip([*PROMPTS, "a star"], [3, -1, 3, 4])):
        assert torch.equal(text_pipe(prompt=prompt, generator=[seed]).tokens[0], found[index])


def test_guidance_leads_away_from_the_negative_prompt(text_pipe):
    """Negative + s (prompt - negative), the logits of plain networks, at every step."""
    asked, settings = {"prompt": PROMPTS[:2], "generator": [1, 2]}, SamplingConfig(
        num_steps=5, guidance="constant", guidance_scale=2.5, temperature=0.5
    )  # fmt: skip
    captions, against = (text_pipe.encode_prompts(texts) for texts in (PROMPTS[:2], PROMPTS[1:]))

    class ByHand:
        def start(self, tokens):
            pass

        def __call__(self, tokens, rows, progress):
            logits, away = (text_pipe.network(tokens, each) for each in (captions, against))
            guided = away + 2.5 * (logits - away)
            return guided.gather(1, rows[..., None].expand(-1, -1, guided.shape[-1]))

    expected = decode(
        ByHand(), torch.full((2, 4, 4), MASK), text_pipe.plan(settings), torch.tensor([1, 2]),
        mask_id=MASK, sampling=settings,
    )  # fmt: skip
    guidance = {"guidance": "constant", "guidance_scale": 2.5}
    found = text_pipe(**asked, **guidance, negative_prompt=PROMPTS[1:])
    assert torch.equal(found.tokens, expected)
    plain = text_pipe(**asked, **guidance).tokens
    assert not torch.equal(found.tokens, plain)
    assert torch.equal(text_pipe(**asked, **guidance, negative_prompt=" ").tokens, plain)
    shared = text_pipe(**asked, **guidance, negative_prompt=PROMPTS[1]).tokens
    assert torch.equal(shared[0], found.tokens[0])
    assert not torch.equal(shared[1], found.tokens[1])


def test_no_prompt_is_drawn_without_condition(text_pipe, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = text_pipe(generator=3)
        mixed = text_pipe(prompt=["", "a star"], generator=image_seeds(3, torch.arange(2)))
    assert torch.equal(found.tokens[0], mixed.tokens[0])
    encoded, encode = [], text_pipe.network.encode
    monkeypatch.setattr(
        text_pipe.network, "encode", lambda given: encoded.append(given) or encode(given)
    )
    for scale in (1.0, 9.0):  # there is nothing to be led to, and so no second pass
        assert torch.equal(text_pipe(generator=3, guidance_scale=scale).tokens, found.tokens)
    assert len(encoded) == 2
    text_pipe(generator=3, guidance_scale=9.0, negative_prompt="a star")
    assert len(encoded) == 4


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"class_labels": [0]}, "class_labels is not for these weights, which know prompts; u"),
        ({"prompt": 3}, "prompt is 3; give a text, or a list of texts."),
        ({"prompt": []}, "prompt is an empty list; give a text, or leave it out."),
        ({"prompt": ["a star"], "negative_prompt": [None]}, "negative_prompt is [None]; give a te"),
        (
            {"prompt": ["a star"] * 3, "negative_prompt": ["a", "b"]},
            "There are 2 negative prompts for 3 prompts; give one for each, or one for all.",
        ),
        (
            {"prompt": ["a star"] * 3, "generator": [1]},
            "generator has 1 seed for 3 images; give one for each, or one alone.",
        ),
        ({"height": 9}, "height=9 must be a multiple of 2; the nearest are 8 and 10."),
        (
            {"height": 20000, "width": 20000},
            "height=20000 and width=20000 are 400,000,000 pixels, more than 4,194,304; ask for few",
        ),
    ],
)
def test_sentences_of_prompts(text_pipe, arguments, sentence):
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}"):
        text_pipe(**arguments)


def test_a_folder_of_weights_names_its_text_encoder(tmp_path, text_pipe, encoder_folder):
    save_weights(
        tmp_path / "weights", text_pipe.tokenizer, network=text_pipe.network,
        sampling=text_pipe.sampling, objective="both", text=text_pipe.text,
    )  # fmt: skip
    expected = text_pipe(prompt=PROMPTS, generator=5)
    for asked in (None, encoder_folder):
        found = Pipeline.from_pretrained(
            tmp_path / "weights", "cpu", torch.float32, text_encoder=asked
        )
        assert found.text == text_pipe.text
        assert torch.equal(found(prompt=PROMPTS, generator=5).tokens, expected.tokens)


def test_class_weights_need_no_text_encoder(tmp_path, pipe):
    save_weights(tmp_path / "weights", pipe.tokenizer, network=pipe.network)
    with pytest.raises(UserError, match=r"^text_encoder=flan-t5-xl has no effect: these weights "):
        Pipeline.from_pretrained(tmp_path / "weights", text_encoder="flan-t5-xl")


# Sentences


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"class_labels": "goldfsh"}, "Unknown class 'goldfsh'. Did you mean 'goldfish'? Known: "),
        ({"class_labels": [3]}, "Class 3 does not exist; the model knows 0 to 2."),
        ({"class_labels": []}, "class_labels is empty; name a class, or leave it out."),
        (
            {"class_labels": [0, 1], "generator": [1]},
            "generator has 1 seed for 2 images; give one for each, or one alone.",
        ),
        ({"class_labels": True}, "Class True is neither a number nor a name; name a class."),
        ({"num_step": 4}, "Unknown argument 'num_step'. Did you mean 'num_steps'?"),
        ({"prompt": "a cat"}, "prompt is not for these weights, which know classes; use class_la"),
        ({"negative_prompt": "a"}, "negative_prompt is not for these weights, which know classes"),
        (
            {"num_inference_steps": 2, "num_steps": 3},
            "num_inference_steps and num_steps are the same; give one of them.",
        ),
        ({"height": 32.0}, "height takes a whole number, not 32.0."),
        ({"width": "32"}, "width takes a whole number, not '32'."),
        ({"guidance_scale": "3"}, "guidance_scale takes a number, not '3'."),
        ({"num_inference_steps": 8.0}, "num_inference_steps takes a whole number, not 8.0."),
        ({"generator": 2**64}, "generator=18446744073709551616 is no seed of 64 signed bits; gi"),
        ({"height": 9}, "height=9 must be a multiple of 2; the nearest are 8 and 10."),
        ({"width": 1}, "width=1 must be a multiple of 2; the nearest is 2."),
        ({"height": 0}, "height=0 must be a multiple of 2; the nearest is 2."),
        ({"width": -7}, "width=-7 must be a multiple of 2; the nearest is 2."),
        (
            {"num_inference_steps": 17},
            "num_steps=17 must lie between 1 and the number of tokens, 16",
        ),
        ({"num_inference_steps": 0}, "num_steps must be at least 1, not 0."),
        ({"temperature": -1.0}, "temperature must be at least 0, not -1.0."),
        ({"schedule": "cosin"}, "Unknown schedule 'cosin'. Known: root, linear, "),
        ({"guidance": "ramp"}, "Unknown guidance 'ramp'. Known: constant, linear, cosine."),
        ({"plan": "ar"}, "plan=ar asks for what these weights have not learned: they were trained"),
        ({"plan": "hybrid"}, "plan=hybrid asks for what these weights have not learned: they wer"),
        ({"plan": "raster"}, "Unknown plan 'raster'. Known: auto, mar, ar, hybrid."),
        ({"counts": (4, 4)}, "counts add up to 8; they must reveal 16 tokens."),
        ({"counts": (8, 8), "num_inference_steps": 3}, "num_steps=3 contradicts counts, which has"),
        ({"legacy": True}, "legacy=true has tables of 256 masked tokens for 4, 8, 12, 16, 32 ste"),
        ({"remask": 1.5}, "remask must lie in [0, 1], not 1.5."),
        ({"output_type": "numpy"}, "Unknown output_type 'numpy'. Known: pil, uint8."),
    ],
)
def test_sentences(pipe, arguments, sentence):
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}"):
        pipe(**{"class_labels": [0], **arguments})


def test_learned_places_allow_no_other_size():
    network = tiny.network(learned_positions=True).float()
    learned = Pipeline(network, tiny.tokenizer(), CLASSES, SamplingConfig(num_steps=2))
    assert learned(0, height=8, width=8).tokens.shape == (1, 4, 4)
    with pytest.raises(UserError, match=r"^This generator has learned the places of 8x8 pixels; l"):
        learned(0, height=16)


@pytest.mark.gpu
def test_a_gpu_draws_the_same_images():
    settings = SamplingConfig(num_steps=5, temperature=0.5)
    drawn = []
    for device in ("cpu", "cuda"):
        network, tokenizer = tiny.network().float().to(device), tiny.tokenizer().to(device)
        drawn.append(Pipeline(network, tokenizer, CLASSES, settings)([0, 1, 2], generator=5))
    cpu, cuda = drawn
    assert torch.equal(cuda.tokens.cpu(), cpu.tokens)
    assert abs(arrays(cuda.images).astype(int) - arrays(cpu.images)).max() <= 1
