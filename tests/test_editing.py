"""A tiny pipeline: 4x4 tokens of 11 codes, 8x8 pixels; drawn sharply, so that rounding is none."""

import re
import warnings

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from tiny_text import save_encoder, text_pipeline

from MaskGIL.data.crops import crop_image, to_float, to_uint8
from MaskGIL.editing import at_random, blend_weight, token_margins, touched
from MaskGIL.noise import random_bits
from MaskGIL.pipeline import Pipeline, image_seeds
from MaskGIL.sampling import SamplingConfig
from Network.config import UserError

CLASSES = ["red circle", "blue square", "goldfish"]
SIDE, STRIDE, GRID = 8, 2, 4
SAMPLING = SamplingConfig(num_steps=5, temperature=0.5)
AR_REMARK = "An AR plan draws row by row and cannot look ahead to what is kept behind the token"


@pytest.fixture(scope="module")
def pipe():
    return Pipeline(tiny.network().float(), tiny.tokenizer(), CLASSES, SAMPLING)


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(3)
    return torch.randint(256, (3, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def masks():
    """Another one for each image, each touching some tokens in part only."""
    masks = torch.zeros(3, SIDE, SIDE, dtype=torch.bool)
    masks[0, 1:4, 2:7] = masks[1, :, 5] = masks[2, 7, 7] = True
    return masks


def encoded(pipe, images):
    with torch.no_grad():
        return pipe.tokenizer.encode(to_float(images))


def decoded(pipe, tokens):
    with torch.no_grad():
        return to_uint8(pipe.tokenizer.decode(tokens))


# Inpainting


def test_tokens_outside_of_the_masks_stay(pipe, images, masks):
    found = pipe.inpaint(images, masks, [0, 1, 2], paste=False, output_type="uint8")
    before = encoded(pipe, images)
    hidden = masks.unfold(1, 2, 2).unfold(2, 2, 2).flatten(3).any(-1)  # another way than pooling
    assert hidden.flatten(1).sum(1).tolist() == [6, 4, 1]
    assert torch.equal(found.tokens[~hidden], before[~hidden])
    assert (found.tokens[hidden] != before[hidden]).any()
    assert found.tokens.max() < pipe.network.mask_id
    assert torch.equal(found.images, decoded(pipe, found.tokens))


@pytest.mark.parametrize(
    "sampling",
    [
        {"plan": "hybrid", "num_ar": 6, "num_inference_steps": 4},
        {"plan": "ar"},
        {"remask": 0.6},
        {"order": "halton"},
        {"guidance_from": 0.5, "two_passes": True},
    ],
)
@pytest.mark.filterwarnings("ignore:An AR plan")
def test_they_stay_in_every_plan(pipe, images, masks, sampling):
    both = Pipeline(pipe.network, pipe.tokenizer, CLASSES, SAMPLING, objective="both")
    found = both.inpaint(images, masks, [0, 1, 2], **sampling).tokens
    hidden = touched(masks, STRIDE)
    assert torch.equal(found[~hidden], encoded(pipe, images)[~hidden])
    assert (found[hidden] != encoded(pipe, images)[hidden]).any()


def test_a_mask_of_a_batch_is_that_of_its_image(pipe, images, masks):
    together = pipe.inpaint(images, masks, [0, 1, 2], generator=[7, 8, 9])
    for index in range(3):
        alone = pipe.inpaint(images[index], masks[index], index, generator=[7 + index])
        assert torch.equal(alone.tokens[0], together.tokens[index])
        assert np.array_equal(alone.images[0], together.images[index])


def test_the_class_and_the_seed_matter(pipe, images, masks):
    drawn = [
        pipe.inpaint(images[0], masks[0], label, generator=seed).tokens
        for label, seed in [("red circle", 0), ("goldfish", 0), (None, 0), ("goldfish", 1)]
    ]
    assert len({str(tokens.tolist()) for tokens in drawn}) == 4
    assert torch.equal(pipe.inpaint(images[0], masks[0], 2).tokens, drawn[1])


def test_one_stands_for_all(pipe, images, masks):
    several = pipe.inpaint(images[0], masks[0], [0, 1, 2], generator=4).tokens
    spelt = pipe.inpaint(images[:1].repeat(3, 1, 1, 1), masks[[0, 0, 0]], [0, 1, 2], generator=4)
    assert torch.equal(several, spelt.tokens)
    assert len(pipe.inpaint(images, masks[0]).images) == 3
    assert len(pipe.inpaint(images[0], masks).images) == 3


def test_settings_are_those_of_a_call(pipe, images, masks):
    base = pipe.inpaint(images, masks, 0).tokens
    assert not torch.equal(pipe.inpaint(images, masks, 0, guidance_scale=12.0).tokens, base)
    assert torch.equal(pipe.inpaint(images, masks, 0, num_inference_steps=5).tokens, base)
    with pytest.raises(UserError, match=r"num_steps must be at least 1, not 0"):
        pipe.inpaint(images, masks, 0, num_inference_steps=0)


@pytest.mark.parametrize("edit", ["inpaint", "vary"])
def test_the_callback_sees_what_is_kept_at_every_step(pipe, images, masks, edit):
    states, given = [], masks if edit == "inpaint" else 0.5
    asked = {"num_inference_steps": 3, "output_type": "uint8"}
    found = getattr(pipe, edit)(
        images,
        given,
        callback_on_step_end=lambda pipe, step, state: states.append((step, state)),
        **asked,
    )
    assert torch.equal(found.tokens, getattr(pipe, edit)(images, given, **asked).tokens)
    assert [step for step, _ in states] == [0, 1, 2]
    hidden = [state["tokens"] == pipe.network.mask_id for _, state in states]
    assert torch.equal(states[-1][1]["tokens"], found.tokens)
    known = ~hidden[0]
    assert 0 < known.float().mean() < 1
    assert torch.equal(states[0][1]["tokens"][known], found.tokens[known])
    assert (states[0][1]["confidence"] == 0).any()  # what is given


def test_pixels_are_put_back(pipe, images, masks):
    bare = pipe.inpaint(images, masks, paste=False, output_type="uint8").images
    hard = pipe.inpaint(images, masks, output_type="uint8").images
    covered = masks[:, None].expand_as(images)
    assert torch.equal(hard[~covered], images[~covered])
    assert torch.equal(hard[covered], bare[covered])
    soft = pipe.inpaint(images, masks, soft_edge=1, output_type="uint8").images.float()
    assert torch.equal(soft[covered], bare[covered].float())
    middle = (images.float() + bare.float()) / 2
    assert (soft[0, :, 0, 3] - middle[0, :, 0, 3]).abs().max() <= 1  # one pixel above the mask
    assert torch.equal(soft[0, :, 6], images[0, :, 6].float())


def test_the_weight_falls_evenly_around_the_mask():
    mask = torch.zeros(1, 7, 9, dtype=torch.bool)
    mask[0, 3, 4] = True
    down, across = torch.arange(7)[:, None] - 3, torch.arange(9) - 4
    distance = torch.maximum(down.abs(), across.abs())  # (7, 9)
    for edge in (0, 1, 3):
        expected = (1 - distance / (edge + 1)).clamp(min=0)
        torch.testing.assert_close(blend_weight(mask, edge)[0, 0], expected)


def test_an_empty_mask_keeps_the_image_and_says_so(pipe, images, masks):
    with pytest.warns(UserWarning, match=r"^A mask is empty: nothing is drawn, the image stays\.$"):
        found = pipe.inpaint(images[:2], torch.stack([masks[0], masks[0] & False]), 1, generator=2,
                             output_type="uint8")  # fmt: skip
    assert torch.equal(found.images[1], images[1])
    assert torch.equal(found.tokens[1], encoded(pipe, images[1:2])[0])
    assert torch.equal(found.tokens[:1], pipe.inpaint(images[0], masks[0], 1, generator=2).tokens)


def test_a_full_mask_is_a_fresh_sample_and_says_so(pipe, images):
    with pytest.warns(UserWarning, match="^A mask covers all of an image: a fresh sample is draw"):
        found = pipe.inpaint(images[0], torch.ones(SIDE, SIDE, dtype=torch.bool), 1, generator=2)
    assert torch.equal(found.tokens, pipe(1, generator=2).tokens)


def test_another_mask_says_nothing_and_a_warning_points_to_the_caller(pipe, images, masks):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe.inpaint(images, masks, 0)
    with pytest.warns(UserWarning, match="^A mask is empty") as seen:
        pipe.inpaint(images[0], masks[0] & False)
    assert seen[0].filename == __file__


def test_larger_pictures_are_cropped_as_in_training(pipe):
    large = Image.effect_noise((48, 32), 90).convert("RGB")
    mask = Image.new("L", (48, 32))
    mask.paste(255, (8, 0, 24, 16))
    found = pipe.inpaint(large, mask, 0, output_type="uint8").images
    from_square = pipe.inpaint(large.crop((8, 0, 40, 32)), mask.crop((8, 0, 40, 32)), 0,
                               output_type="uint8").images  # fmt: skip
    assert torch.equal(found, from_square)
    assert found.shape == (1, 3, SIDE, SIDE)


def test_edits_have_any_height_and_width(pipe, masks):
    """In each the tokens are those of the cropped picture, but for what is drawn."""
    large = Image.effect_noise((48, 32), 90).convert("RGB")
    cropped = crop_image(large, "center", 0, (4, 12))[None]
    asked = {"height": 4, "width": 12, "generator": 3, "output_type": "uint8"}
    before = encoded(pipe, cropped)
    mask = Image.new("L", large.size)
    mask.paste(255, (0, 0, 24, 32))
    painted = pipe.inpaint(large, mask, 1, **asked)
    assert painted.images.shape == (1, 3, 4, 12)
    assert torch.equal(painted.tokens[..., 3:], before[..., 3:])
    assert torch.equal(painted.images[..., 6:], cropped[..., 6:])
    assert torch.equal(pipe.vary(large, 0.0, 1, **asked).tokens, before)
    assert pipe.vary(large, 0.5, 1, **asked).tokens.shape == (1, 2, 6)
    wide = pipe.outpaint(large, 1, right=4, top=2, **asked)
    assert wide.tokens.shape == (1, 3, 8)
    assert torch.equal(wide.tokens[:, 1:, :6], before)
    fresh = pipe([1], height=4, width=12, generator=[3], output_type="uint8")
    seeds = {**asked, "generator": [3]}
    assert torch.equal(pipe.vary(large, 1.0, 1, **seeds).tokens, fresh.tokens)
    between = pipe.interpolate(1, 2, 3, height=4, width=12, generator=3, output_type="uint8")
    assert between.images.shape == (3, 3, 4, 12)
    with pytest.raises(UserError, match=r"^height=3 must be a multiple of 2; the nearest are 2 an"):
        pipe.vary(large, 0.5, 1, height=3)


# A network of the next token


@pytest.mark.parametrize("objective", ["ar", "both"])
def test_tokens_in_raster_order_are_kept_too_and_the_user_is_told(pipe, images, masks, objective):
    causal = Pipeline(pipe.network, pipe.tokenizer, CLASSES, SAMPLING, objective=objective)
    with pytest.warns(UserWarning, match=f"^{AR_REMARK}"):
        found = causal.inpaint(images, masks, [0, 1, 2], plan="ar")
    hidden = touched(masks, STRIDE)
    assert torch.equal(found.tokens[~hidden], encoded(pipe, images)[~hidden])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        below = torch.zeros(SIDE, SIDE, dtype=torch.bool)
        below[4:] = True  # nothing is kept behind
        causal.inpaint(images, below, 0, plan="ar")
        if objective == "both":
            assert torch.equal(causal.inpaint(images, masks, 0).tokens,
                               pipe.inpaint(images, masks, 0).tokens)  # fmt: skip


# Outpainting


def test_an_image_goes_on_on_all_sides(pipe, images):
    found = pipe.outpaint(images, [0, 1, 2], left=4, right=10, top=2, bottom=6, output_type="uint8")
    assert found.images.shape == (3, 3, 8 + 8, 8 + 14)
    assert found.tokens.shape == (3, 8, 11)
    assert torch.equal(found.tokens[:, 1:5, 2:6], encoded(pipe, images))
    assert found.tokens.max() < pipe.network.mask_id
    assert torch.equal(found.images[:, :, 2:10, 4:12], images)
    bare = pipe.outpaint(images, [0, 1, 2], left=4, right=10, top=2, bottom=6, paste=False)
    with torch.no_grad():
        expected = to_uint8(pipe.tokenizer.decode(found.tokens)).permute(0, 2, 3, 1)
    assert np.array_equal(np.stack(bare.images), expected)


def test_half_a_window_is_an_inpainting_of_the_moved_image(pipe, images):
    """The first window on the right sees the right half of the image beside hidden tokens."""
    found = pipe.outpaint(images[0], 1, right=4, generator=[5]).tokens
    given = torch.full((1, GRID, GRID), pipe.network.mask_id)
    given[:, :, :2] = encoded(pipe, images[:1])[:, :, 2:]
    seeds = random_bits(torch.tensor([5]), "window", 0, 1)
    expected = pipe.fill_tokens(given, torch.tensor([1]), seeds)
    assert torch.equal(found[:, :, 2:], expected)


def test_outpainting_follows_seed_and_class_not_the_batch(pipe, images):
    together = pipe.outpaint(images, [0, 1, 2], top=6, left=2, generator=[7, 8, 9]).tokens
    for index in range(3):
        alone = pipe.outpaint(images[index], index, top=6, left=2, generator=[7 + index]).tokens
        assert torch.equal(alone[0], together[index])
    other = pipe.outpaint(images, [1, 1, 2], top=6, left=2, generator=[7, 8, 10]).tokens
    assert [torch.equal(*pair) for pair in zip(other, together)] == [False, True, False]


@pytest.mark.parametrize("changes", [{"learned_positions": True}, {"kind": "halton"}])
def test_networks_of_learned_places_go_on_too(changes, images):
    settings = {"depth": 2, "width": 32, "heads": 2, **changes}
    learned = Pipeline(tiny.network(**settings).float(), tiny.tokenizer(), CLASSES, SAMPLING)
    found = learned.outpaint(images[0], 1, right=12, bottom=2)
    assert found.tokens.shape == (1, 5, 10)
    assert found.images[0].size == (20, 10)


# Variations


def test_no_strength_is_the_reconstruction_and_all_of_it_a_fresh_sample(pipe, images):
    still = pipe.vary(images, 0, output_type="uint8")
    assert torch.equal(still.tokens, encoded(pipe, images))
    assert torch.equal(still.images, decoded(pipe, still.tokens))
    fresh = pipe.vary(images, 1, [0, 1, 2], generator=6)
    assert torch.equal(fresh.tokens, pipe([0, 1, 2], generator=6).tokens)


def test_a_share_is_drawn_anew_and_the_rest_kept(pipe, images):
    seeds = image_seeds(6, torch.arange(3))
    found = pipe.vary(images, 0.3, [0, 1, 2], generator=6).tokens
    hidden = at_random(0.3, seeds, (GRID, GRID))
    assert hidden.flatten(1).sum(1).tolist() == [5, 5, 5]  # 0.3 x 16 = 4.8
    assert torch.equal(found[~hidden], encoded(pipe, images)[~hidden])
    assert (found[hidden] != encoded(pipe, images)[hidden]).any()


def test_what_is_drawn_anew_is_random_and_grows_with_the_strength():
    seeds = torch.arange(4000)
    small, large = (at_random(share, seeds, (2, 5)) for share in (0.3, 0.6))
    assert (small <= large).all()
    assert (small.flatten(1).sum(1) == 3).all()
    counts = small.float().mean(0)
    assert (counts - 0.3).abs().max() < 5 * (0.3 * 0.7 / 4000) ** 0.5  # five standard errors
    assert torch.equal(at_random(0.3, seeds[7:9], (2, 5)), small[7:9])


# Interpolation


def test_the_ends_of_an_interpolation_are_samples_of_the_classes(pipe):
    found = pipe.interpolate("red circle", "goldfish", 5, generator=3)
    seed = int(image_seeds(3, torch.tensor([0])))
    ends = pipe(["red circle", "goldfish"], generator=[seed, seed])
    assert torch.equal(found.tokens[[0, -1]], ends.tokens)
    assert np.array_equal(found.images[0], ends.images[0])
    assert len(found.images) == 5


def test_the_condition_is_a_mixture_of_both_classes(pipe, monkeypatch):
    seen, encode = [], pipe.network.encode
    monkeypatch.setattr(
        pipe.network, "encode", lambda shares: seen.append(shares) or encode(shares)
    )
    pipe.interpolate(0, 2, 3)
    shares, null = seen
    torch.testing.assert_close(shares, torch.tensor([[1, 0, 0, 0], [0.5, 0, 0.5, 0], [0, 0, 1, 0]]))
    assert null.tolist() == [3, 3, 3]


@pytest.mark.parametrize("objective", ["mar", "ar"])
def test_shares_of_one_class_are_its_label(pipe, objective):
    ours = Pipeline(pipe.network, pipe.tokenizer, CLASSES, SAMPLING, objective=objective)
    labels, seeds = torch.tensor([0, 2]), torch.tensor([4, 5])
    shares = torch.eye(4)[labels]
    found = ours.sample_tokens(shares, seeds)
    assert torch.equal(found, ours.sample_tokens(labels, seeds))


# Sentences

SOME = torch.zeros(SIDE, SIDE, dtype=torch.bool)


@pytest.mark.parametrize(
    ("job", "sentence"),
    [
        (
            lambda pipe, images: pipe.inpaint(images, torch.zeros(4, 6, dtype=torch.bool)),
            "The mask has 6x4 pixels and its image 8x8; give both the same size.",
        ),
        (
            lambda pipe, images: pipe.inpaint(images, SOME, ["goldfsh"]),
            "Unknown class 'goldfsh'. Did you mean 'goldfish'? Known: ",
        ),
        (
            lambda pipe, images: pipe.inpaint(images, SOME, [0, 1]),
            "There are 3 images, 1 masks, 2 classes; give as many of each, or one for all.",
        ),
        (
            lambda pipe, images: pipe.inpaint(images, SOME, output_type="numpy"),
            "Unknown output_type 'numpy'. Known: pil, uint8.",
        ),
        (
            lambda pipe, images: pipe.inpaint(images, SOME, soft_edge=1.0),
            "soft_edge takes a whole number, not 1.0.",
        ),
        (
            lambda pipe, images: pipe.outpaint(images, left=2.0),
            "left takes a whole number, not 2.0.",
        ),
        (
            lambda pipe, images: pipe.inpaint(images, SOME, soft_edge=-1),
            "soft_edge must lie in [0, 8], not -1.",
        ),
        (
            lambda pipe, images: pipe.outpaint(images, left=2, soft_edge=100_000),
            "soft_edge must lie in [0, 8], not 100000.",
        ),
        (
            lambda pipe, images: pipe.inpaint("no.png", SOME),
            "There is no file no.png; give a picture that exists.",
        ),
        (
            lambda pipe, images: pipe.outpaint(images),
            "left, right, top and bottom are 0; say by how many pixels to go on.",
        ),
        (
            lambda pipe, images: pipe.outpaint(images, left=7),
            "left=7 must be a multiple of 2 pixels, the side of a token; the nearest is 8.",
        ),
        (
            lambda pipe, images: pipe.outpaint(images, top=-2),
            "top=-2 must be a multiple of 2 pixels, the side of a token; the nearest is 0.",
        ),
        (
            lambda pipe, images: pipe.outpaint(images, right=10**9),
            "The canvas would have 1000000008x8 pixels, more than 4,194,304; go on by less.",
        ),
        (
            lambda pipe, images: pipe.vary(images, 1.5),
            "strength=1.5 must lie in [0, 1]: the share that is drawn anew.",
        ),
        (
            lambda pipe, images: pipe.vary(images, float("nan")),
            "strength=nan must lie in [0, 1]: the share that is drawn anew.",
        ),
        (
            lambda pipe, images: pipe.interpolate(0, 1, 1),
            "1 images cannot go from one class to another; ask for at least 2.",
        ),
        (
            lambda pipe, images: pipe.interpolate(0, None, 3),
            "Class None is neither a number nor a name; name a class.",
        ),
        (lambda pipe, images: pipe.interpolate(0, 7, 3), "Class 7 does not exist; the model kn"),
    ],
)
def test_sentences(pipe, images, job, sentence):
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}"):
        job(pipe, images)


def test_margins_of_tokens(pipe):
    assert token_margins(pipe, (4, 4), left=0, right=4, top=2, bottom=0) == (0, 2, 1, 0)


def test_generators_without_classes(images):
    pipe = Pipeline(tiny.network(num_classes=0).float(), tiny.tokenizer(), sampling=SAMPLING)
    with pytest.raises(UserError, match=r"^This model knows no classes; there is nothing to inter"):
        pipe.interpolate(0, 1, 3)
    with pytest.raises(UserError, match=r"^This model knows no classes; leave class_labels out\.$"):
        pipe.vary(images, 0.5, 0)
    assert len(pipe.vary(images, 0.5).images) == 3


# Prompts


@pytest.fixture(scope="module")
def text_pipe(tmp_path_factory):
    return text_pipeline(save_encoder(tmp_path_factory.mktemp("encoder")))


PROMPTS = ["a star", "two red circle above a blue square", "a green heart on dark"]


def test_what_is_masked_is_drawn_of_the_prompts(text_pipe, images, masks):
    asked = {"paste": False, "output_type": "uint8"}
    found = text_pipe.inpaint(images, masks, prompt=PROMPTS, generator=[5, 6, 7], **asked)
    hidden = touched(masks, STRIDE)
    captions = text_pipe.encode_prompts(PROMPTS)
    given = encoded(text_pipe, images).masked_fill(hidden, 11)
    expected = text_pipe.fill_tokens(given, captions, torch.tensor([5, 6, 7]))
    assert torch.equal(found.tokens, expected)
    one = text_pipe.inpaint(images, masks, prompt=PROMPTS[1], generator=[5, 6, 7], **asked)
    assert torch.equal(one.tokens[1], found.tokens[1])
    assert not torch.equal(one.tokens[0], found.tokens[0])


def test_edits_lead_away_from_a_negative_prompt(text_pipe, images):
    asked = {"prompt": "a star", "generator": [5, 6, 7], "output_type": "uint8"}
    captions, against = (text_pipe.encode_prompts([text] * 3) for text in ("a star", "dark"))
    varied = text_pipe.vary(images, 1.0, negative_prompt="dark", **asked)
    expected = text_pipe.sample_tokens(captions, torch.tensor([5, 6, 7]), null=against)
    assert torch.equal(varied.tokens, expected)
    wide = text_pipe.outpaint(images, right=4, negative_prompt=["dark"], **asked)
    assert not torch.equal(wide.tokens, text_pipe.outpaint(images, right=4, **asked).tokens)


def test_as_many_prompts_as_images(text_pipe, images):
    with pytest.raises(UserError, match=r"^There are 3 images, 2 prompts; give as many of each, o"):
        text_pipe.vary(images, 0.5, prompt=PROMPTS[:2])
    with pytest.raises(UserError, match=r"^This model knows no classes; there is nothing to inter"):
        text_pipe.interpolate("a star", "a heart", 3)
