"""The page of a run: one file, all that it has, nothing from elsewhere."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from Trainer.curves import read_curves
from Trainer.report_page import MOST_SAMPLES, STYLE, report_page
from Trainer.validation import QUARTERS


class Page(HTMLParser):
    """Its titles, charts, pictures, and what it would fetch or run."""

    def __init__(self, text):
        super().__init__()
        self.titles, self.lines, self.pictures, self.tags, self.links = [], 0, [], set(), []
        self.words, self._in = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self._in = tag
        self.tags.add(tag)
        self.lines += given.get("class") == "line"
        if tag == "img":
            self.pictures.append(given["src"])
        self.links += [given[name] for name in ("href", "src", "action") if name in given]

    def handle_data(self, data):
        if self._in == "h2":
            self.titles.append(data)
        if self._in != "style":
            self.words.append(data)
        self._in = ""


@pytest.fixture
def run(tmp_path):
    """A run of a generator, with samples."""
    folder = tmp_path / "runs <b>1</b>"
    (folder / "samples").mkdir(parents=True)
    lines = [
        {"step": s, "kind": "train", "loss": 9 / s, "acc": s / 99, "gnorm": 1 / s, "lr": 1e-3}
        for s in range(10, 100, 10)
    ]
    quarters = {f"{name} {q}": 0.5 for name in ("acc", "loss") for q in QUARTERS}
    lines.append({"step": 90, "kind": "validation", "loss": 2.0, "acc": 0.4, **quarters})
    lines.append({"step": 90, "kind": "score", "distance": float("inf")})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.yaml").write_text("seed: 7\nloop:\n  steps: 2000\n")
    (folder / "env.json").write_text(json.dumps({"torch": "2.15.0", "devices": ["<script>"]}))
    for step in range(1, 31):
        Image.new("RGB", (4, 4), (step, 0, 0)).save(folder / "samples" / f"step-{step:07d}.png")
    return folder


def test_all_curves_of_the_run_and_no_others(run):
    page = Page(report_page(read_curves(run)))
    assert page.titles == [
        "Loss",
        "Accuracy",
        "Accuracy, by the share that is hidden",
        "Loss, by the share that is hidden",
        "Gradient norm",
        "Learning rate",
        "Settings",
        "Where it ran",
    ]
    assert page.lines == 2 + 2 + 4 + 4 + 1 + 1
    words = "".join(page.words)
    assert "generator, 90 of 2,000 steps" in words
    assert all(f"{quarter} hidden" in words for quarter in QUARTERS)


def test_samples_are_spread_over_time_and_stand_inside(run):
    page = Page(report_page(read_curves(run)))
    assert len(page.pictures) == MOST_SAMPLES
    reds = []
    for url in page.pictures:
        with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as picture:
            reds.append(picture.getpixel((0, 0))[0])
    assert reds == sorted(set(reds))
    assert reds[-1] == 30
    assert "step 30" in "".join(page.words)


def test_nothing_is_fetched_and_nothing_runs(run):
    text = report_page(read_curves(run))
    page = Page(text)
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not re.search(r"https?:|url\(|@import", text)
    assert page.tags.isdisjoint({"script", "link", "iframe", "b"})
    assert "runs <b>1</b>" in "".join(page.words)


def test_what_the_run_was(run):
    words = "".join(Page(report_page(read_curves(run))).words)
    assert "seed7" in words
    assert "torch2.15.0" in words


def test_a_run_of_one_number(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "kind": "train", "loss": 1.0}\n')
    page = Page(report_page(read_curves(tmp_path)))
    assert page.titles == ["Loss"]
    assert page.pictures == []


def test_every_class_has_its_style(run):
    used = set(re.findall(r'class="([\w ]+)"', report_page(read_curves(run))))
    names = {name for each in used for name in each.split()} - {"dots"}
    assert {name for name in names if f".{name}" not in STYLE} == set()
