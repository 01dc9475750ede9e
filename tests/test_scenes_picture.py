"""The script of the README's picture of scenes, with the weights of a tiny network."""

import runpy
from pathlib import Path

import pytest
import tiny_text
from PIL import Image

from MaskGIL.data.descriptions import read_sentence

SCRIPT = runpy.run_path(str(Path(__file__).parent.parent / "scripts/scenes_picture.py"))


@pytest.mark.parametrize("prompt", [*SCRIPT["PROMPTS"], SCRIPT["PAINTED"], SCRIPT["LONGER"]])
def test_no_prompt_was_seen_in_training(prompt):
    assert read_sentence(prompt).is_held_out


def test_it_draws_a_row_for_each(tmp_path):
    encoder = tiny_text.save_encoder(tmp_path / "encoder")
    weights = tiny_text.save_text_weights(tmp_path / "weights", encoder)
    SCRIPT["main"](str(weights), str(tmp_path / "made/scenes.png"))
    with Image.open(tmp_path / "made/scenes.png") as picture:
        assert picture.size == (924, 962)
