"""What is drawn on the page is what the command that it names draws, and every step is shown."""

import base64
import io
import shlex
import time
from copy import copy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_text import save_encoder, save_text_weights
from tiny_weights import CODES, SIDE, save_tiny_weights

from MaskGIL.__main__ import main
from MaskGIL.confidence_map import colour_confidence
from MaskGIL.page.painting import MOST_SHOWN, Painter, read_data_url
from MaskGIL.page.wish import Wishes
from MaskGIL.pictures import MASKED_GREY, grey_out
from MaskGIL.pipeline import Pipeline
from MaskGIL.sampling_keys import SamplingKeys
from Network.config import UserError


def data_url(picture, kind="PNG"):
    file = io.BytesIO()
    picture.save(file, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def pixels(url):
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.fixture(scope="module")
def wishes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paint")
    found = {}
    for objective in ("mar", "both"):
        weights = save_tiny_weights(folder / objective, objective=objective)
        keys = SamplingKeys(weights=str(weights), device="cpu", precision="fp32")
        found[objective] = Wishes(Pipeline.from_pretrained(weights, "cpu", torch.float32), keys)
    save_encoder(folder / "encoder")
    save_text_weights(folder / "text", folder / "encoder")
    keys = SamplingKeys(weights=str(folder / "text"), device="cpu", precision="fp32")
    pipe = Pipeline.from_pretrained(folder / "text", "cpu", torch.float32)
    return {**found, "text": Wishes(pipe, keys)}


def drawn(wishes, asked):
    """The events of each step, and the last one."""
    events = []
    Painter(wishes.pipe).paint(wishes.read(asked), events.append)
    *steps, done = events
    assert [event["event"] for event in events] == [*["step"] * len(steps), "done"]
    return steps, done


def picture():
    return Image.fromarray(
        np.random.default_rng(0).integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)
    )


def mask():
    plane = np.zeros((SIDE, SIDE), np.uint8)
    plane[5:9, 3:14] = 255
    return Image.fromarray(plane)


EDIT = {"classes": [3], "num_images": 2, "seed": 5, "image": data_url(picture())}
WISHES = [
    ("mar", {"kind": "generate", "classes": [3, 1], "num_images": 4, "seed": 5, "num_steps": 6}),
    ("both", {"kind": "generate", "classes": [0], "plan": "hybrid", "num_ar": 9, "seed": 1}),
    ("both", {"kind": "generate", "classes": [0], "plan": "ar", "temperature": 0.5}),
    ("text", {"kind": "generate", "prompt": "a red star", "negative_prompt": "dark", "seed": 2}),
    ("mar", {**EDIT, "kind": "inpaint", "mask": data_url(mask())}),
    ("text", {**EDIT, "kind": "inpaint", "prompt": "a star", "mask": data_url(mask())}),
    ("mar", {**EDIT, "kind": "outpaint", "right": 8, "top": 4, "guidance_scale": 1}),
]


@pytest.mark.parametrize(("name", "asked"), WISHES, ids=[f"{n}-{a['kind']}" for n, a in WISHES])
def test_the_command_draws_the_very_same_pictures(wishes, name, asked, tmp_path, monkeypatch):
    _, done = drawn(wishes[name], asked)
    monkeypatch.chdir(tmp_path)
    for key, file in {"image": "picture.png", "mask": "mask.png"}.items():
        if key in asked:
            (tmp_path / file).write_bytes(base64.b64decode(asked[key].partition(",")[2]))
    words = shlex.split(done["command"])
    assert words[:3] == ["python", "-m", "MaskGIL"]
    assert main([*words[3:], "out=", "images=drawn"]) == 0
    files = sorted((tmp_path / "drawn").rglob("*.png"))
    assert len(files) == len(done["pictures"]) == asked.get("num_images", 1)
    for file, url in zip(files, done["pictures"]):
        assert np.array_equal(pixels(url), np.asarray(Image.open(file).convert("RGB")))


