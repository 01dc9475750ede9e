"""What a visitor asks for becomes a command that `generate` and `edit` accept, whatever it is."""

import json
import shlex
from copy import copy

import pytest
import torch
from tiny_text import save_encoder, save_text_weights
from tiny_weights import save_tiny_weights

from MaskGIL.classes import class_index
from MaskGIL.command import parse
from MaskGIL.config import load_config
from MaskGIL.edit import EditConfig
from MaskGIL.generate import GenerateConfig
from MaskGIL.imagenet import imagenet_synsets
from MaskGIL.page.wish import LARGEST_SEED, MOST_IMAGES, MOST_TEXT, SCHEMAS, Wishes
from MaskGIL.pipeline import Pipeline
from MaskGIL.sampling_keys import SamplingKeys, check_asked, check_keys
from Network.config import UserError

PICTURE = {"image": "data:image/png;base64,"}
EDIT = {"kind": "inpaint", "classes": [1], "mask": "data:image/png;base64,", **PICTURE}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wish")
    for objective in ("mar", "ar", "both"):
        save_tiny_weights(folder / objective, objective=objective)
    return folder


@pytest.fixture
def wishes(folder):
    def wishes(objective="mar", **keys):
        pipe = Pipeline.from_pretrained(folder / objective, "cpu", torch.float32)
        return Wishes(pipe, SamplingKeys(weights=str(folder / objective), **keys))

    return wishes


def typed(wish):
    """What its command is read as, and whether the command would take the keys."""
    python, dash_m, package, name, *words = shlex.split(wish.command)
    assert (python, dash_m, package) == ("python", "-m", "MaskGIL")
    if name == "edit":
        words[0] = f"kind={words[0]}"
    path, overrides, flags = parse(SCHEMAS[name], words)
    assert (path, flags) == (None, set())
    return load_config(SCHEMAS[name], None, overrides)


def check(wishes, wish):
    """Its command is read as the same configuration, and that as the same sampler."""
    assert typed(wish) == wish.config
    pipe = copy(wishes.pipe)
    given = {key: getattr(wish.config, key) for key in vars(pipe.sampling)}
    pipe.sampling = pipe.sampling.changed(**given)
    assert pipe.sampling == wish.sampling
    check_keys(wish.config, pipe, [pipe.sampling])  # nothing without effect


WISHES = [
    {"kind": "generate", "classes": [3]},
    {"kind": "generate", "classes": [3, 0], "num_images": 5, "seed": 7},
    {"kind": "generate", "classes": [0, 1, 2], "num_images": 1},
    {"kind": "generate", "classes": [0], "num_steps": 2, "schedule": "cosine", "order": "halton"},
    {"kind": "generate", "classes": [0], "guidance_scale": 1},
    {"kind": "generate", "classes": [0], "guidance_scale": 0, "temperature": 0.5},
    {"kind": "generate", "classes": [0], "temperature": 0},
    EDIT,
    {**EDIT, "num_images": 9, "num_steps": 64, "seed": LARGEST_SEED},
    {"kind": "outpaint", "classes": [2], "right": 6, "top": 3, **PICTURE},
]


@pytest.mark.parametrize("asked", WISHES, ids=map(str, range(len(WISHES))))
def test_a_wish_is_a_command(wishes, asked):
    found = wishes()
    check(found, found.read(json.loads(json.dumps(asked))))


def test_canvases_have_no_more_pixels_than_pictures(wishes):
    asked = {"kind": "outpaint", "classes": [2], "num_images": 9, **PICTURE}
    counts = [
        wishes().read({**asked, "right": right, "bottom": bottom}).config.num_images
        for right, bottom in ((2, 0), (16, 0), (16, 16))
    ]
    assert counts == [8, 4, 2]  # of nine times 16x16 pixels


@pytest.mark.parametrize("plan", ["mar", "ar", "hybrid"])
@pytest.mark.parametrize("scale", [1, 4])
def test_every_plan_is_a_command(wishes, plan, scale):
    found = wishes("both")
    asked = {"kind": "generate", "classes": [0], "plan": plan, "guidance_scale": scale}
    wish = found.read({**asked, "num_ar": 20, "num_steps": 60, "order": "random"})
    check(found, wish)
    assert found.plans == ["mar", "ar", "hybrid"]
    if plan == "hybrid":
        assert (wish.sampling.num_ar, wish.sampling.num_steps) == (20, 44)  # of 64 tokens


