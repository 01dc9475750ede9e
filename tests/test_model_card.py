"""Cards say what the folder holds, and how it is used."""

import json
import re
import shlex
from pathlib import Path

import pytest
import tiny
import yaml
from tiny_text import save_encoder, save_text_weights
from tiny_weights import save_tiny_weights

from MaskGIL.__main__ import COMMANDS
from MaskGIL.command import parse
from MaskGIL.config import load_config
from MaskGIL.data.shapes import CLASSES
from MaskGIL.model_card import model_card, write_card
from MaskGIL.weights import load_weights, save_weights


def header(card):
    return yaml.safe_load(card.split("---")[1])


def blocks(card):
    return re.findall(r"^```(\w*)\n(.*?)^```", card, flags=re.M | re.S)


def test_what_a_generator_is(tmp_path):
    folder = save_tiny_weights(tmp_path / "weights")
    weights, card = load_weights(folder), model_card(folder, "me/tiny", "mit")
    count = sum(parameter.numel() for parameter in weights.network.parameters())
    assert header(card) == {
        "library_name": "maskgil",
        "license": "mit",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["image-generation", "masked-image-modeling", "vector-quantization"],
    }
    assert "# tiny\n" in card
    assert f"{count:,} parameters" in card
    assert "| tokens | 8x8 of 11 codes |" in card
    assert f"| classes | 16: {', '.join(CLASSES[:12])}, ... |" in card
    assert "| sampler | num_steps=4 |" in card
    megabytes = (folder / "network.safetensors").stat().st_size / 1e6
    assert f"| weights | averaged, and those of the last step, {megabytes:,.1f} MB each |" in card
    assert "github.com" not in card  # whose code it is nobody has told
    assert "In a clone of https://x.org/y.git," in model_card(folder, code="https://x.org/y.git")
    assert weights.tokenizer.fingerprint[:16] in card


def test_what_is_typed_is_understood_and_what_is_python_runs(tmp_path, monkeypatch):
    folder = save_tiny_weights(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    ((_, typed), (language, code)) = blocks(model_card(folder, "me/tiny"))
    fetch, *commands = typed.splitlines()
    assert fetch == "hf download me/tiny --local-dir tiny"
    for command in commands:
        _, _, _, name, *words = shlex.split(command)
        path, overrides, _ = parse(COMMANDS[name].schema, words)
        assert load_config(COMMANDS[name].schema, path, overrides).weights == "tiny"
    assert language == "python"
    exec(compile(code, "card", "exec"), {})
    assert (tmp_path / "drawn.png").is_file()


def test_prompts_and_their_encoder(tmp_path):
    save_encoder(tmp_path / "encoder")
    card = model_card(save_text_weights(tmp_path / "text", tmp_path / "encoder"))
    assert header(card)["pipeline_tag"] == "text-to-image"
    assert re.search(r"\| prompts \| 10 tokens by encoder, fingerprint [0-9a-f]{16} \|", card)
    assert str(tmp_path) not in card
    assert "prompt='a red circle'" in card
    assert "hf download" not in card  # it is on no hub
    assert "license" not in header(card)


def test_a_tokenizer_is_used_where_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/my weights")
    save_weights(folder, tiny.fill(tiny.tokenizer(), 0))
    write_card(folder)
    card = (folder / "README.md").read_text()
    assert "pipeline_tag" not in header(card)
    assert blocks(card) == [("", "python -m MaskGIL inspect 'runs/my weights'\n")]
    load_weights(folder)  # it is read as before


@pytest.mark.parametrize("name", ["a|b", "<b>x</b>", "two\nlines", "`code`", "[a](b)"])
def test_names_are_text(tmp_path, name):
    folder = save_tiny_weights(tmp_path / "weights", classes=(name, "other"))
    (row,) = (line for line in model_card(folder).splitlines() if line.startswith("| classes"))
    plain = re.sub(r"\\(.)", r"\1", re.sub(r"(?<!\\)[<>`\[\]]", "!", row))
    assert plain == f"| classes | 2: {' '.join(name.split())}, other |"
    assert len(re.findall(r"(?<!\\)\|", row)) == 3


def test_a_folder_of_before_has_a_card_too(tmp_path):
    folder = save_tiny_weights(tmp_path / "weights")
    config = json.loads((folder / "config.json").read_text())
    del config["objective"]
    (folder / "config.json").write_text(json.dumps(config))
    assert "| learned to draw | many tokens a step |" in model_card(folder)
