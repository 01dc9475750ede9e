import json

import numpy as np
import torch
from PIL import Image

from MaskGIL.picture_folder import PictureFolder
from MaskGIL.prompts import Prompt

IMAGES = torch.arange(6 * 3 * 4 * 4).view(6, 3, 4, 4).to(torch.uint8)


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def assert_holds(folder, names):
    for name, pixels in zip(names, IMAGES):
        assert np.array_equal(np.asarray(Image.open(folder / name)), pixels.permute(1, 2, 0))


def filled(folder, *given):
    pictures = PictureFolder(folder, *given)
    pictures.add(IMAGES[:4])
    pictures.add(IMAGES[4:])
    return files(folder)


def test_images_without_prompts_are_numbered(tmp_path):
    names = [f"{number:05d}.png" for number in range(6)]
    assert filled(tmp_path / "new/images") == names
    assert_holds(tmp_path / "new/images", names)


def test_images_of_prompts_have_their_ids(tmp_path):
    prompts = [Prompt(f"{number:05d}", "a cat") for number in range(6)]
    assert filled(tmp_path / "one", prompts) == [f"{prompt.id}.png" for prompt in prompts]
    names = ["00000-00.png", "00000-01.png", "00001-00.png", "00001-01.png",
             "00002-00.png", "00002-01.png"]  # fmt: skip
    assert filled(tmp_path / "two", prompts[:3], 2) == names
    assert_holds(tmp_path / "two", names)


def test_geneval_finds_its_pictures_and_what_was_asked_for(tmp_path):
    """As its evaluate_images.py walks: numbered folders, JSON, samples that end in .png."""
    entries = [{"tag": "two_object", "prompt": text, "include": []} for text in ("a cat", "a cow")]
    prompts = [
        Prompt(f"{number:05d}", entry["prompt"], entry=json.dumps(entry))
        for number, entry in enumerate(entries)
    ]
    filled(tmp_path, prompts, 3)
    found = []
    for folder in sorted(tmp_path.iterdir()):
        assert folder.name.isdigit()
        assert json.loads((folder / "metadata.jsonl").read_text()) == entries[int(folder.name)]
        found += sorted((folder / "samples").iterdir())
    assert [path.name for path in found] == ["0000.png", "0001.png", "0002.png"] * 2
    assert_holds(tmp_path, [path.relative_to(tmp_path) for path in found])


def test_mjhq_finds_its_pictures_by_category(tmp_path):
    prompts = [
        Prompt(f"ab{number}", "a cat", "animals" if number else "food") for number in range(6)
    ]
    expected = ["food/ab0.png", *(f"animals/ab{row}.png" for row in range(1, 6))]
    assert filled(tmp_path, prompts) == sorted(expected)
    assert_holds(tmp_path, expected)