def test_settings_of_the_command_are_where_the_page_begins(wishes):
    found = wishes(num_steps=2, guidance_scale=1.0)
    assert found.first_settings()["num_steps"] == 2
    wish = found.read({"kind": "generate", "classes": [0]})
    check(found, wish)
    assert (wish.sampling.num_steps, wish.sampling.guidance_scale) == (2, 1)


def test_counts_of_the_weights_give_way_to_steps(wishes):
    found = wishes()
    found.pipe.sampling = found.first = found.first.changed(counts=(60, 4), legacy=False)
    untouched = found.read({"kind": "generate", "classes": [0]})
    assert untouched.sampling.counts == (60, 4)
    wish = found.read({"kind": "generate", "classes": [0], "num_steps": 3})
    assert (wish.sampling.counts, wish.sampling.num_steps) == ((), 3)
    check(found, wish)


def test_numbers_come_into_their_bounds(wishes):
    huge = {"num_steps": 10**9, "num_images": 10**12, "seed": 10**400, "temperature": 10**400}
    wish = wishes().read({"kind": "generate", "classes": [0], "guidance_scale": 1e9, **huge})
    assert (wish.sampling.num_steps, wish.config.num_images) == (64, MOST_IMAGES)
    assert (wish.config.seed, wish.sampling.temperature) == (LARGEST_SEED, 3)
    assert wish.sampling.guidance_scale == 20
    low = {"num_steps": -5, "num_images": 0, "seed": -1, "temperature": -1, "guidance_scale": -1}
    wish = wishes().read({"kind": "generate", "classes": [0], **low})
    assert (wish.sampling.num_steps, wish.config.num_images, wish.config.seed) == (1, 1, 0)
    wish = wishes().read({"kind": "outpaint", "classes": [0], "left": 1e18, **PICTURE})
    assert wish.config.left == 16  # as large as the picture


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"kind": "delete"}, "kind is one of generate, inpaint, outpaint."),
        ({"kind": ["generate"]}, "kind is one of generate, inpaint, outpaint."),
        ({"plan": "ar"}, "plan is one of mar."),
        ({"schedule": "../../etc/passwd"}, "schedule is one of root, linear, square, cosine, arcc"),
        ({"order": {"a": 1}}, "order is one of confidence, random, halton, local."),
        ({"num_steps": "8"}, "num_steps takes a number."),
        ({"num_steps": True}, "num_steps takes a number."),
        ({"temperature": float("nan")}, "temperature takes a number."),
        ({"temperature": float("inf")}, "temperature takes a number."),
        ({"seed": None}, "seed takes a number."),
        ({"classes": []}, "Choose 1 to 9 classes."),
        ({"classes": list(range(10))}, "Choose 1 to 9 classes."),
        ({"classes": "red circle"}, "Choose 1 to 9 classes."),
        ({"classes": [99]}, "Class 99 does not exist; the model knows 0 to 15."),
        ({"classes": [-1]}, "Class -1 does not exist; the model knows 0 to 15."),
        ({"classes": [[1]]}, "A class is a number or a name."),
        ({"classes": ["<b>x</b>"]}, "Unknown class '<b>x</b>'."),
        ({"kind": "inpaint"}, "image is missing."),
        ({"kind": "inpaint", "image": 3}, "image takes text."),
        ({"kind": "inpaint", "image": ""}, "image is missing."),
        ({"kind": "inpaint", "image": "x", "mask": ""}, "mask is missing."),
        ({"kind": "inpaint", "image": "x"}, "mask is missing."),
        ({**EDIT, "classes": [1, 2]}, "An edit is of one class; choose one."),
    ],
)
def test_what_cannot_be_meant_is_told(wishes, change, sentence):
    with pytest.raises(UserError) as told:
        wishes().read({"kind": "generate", "classes": [0], **change})
    assert str(told.value).startswith(sentence)