def test_each_step_shows_what_is_known_then(wishes):
    pipe, states = copy(wishes["mar"].pipe), []
    asked = {"kind": "generate", "classes": [3, 1], "num_images": 2, "num_steps": 5, "seed": 4}
    steps, done = drawn(wishes["mar"], asked)
    asked = {"num_inference_steps": 5, "generator": 4}
    images = pipe(
        [3, 1], **asked, callback_on_step_end=lambda pipe, step, state: states.append(state)
    ).images
    assert [event["step"] for event in steps] == [1, 2, 3, 4, 5]
    assert {event["steps"] for event in steps} == {5}
    hidden = [event["hidden"] for event in steps]
    assert hidden == sorted(set(hidden), reverse=True)  # strictly falling
    assert hidden[-1] == 0
    for event, state in zip(steps, states):
        covered = (state["tokens"] == pipe.network.mask_id).repeat_interleave(2, 1)
        covered = covered.repeat_interleave(2, 2).numpy()  # two pixels a token
        assert event["hidden"] == pytest.approx(covered.mean())
        for url, grey in zip(event["pictures"], covered):
            assert np.array_equal((pixels(url) == MASKED_GREY).all(-1) | ~grey, np.ones_like(grey))
        colours = colour_confidence(state["confidence"], CODES).permute(0, 2, 3, 1).numpy()
        assert all(np.array_equal(pixels(a), b) for a, b in zip(event["confidence"], colours))
    for url, last, image in zip(done["pictures"], steps[-1]["pictures"], images):
        assert url == last
        assert np.array_equal(pixels(url), np.asarray(image))
    assert len({event["pictures"][0] for event in steps}) == 5
    assert done["confidence"] == steps[-1]["confidence"]


def test_of_many_steps_some_are_shown_and_the_last_one(wishes, monkeypatch):
    asked = {"kind": "generate", "classes": [0], "plan": "ar"}
    assert len(drawn(wishes["both"], asked)[0]) == MOST_SHOWN == 64  # of as many tokens
    monkeypatch.setattr("MaskGIL.page.painting.MOST_SHOWN", 5)
    steps, _ = drawn(wishes["both"], asked)
    assert [event["step"] for event in steps] == [12, 25, 38, 51, 64]
    assert {event["steps"] for event in steps} == {64}


def test_repainting_shows_its_steps_and_keeps_the_rest(wishes):
    steps, done = drawn(wishes["mar"], {**EDIT, "kind": "inpaint", "mask": data_url(mask())})
    assert steps[0]["hidden"] < 0.5  # the mask alone
    kept = np.asarray(mask()) == 0
    for url in done["pictures"]:
        assert np.array_equal(pixels(url)[kept], np.asarray(picture())[kept])
    first, second = map(pixels, done["pictures"])
    assert not np.array_equal(first, second)


def test_extending_shows_its_steps_and_ends_with_its_visitor(wishes):
    asked = {**EDIT, "kind": "outpaint", "right": 8, "top": 16, "num_steps": 4}
    steps, done = drawn(wishes["mar"], asked)
    hidden = [event["hidden"] for event in steps]
    assert all(before > behind for before, behind in pairwise(hidden))
    assert (len(steps), hidden[-1], steps[0]["steps"]) == (20, 0, 20)  # 4 steps of 5 windows
    assert {pixels(event["pictures"][0]).shape for event in steps} == {(2 * SIDE, SIDE + 8, 3)}
    assert pixels(done["pictures"][0]).shape == (2 * SIDE, SIDE + 8, 3)
    told = []

    def leaves(event):
        told.append(event)
        raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        Painter(wishes["mar"].pipe).paint(wishes["mar"].read(asked), leaves)
    assert len(told) == 1


def test_the_drawing_tells_its_own_settings_and_both_times(wishes, monkeypatch):
    monkeypatch.setattr(
        "MaskGIL.page.painting.grey_out", lambda *x: time.sleep(0.2) or grey_out(*x)
    )
    asked = {"kind": "generate", "classes": [3, 1], "seed": 7, "num_steps": 3, "temperature": 0.5}
    _, done = drawn(wishes["mar"], asked)
    sampler = "3 steps, guidance 3, temperature 0.5, by confidence"
    assert done["facts"] == ["yellow circle, green circle", "seed 7", sampler]
    assert 0 < done["seconds"] < done["seconds_shown"] - 3 * 0.2
    _, done = drawn(wishes["text"], {"kind": "generate", "prompt": ""})
    assert done["facts"][0] == ""
    assert "no guidance" in done["facts"][2]


