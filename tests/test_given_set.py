"""Images that others have made: scored as ours are, and refused where they are no set."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_samples import commanded

from MaskGIL.data.shapes import Shapes
from Metrics import given_set
from Metrics.reference import CROP, open_image_set
from Metrics.sample_and_eval import evaluate

SIDE = 16


@pytest.fixture
def given(tmp_path, monkeypatch, capsys):
    """The command, in a folder with 24 pictures as `a.npz`, and their pixels (N, H, W, 3)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    shapes = Shapes("train", 24, (SIDE, SIDE))
    pixels = np.stack([np.asarray(shapes.image(index)) for index in range(24)])
    np.savez(tmp_path / "a.npz", pixels, shapes.labels)
    return commanded(capsys, "samples=a.npz", "reference=shapes:40", "device=cpu"), pixels


def save(pixels, folder, suffix):
    folder.mkdir()
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{number:03d}.{suffix}")


def test_a_file_of_others_is_scored_as_ours_are(given, tmp_path):
    command, pixels = given
    before = (tmp_path / "a.npz").read_bytes()
    code, out, err = command("out=new/found.json")
    assert (code, err) == (0, "")
    record = json.loads((tmp_path / "new/found.json").read_text())
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    reference = open_image_set("reference", "shapes:40", "val", (SIDE, SIDE))
    labels = Shapes("train", 24, (SIDE, SIDE)).labels
    expected = evaluate(images.split(7), labels, reference)
    for key in ("sha256", "reference", "notes", "features", "fid"):
        assert record[key] == expected[key]
    for key in ("metrics", "intervals"):
        assert record[key].keys() == expected[key].keys()
    for name, value in expected["metrics"].items():
        assert record["metrics"][name] == pytest.approx(value, rel=1e-4)
    assert record["samples"] == {"given": "a.npz"}
    assert f"samples    a.npz: 24 of 16x16\nreference  shapes (val): 40 of val, {CROP}\n" in out
    assert "\nsamples                a.npz, 24\n" in out
    assert f"shapesnet-1 distance   {record['metrics']['shapesnet-1 distance']:.4g}\n" in out
    assert (tmp_path / "a.npz").read_bytes() == before
    assert command("out=new/found.json")[2] == (
        "error: out=new/found.json is there already; name another.\n"
    )


def test_a_folder_of_png_files_is_the_same_set_and_one_of_jpeg_files_is_told(given, tmp_path):
    command, pixels = given
    notes = {}
    for suffix in ("png", "jpg"):
        save(pixels, tmp_path / suffix, suffix)
        words = (f"samples={suffix}", "reference=a.npz", "precision_recall=false")
        assert command(*words, f"out={suffix}.json")[0] == 0
        record = json.loads((tmp_path / f"{suffix}.json").read_text())
        notes[suffix] = record["notes"]
        is_same = record["metrics"]["shapesnet-1 distance"] < 1e-6
        assert is_same == (record["sha256"] == record["reference"]["sha256"]) == (suffix == "png")
    assert given_set.LOSSY in notes["jpg"]
    assert given_set.LOSSY not in notes["png"]


def test_class_folders_are_read_and_told_to_be_sorted(tmp_path):
    for name, colour in (("bee", 9), ("ant", 5), (".thumbnails", 1)):
        save(np.full((2, SIDE, SIDE, 3), colour, np.uint8), tmp_path / name, "png")
    images, size = given_set.open_given(str(tmp_path))
    (batch,) = images
    assert (batch[:, 0, 0, 0].tolist(), size) == ([5, 5, 9, 9], (SIDE, SIDE))
    assert images.labels.tolist() == [0, 0, 1, 1]  # by which a score of blocks is warned of


def test_a_dry_run_leaves_nothing(given, tmp_path):
    for words in ([], ["num_images=24"]):
        assert given[0]("--dry-run", *words)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["samples=nowhere.npz"], "No such file: nowhere.npz."),
        (["samples=nowhere"], "samples=nowhere is neither an .npz nor a folder; name one."),
        (["samples=empty"], "samples=empty is a folder without images in it."),
        (["samples=mixed"], "samples=mixed has 0.png of 16x16 and 1.png of 16x12; a set has one s"),
        (["samples=tall"], "samples=tall has images of 16x12; save them as an .npz."),
        (["samples=broken"], "broken/0.png is no image (cannot identify image file"),
        (
            ["reference=large.npz"],
            "reference=large.npz holds images of 32x32, the samples have 16x",
        ),
        (
            ["num_images=25"],
            "samples=a.npz has 24 images, num_images asks for 25; give all of them, or leave num_i",
        ),
        (["num_images=50000"], "samples=a.npz has 24 images, num_images asks for 50,000; give all"),
        (["num_images=23"], "samples=a.npz has 24 images, num_images asks for 23; give all of the"),
        (["reference=shapes:1"], "reference=shapes:1 is one image; a distance needs two."),
        (["out=scores.npz"], "out=scores.npz must end in .json."),
    ],
)
def test_mistakes_cost_a_second_and_leave_nothing(given, tmp_path, words, sentence):
    np.savez(tmp_path / "large.npz", np.zeros((2, 32, 32, 3), np.uint8))
    for name, sizes in {"empty": [], "mixed": [(16, 16), (12, 16)], "tall": [(12, 16)]}.items():
        (tmp_path / name).mkdir()
        for number, size in enumerate(sizes):
            Image.new("RGB", size).save(tmp_path / name / f"{number}.png")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/0.png").write_bytes(b"broken")
    before = sorted(tmp_path.rglob("*"))
    code, _, err = given[0](*words)
    assert code == 2
    assert err.startswith(f"error: {sentence}")
    assert sorted(tmp_path.rglob("*")) == before


def test_torchrun_is_refused(given, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert given[0]()[2].startswith("error: samples are scored by one process: start it with pyth")