@pytest.mark.parametrize("asked", [None, [], "generate", 3])
def test_a_wish_is_an_object(wishes, asked):
    with pytest.raises(UserError, match="A wish is an object"):
        wishes().read(asked)


def test_nothing_but_the_keys_of_the_page_gets_in(wishes):
    more = {"weights": "../x", "out": "../x", "images": "x", "device": "cuda", "prompts": "x"}
    plain = {"kind": "generate", "classes": [0]}
    assert wishes().read({**plain, **more}) == wishes().read(plain)


def test_a_class_is_named_as_a_command_can(wishes):
    found = wishes()
    assert found.read({"kind": "generate", "classes": [0]}).config.class_labels == ("red circle",)
    found.pipe.classes = ["a, b", "twice", "twice", "x[1]", "it's"]
    asked = {"kind": "generate", "classes": [0, 1, 2, 3, 4, 5]}
    wish = found.read(asked)
    assert wish.config.class_labels == ("0", "twice", "2", "3", "it's", "5")
    assert found.pipe.labels(wish.config.class_labels).tolist() == [0, 1, 2, 3, 4, 5]
    assert typed(wish) == wish.config


def test_names_of_imagenet(wishes):
    found = wishes()
    found.pipe.classes = list(imagenet_synsets())
    found.pipe.network.config = copy(found.pipe.network.config)
    object.__setattr__(found.pipe.network.config, "num_classes", 1000)
    everything = []
    for start in range(0, 1000, 8):
        asked = {"kind": "generate", "classes": list(range(start, start + 8))}
        everything += found.read(asked).config.class_labels
    assert everything[1] == "goldfish"
    assert 0 < sum(word.isdecimal() for word in everything) < 60  # of one name, or with a comma
    meant = [class_index(word, found.pipe.classes, 1000) for word in everything]
    assert meant == list(range(1000))


@pytest.fixture(scope="module")
def of_prompts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompts")
    save_encoder(folder / "encoder")
    save_text_weights(folder / "weights", folder / "encoder")
    pipe = Pipeline.from_pretrained(folder / "weights", "cpu", torch.float32)
    return Wishes(pipe, SamplingKeys(weights=str(folder / "weights")))


PROMPTS = [
    "a star",
    "two, three; 'four'",
    "<script>alert(1)</script>",
    "-x",
    "a=b",
    "ü 🎈",
    "[1]",
    "null",
    "",
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_is_a_command(of_prompts, prompt):
    wish = of_prompts.read({"kind": "generate", "prompt": prompt, "negative_prompt": "dark"})
    assert wish.config.prompt == prompt
    check(of_prompts, wish)


@pytest.mark.parametrize("scale", [1, 5])
@pytest.mark.parametrize("more", [{}, {"kind": "inpaint", **PICTURE, "mask": PICTURE["image"]}])
def test_no_prompt_is_a_command_too(of_prompts, scale, more):
    asked = {"kind": "generate", "prompt": " ", "guidance_scale": scale, **more}
    wish = of_prompts.read(asked)
    assert typed(wish) == wish.config
    pipe = copy(of_prompts.pipe)
    given = {key: getattr(wish.config, key) for key in vars(pipe.sampling)}
    pipe.sampling = pipe.sampling.changed(**given)
    check_asked(wish.config, pipe, "", pipe.grid(None, None), asks=False)  # it is not refused


def test_a_prompt_has_a_length_and_an_effect(of_prompts):
    wish = of_prompts.read({"kind": "generate", "prompt": "a" * 10**6})
    assert len(wish.config.prompt) == MOST_TEXT
    asked = {"kind": "generate", "prompt": "a", "negative_prompt": "b", "guidance_scale": 1}
    assert of_prompts.read(asked).config.negative_prompt == ""  # nothing is guided
    with pytest.raises(UserError, match="prompt holds '\\$\\{x\\}' in the page: write a plain"):
        of_prompts.read({"kind": "generate", "prompt": "${x}"})


def test_the_schemas_are_those_of_the_commands():
    assert {"generate": GenerateConfig, "edit": EditConfig} == SCHEMAS