def test_another_class_under_the_mask_is_another_picture(wishes):
    asked = {**EDIT, "kind": "inpaint", "mask": data_url(mask())}
    found = [drawn(wishes["mar"], {**asked, "classes": [label]})[1] for label in (3, 9)]
    assert found[0]["pictures"] != found[1]["pictures"]


def test_a_visitor_who_leaves_ends_it(wishes):
    told = []

    def tell(event):
        told.append(event)
        if len(told) == 2:
            raise ConnectionAbortedError

    wish = wishes["mar"].read({"kind": "generate", "classes": [0]})
    with pytest.raises(ConnectionAbortedError):
        Painter(wishes["mar"].pipe).paint(wish, tell)
    assert len(told) == 2


def test_what_is_remarked_is_told(wishes):
    nothing = data_url(Image.new("L", (SIDE, SIDE)))
    _, done = drawn(wishes["mar"], {**EDIT, "kind": "inpaint", "mask": nothing})
    assert done["notes"] == ["A mask is empty: nothing is drawn, the image stays."]


def test_the_sampler_of_the_pipeline_stays(wishes):
    before = wishes["mar"].pipe.sampling
    drawn(wishes["mar"], {"kind": "generate", "classes": [0], "num_steps": 2})
    assert wishes["mar"].pipe.sampling == before


def test_a_bomb_is_refused_by_its_head():
    file = io.BytesIO()
    Image.new("1", (60000, 60000)).save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    assert len(url) < 1e6
    with pytest.raises(UserError, match="image (has 60000x60000 pixels|cannot be read)"):
        read_data_url("image", url)
    with pytest.raises(UserError, match="image has 3000x3000 pixels, more than 4,194,304"):
        read_data_url("image", data_url(Image.new("1", (3000, 3000))))


@pytest.mark.parametrize(
    "url",
    [
        "/etc/passwd",
        "file:///etc/passwd",
        "../picture.png",
        "",
        "data:text/html;base64,PGI+",
        "data:image/svg+xml;base64,PHN2Zz4=",
        "data:image/png;base64,/etc/passwd",
        "data:image/png;base64,§",
        data_url(Image.new("RGB", (4, 4)), "GIF").replace("image/gif", "image/png"),
        data_url(Image.new("RGB", (4, 4)))[:60],
    ],
)
def test_what_is_no_picture_is_told(wishes, url):
    with pytest.raises(UserError, match=r"^image (is no picture|cannot be read); choose"):
        read_data_url("image", url)


@pytest.mark.parametrize("change", [{"image": ""}, {"mask": ""}, {"image": None}, {"image": 3}])
def test_a_picture_that_is_left_out_is_read_from_nowhere(wishes, change, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where pictures of these names lie
    picture().save("picture.png")
    mask().save("mask.png")
    asked = {**EDIT, "kind": "inpaint", "mask": data_url(mask()), **change}
    with pytest.raises(UserError, match=r"(is missing|takes text)\.$"):
        drawn(wishes["mar"], asked)
    wish = wishes["mar"].read({**EDIT, "kind": "inpaint", "mask": data_url(mask())})
    with pytest.raises(UserError, match="no picture"):  # however a wish has come by it
        Painter(wishes["mar"].pipe).paint(replace(wish, **{**change, "image": ""}), [].append)


def test_a_torn_picture_is_a_sentence(wishes):
    torn = data_url(picture())[:400]
    torn = torn[: len(torn) // 4 * 4 - 1] + "="
    asked = {**EDIT, "kind": "outpaint", "right": 8, "image": torn}
    with pytest.raises(UserError, match="^image cannot be read; choose"):
        drawn(wishes["mar"], asked)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_formats_of_a_browser(kind):
    assert read_data_url("image", data_url(picture(), kind))
