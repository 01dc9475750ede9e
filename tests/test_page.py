"""The page in a real browser: what a visitor does, and what he sees of it."""

import base64
import io
import re
import threading
import time
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from tiny_weights import GRID, SIDE, save_tiny_weights

from benchmarks.browser import MISSING, browsers
from MaskGIL.data.shapes import CLASSES
from MaskGIL.play import PlayConfig, open_page, page_server

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=MISSING)]
HOSTILE = "<img src=x onerror=window.caught=1>"
LISTEN = """
window.steps = []; window.drawn = [];
document.addEventListener('shown', (event) => steps.push(event.detail));
document.addEventListener('drawn', (event) => drawn.push(event.detail));
"""


@contextmanager
def served(weights, **keys):
    config = PlayConfig(weights=str(weights), device="cpu", precision="fp32", port=0, **keys)
    with page_server(config, *open_page(config)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(10)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    classes = (*CLASSES[:-1], HOSTILE)
    with served(save_tiny_weights(tmp_path_factory.mktemp("run") / "weights", classes)) as server:
        yield server


@pytest.fixture(scope="module")
def windows():
    with browsers(2) as windows:
        yield windows


@pytest.fixture
def visit(server, windows):
    def visit(number=0):
        window = windows[number]
        window.open(f"http://127.0.0.1:{server.server_port}/")
        window.wait("return document.querySelector('#told').textContent")
        window.run(LISTEN)
        return window

    return visit


def set_value(window, key, value):
    window.run(
        "const input = document.getElementById(arguments[0]); input.value = arguments[1];"
        "for (const kind of ['input', 'change'])"
        " input.dispatchEvent(new Event(kind, {bubbles: true}));",
        key,
        value,
    )


def drawn(window, count=1):
    window.wait(f"return drawn.length >= {count}")
    return window.run(f"return drawn[{count - 1}]")


def pixels(url):
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as picture:
        return np.asarray(picture.convert("RGB"))


def test_a_picture_comes_step_by_step(visit):
    window = visit()
    set_value(window, "num_steps", 8)
    set_value(window, "num_images", 4)
    window.click("#draw")
    done, steps = drawn(window), window.run("return steps")
    hidden = [step["hidden"] for step in steps]
    assert len(steps) == 8
    assert all(before > behind for before, behind in pairwise(hidden))
    assert len({tuple(step["pictures"]) for step in steps}) == 8
    shown = [step["at"] + step["late"] / 1000 for step in steps]
    assert shown[0] < steps[-1]["at"]  # while the others were still being drawn
    assert window.run("return document.querySelectorAll('#board canvas').length") == 4
    shown = window.run("return document.querySelector('#board canvas').toDataURL()")
    assert np.array_equal(pixels(shown), pixels(done["pictures"][0]))
    assert "s a picture" in window.run("return document.querySelector('#status').textContent")
    window.click("#map + span")
    window.wait("return document.querySelector('#board canvas').width == 8")  # a pixel a token
    shown = window.run("return document.querySelector('#board canvas').toDataURL()")
    assert np.array_equal(pixels(shown), pixels(done["confidence"][0]))


def test_the_gallery_tells_settings_and_command_of_each_picture(visit):
    window = visit()
    window.click(".chip:nth-child(4)")
    set_value(window, "num_images", 2)
    set_value(window, "seed", 7)
    set_value(window, "temperature", 0.5)
    set_value(window, "guidance_scale", 1.73)  # which the slider's step has not
    window.click("#draw")
    done = drawn(window)
    set_value(window, "temperature", 1.5)  # that of the next one
    assert window.run("return document.querySelectorAll('.thumb').length") == 2
    window.click(".thumb:nth-child(2)")
    facts = window.run("return document.querySelector('#facts').textContent")
    for fact in (
        "picture 2 of 2",
        CLASSES[3],
        "seed 7",
        "4 steps",
        "guidance 1.73",
        "temperature 0.5",
    ):
        assert fact in facts
    command = window.run("return document.querySelector('#command').textContent")
    assert command == done["command"]
    for word in ("seed=7", "temperature=0.5", "guidance_scale=1.73"):
        assert word in command.split()
    window.run("navigator.clipboard.writeText = () => Promise.reject()")  # as without https
    window.run("document.execCommand = (name) => { window.copied = [name, `${getSelection()}`] }")
    window.click("#copy")
    assert window.wait("return window.copied") == ["copy", command]


def test_paint_and_repaint(visit):
    window = visit()
    window.click("#draw")
    original = pixels(drawn(window)["pictures"][0])
    window.click("#again")
    window.wait("return document.querySelector('.paint')")
    set_value(window, "brush", 3)
    set_value(window, "num_images", 1)
    window.drag(".paint", [(-60, -60), (0, -60), (60, -60)])
    window.click(".chip:nth-child(9)")
    window.click("#draw")
    done = drawn(window, 2)
    assert done["command"].split()[3:5] == ["edit", "inpaint"]
    links = window.run("return [...document.querySelectorAll('#files a')].map(a => a.download)")
    assert links == ["drawn.png", "picture.png", "mask.png"]
    mask = pixels(
        window.run("return document.querySelector('#files a[download=\"mask.png\"]').href")
    )
    painted = mask[:, :, 0] == 255
    assert 0.05 < painted.mean() < 0.6
    columns = painted.any(0)
    assert columns[columns.argmax() : SIDE - columns[::-1].argmax()].all()  # a line without holes
    assert painted[: SIDE // 2].sum() > painted[SIDE // 2 :].sum()  # above the middle
    changed = (pixels(done["pictures"][0]) != original).any(-1)
    assert changed.any()
    assert not changed[~painted].any()
    assert len(window.run("return steps")) == 8  # those of both


def painted(window):
    """Rows and columns (n, 2) of what is painted."""
    alpha = window.run(
        "const paint = document.querySelector('.paint');"
        "const { data } = paint.getContext('2d').getImageData(0, 0, paint.width, paint.height);"
        "return [...data].filter((_, i) => i % 4 == 3)"
    )
    return np.argwhere(np.reshape(alpha, (SIDE, SIDE)) > 64)


@pytest.fixture
def easel(visit):
    window = visit()
    window.click("input[value=inpaint] + span")
    window.wait("return document.querySelector('.paint')")
    return window


def test_strokes_are_taken_back_and_erased(easel):
    set_value(easel, "brush", 3)
    easel.drag(".paint", [(-60, -60), (60, -60)])
    first = len(painted(easel))
    easel.drag(".paint", [(-60, 60), (60, 60)])
    assert len(painted(easel)) > first > 0
    easel.click("#undo")
    assert len(painted(easel)) == first
    easel.click("#eraser + span")
    easel.drag(".paint", [(-70, -60), (70, -60)])
    assert len(painted(easel)) < first / 2


def test_keys_paint_too(easel):
    up, left, right, shift = "\ue013", "\ue012", "\ue014", "\ue008"
    set_value(easel, "brush", 2)
    easel.press(".tile", up * 20 + left * 20 + right)  # it stops at the edges
    assert len(painted(easel)) == 0
    easel.press(".tile", " ")
    dot = painted(easel)
    assert len(dot) > 0
    assert dot[:, 0].max() <= 2  # at the upper edge, a token from the left one
    assert abs(dot[:, 1].mean() + 0.5 - SIDE / GRID) < 0.5
    easel.press(".tile", shift + right)
    assert painted(easel)[:, 1].max() == dot[:, 1].max() + SIDE // GRID
    easel.click("#undo")
    assert np.array_equal(painted(easel), dot)


def test_a_picture_is_pulled_larger(visit):
    window = visit()
    window.click("input[value=outpaint] + span")
    window.wait(f"return document.querySelector('#board canvas').width == {SIDE + SIDE // 2}")
    window.click("#clear")
    window.drag(".tile", [(200, 0), (260, 0), (320, 0)])
    right = int(window.run("return document.querySelector('#right').value"))
    assert right > 0
    assert right % 2 == 0  # whole tokens
    assert window.run("return document.querySelector('#board canvas').width") == SIDE + right


def test_a_running_drawing_leaves_the_easel_alone_and_can_be_stopped(visit, server):
    window = visit()
    set_value(window, "num_images", 9)
    set_value(window, "num_steps", 64)
    window.click("#draw")
    window.wait("return steps.length")
    window.click("input[value=inpaint] + span")
    window.wait("return document.querySelector('.paint')")
    seen = window.run("return steps.length")
    window.wait(f"return steps.length > {seen} || drawn.length")
    assert window.run("return document.querySelector('.paint') !== null")
    drawn(window)
    assert window.run("return document.querySelector('.paint') !== null")
    window.click("input[value=generate] + span")
    window.click("#draw")
    window.wait("return steps.length > 64 && !document.querySelector('#stop').hidden")
    window.click("#stop")
    assert window.run("return document.querySelector('#status').textContent") == "stopped"
    time.sleep(1)
    assert not server.turns._line
    assert window.run("return drawn.length") == 1


def test_a_drawing_that_breaks_off_is_told(visit, server, monkeypatch):
    monkeypatch.setattr(server, "draw", lambda asked, tell: None)  # no last event
    window = visit()
    window.click("#draw")
    told = window.wait("return document.querySelector('#problem:not([hidden])')?.textContent")
    assert told.startswith("The drawing broke off: ")


def test_a_page_that_is_full_is_tried_again(server, windows, monkeypatch):
    others = {path: page for path, page in server.pages.items() if path != "/about"}
    monkeypatch.setattr(server, "pages", others)
    window, problem = windows[0], "document.querySelector('#problem:not([hidden])')"
    window.open(f"http://127.0.0.1:{server.server_port}/")
    told = window.wait(f"return {problem}?.textContent")
    assert told.startswith("Many are here just now")
    monkeypatch.undo()
    window.wait("return document.querySelector('#told').textContent")
    assert window.run(f"return {problem} === null")


def test_the_first_picture_is_of_the_seed_that_stands_there(visit):
    window = visit()
    set_value(window, "num_steps", 1)
    for _ in range(2):
        window.click("#draw")
        time.sleep(0.5)
        window.wait("return document.querySelector('#stop').hidden")
    first, second = (drawn(window, number)["facts"][1] for number in (1, 2))
    assert first == "seed 0"
    assert second != "seed 0"  # new each time from then on


def test_several_classes_need_no_keyboard(visit):
    window = visit()
    pressed = "return document.querySelectorAll('.chip[aria-pressed=true]').length"
    window.click(".chip:nth-child(3)")
    assert window.run(pressed) == 1
    window.click("#several + span")
    window.click(".chip:nth-child(5)")
    assert window.run(pressed) == 2
    window.click("input[value=inpaint] + span")  # an edit is of one
    assert window.run(pressed) == 1


def test_it_fits_on_a_phone(visit):
    window = visit()
    window.resize(500, 844)  # narrower no window of this browser is
    assert window.run("return document.documentElement.scrollWidth <= innerWidth")
    window.resize(1180, 900)


def test_text_can_be_read_and_fields_have_names(visit):
    window = visit()
    nameless = window.run(
        "return [...document.querySelectorAll('input, select, textarea')].filter((field) =>"
        " !field.labels?.length && !field.getAttribute('aria-label')).map((field) => field.id)"
    )
    assert nameless == []
    colour, paper = window.run(
        "return [getComputedStyle(document.querySelector('#told')).color,"
        " getComputedStyle(document.documentElement).backgroundColor]"
    )
    lighter, darker = luminance(paper) + 0.05, luminance(colour) + 0.05
    assert lighter / darker >= 4.5  # WCAG 2.2, 1.4.3


def luminance(colour):
    """Of a CSS rgb(...), as WCAG 2.2 defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_a_picture_of_ones_own_goes_on_at_its_side(visit):
    window = visit()
    window.click("input[value=outpaint] + span")
    own = io.BytesIO()
    Image.new("RGB", (64, 32), (200, 30, 30)).save(own, "PNG")
    choose_file(window, "mine.png", own.getvalue())
    set_value(window, "right", 8)
    window.wait(f"return document.querySelector('#board canvas').width == {SIDE + 8}")
    window.click("#draw")
    (made, *_) = drawn(window)["pictures"]
    assert pixels(made).shape == (SIDE, SIDE + 8, 3)
    assert (pixels(made)[:, :SIDE] == (200, 30, 30)).all()


def choose_file(window, name, data):
    window.run(
        "const data = Uint8Array.from(atob(arguments[1]), c => c.charCodeAt());"
        "const files = new DataTransfer(); files.items.add(new File([data], arguments[0]));"
        "const input = document.querySelector('#file'); input.files = files.files;"
        "input.dispatchEvent(new Event('change'));",
        name,
        base64.b64encode(data).decode(),
    )


def test_wrong_input_is_a_sentence(visit):
    window = visit()
    problem = "return document.querySelector('#problem:not([hidden])')?.textContent"
    choose_file(window, "essay.txt", b"not a picture")
    told = window.wait(problem)
    assert told == "essay.txt cannot be read as a picture; choose a PNG, JPEG or WebP file."
    set_value(window, "seed", "1e30")
    window.click("#draw")  # it is brought into its bounds
    assert f"seed={2**53 - 1} " in drawn(window)["command"]
    window.run("document.querySelector('#plan').add(new Option('x', 'x', true, true))")
    window.click("#draw")
    assert window.wait(problem) == "plan is one of mar."
    window.run("document.querySelector('#plan').value = 'mar'")
    window.click("#draw")
    drawn(window, 2)
    assert window.run(problem) is None


def test_twenty_clicks_in_a_row(visit, server):
    window = visit()
    for _ in range(20):
        window.click("#draw")
    drawn(window)
    time.sleep(1)
    assert window.run("return document.querySelector('#problem').hidden")
    assert window.run("return document.querySelector('#bar').style.width") == "100%"
    assert window.run("return drawn.length") < 20
    assert not server.turns._line


def test_two_visitors_at_once(visit):
    first, second = visit(0), visit(1)
    for number, window in enumerate((first, second)):
        window.click(f".chip:nth-child({5 + number})")
        set_value(window, "num_images", 9)
        set_value(window, "num_steps", 32)
    first.click("#draw")
    second.click("#draw")
    for number, window in enumerate((first, second)):
        assert f"'class_labels={CLASSES[4 + number]}'" in drawn(window)["command"]
        assert window.run("return document.querySelectorAll('.thumb').length") == 9


def test_what_others_wrote_is_text_and_nothing_comes_from_elsewhere(visit):
    window = visit()
    assert HOSTILE in window.text()
    window.click(f".chip:nth-child({len(CLASSES)})")
    window.click("#draw")
    drawn(window)
    assert HOSTILE in window.run("return document.querySelector('#facts').textContent")
    assert window.run("return window.caught") is None
    loaded = window.run("return performance.getEntriesByType('resource').map(e => e.name)")
    here = window.run("return location.origin")
    assert loaded
    assert all(address.startswith((here, "data:")) for address in loaded)


def test_the_program_that_ended_is_told_of(tmp_path, windows):
    window = windows[0]
    with served(save_tiny_weights(tmp_path / "weights")) as server:
        window.open(f"http://127.0.0.1:{server.server_port}/")
        window.wait("return document.querySelectorAll('.chip').length")
    window.click("#draw")
    told = window.wait("return document.querySelector('#problem:not([hidden])')?.textContent")
    assert told == "The page has lost its program; start it again."


def test_a_hybrid_has_its_slider(tmp_path, windows):
    window = windows[0]
    with served(save_tiny_weights(tmp_path / "weights", objective="both")) as server:
        window.open(f"http://127.0.0.1:{server.server_port}/")
        window.wait("return document.querySelector('#told').textContent")
        window.run(LISTEN)
        shown = "return document.querySelector('#num_ar').offsetParent !== null"
        assert not window.run(shown)
        set_value(window, "plan", "hybrid")
        assert window.run(shown)
        set_value(window, "num_ar", 10)
        window.click("#draw")
        assert "plan=hybrid num_ar=10" in drawn(window)["command"]
        assert window.run("return steps.length") == 14  # ten, and the four of the weights
