"""Generators of other projects as a user has them: by name from the hub, or a file; convert them.

The hub is a server on this machine, the generators are the tiny ones of `tiny_generators.py`.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from fake_hub import hub as serve
from huggingface_hub import constants
from tiny_generators import CONFIGS, write_official
from tiny_text import save_encoder

import FID_sample
from MaskGIL.__main__ import main
from MaskGIL.classes import class_names
from MaskGIL.command import run_command
from MaskGIL.foreign_generators import is_generator, open_foreign_generator, row_of
from MaskGIL.pipeline import Pipeline
from MaskGIL.public import GENERATORS, PUBLIC, PublicFile, PublicGenerator
from MaskGIL.sampling import SamplingConfig
from MaskGIL.text_source import TextOrigin
from MaskGIL.weights import load_network, load_weights, read_config, save_weights
from Metrics.sample_config import SampleConfig
from Network import build_tokenizer
from Network.config import UserError
from Network.sizes import SIZES_OF, Size
from Network.tokenizer import NAMED

TOKENIZER = tiny.tokenizer_config(codebook_size=32)
SAMPLING = SamplingConfig(guidance="constant", guidance_scale=2.0, num_steps=4)
NAMES = ("llamagen_c2i", "vit", "halton")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The bytes of the tiny files, by name."""
    folder, found = tmp_path_factory.mktemp("files"), {}
    for name in (*NAMES, "llamagen_t2i"):
        container = "model" if "llamagen" in name else "model_state_dict"
        found[name] = write_official(folder / f"{name}.pt", name, container=container).read_bytes()
    tokenizer = tiny.fill(build_tokenizer(TOKENIZER))
    torch.save(tokenizer.state_dict(), folder / "vq.pt")
    return found | {"vq": (folder / "vq.pt").read_bytes()}


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """Rows for the tiny generators and their tokenizer, and their sizes."""
    for kind in SIZES_OF:
        monkeypatch.setitem(SIZES_OF[kind], "dwarf", Size(2, 64, 4))
    monkeypatch.setitem(NAMED, "tiny-vq", TOKENIZER)
    monkeypatch.setitem(PUBLIC, "tiny-vq", PublicFile("us/weights", "vq.pt", "MIT"))
    for name in (*NAMES, "llamagen_t2i"):
        file = PublicFile("us/weights", f"{name}.pt", "MIT")
        objective = "ar" if "llamagen" in name else "mar"
        row = PublicGenerator(file, CONFIGS[name].grid, SAMPLING, objective, "tiny-vq", "tiny-vq")
        monkeypatch.setitem(GENERATORS, name, row)
    monkeypatch.setattr("Network.generator_files.NUM_CLASSES", 10)  # of the ViT's table


@pytest.fixture
def hub(tmp_path, monkeypatch, files):
    with serve() as served:
        template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("no_proxy", "*")
        for name, data in files.items():
            served.serve_lfs(f"/us/weights/resolve/main/{name}.pt", data)
        yield served


def sentence(function, *arguments):
    with pytest.raises(UserError) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_a_pipeline(hub, name):
    """Fetched once, sampled as its authors do, for as many tokens as it was trained on."""
    pipe = Pipeline.from_pretrained(name, "cpu", torch.float32)
    assert (pipe.sampling, pipe.objective) == (SAMPLING, GENERATORS[name].objective)
    assert pipe.network.config == replace(CONFIGS[name], size="dwarf")
    assert pipe.tokenizer.name == "tiny-vq"
    found = pipe([3, 7], generator=0)
    assert found.tokens.shape == (2, *CONFIGS[name].grid)
    assert found.tokens.max() < 32
    assert len(hub.requests) == 4  # two files, each at the hub and where it sends us
    again = Pipeline.from_pretrained(name, "cpu", torch.float32)([3, 7], generator=0)
    assert torch.equal(again.tokens, found.tokens)
    assert len(hub.requests) == 4


def test_its_places_are_learned(hub):
    pipe = Pipeline.from_pretrained("halton", "cpu", torch.float32)
    assert sentence(lambda: pipe([1], height=8, width=8)) == (
        "This generator has learned the places of 16x16 pixels; leave height and width out."
    )


def test_generate_by_name(hub, tmp_path, capsys):
    out = tmp_path / "grid.png"
    assert main(["generate", "weights=llamagen_c2i", "class_labels=7", f"out={out}"]) == 0
    assert out.is_file()
    told = capsys.readouterr().out
    assert "fetching   llamagen_c2i: us/weights llamagen_c2i.pt, size unknown, licence MIT" in told
    assert "sampler    64 steps, guidance 2" in told  # one token each


def test_a_set_of_samples_by_name(hub, tmp_path):
    out = tmp_path / "set.npz"
    words = ["weights=halton", "num_images=4", "chunk=2", f"out={out}", "device=cpu"]
    assert run_command(FID_sample.main, SampleConfig, words, program="", about="") == 0
    with np.load(out) as stored:
        assert stored["arr_0"].shape == (4, 16, 16, 3)
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["made"]["weights"] == "halton"


def test_as_many_classes_as_imagenets_are_imagenets(hub, monkeypatch):
    assert load_weights("llamagen_c2i").classes == []
    monkeypatch.setattr("MaskGIL.weights.NUM_CLASSES", 10)
    classes = load_weights("llamagen_c2i").classes
    assert class_names(classes, len(classes))[207] == "golden retriever"


def test_captions_are_not_classes(hub):
    pipe = Pipeline.from_pretrained("llamagen_t2i", "cpu", torch.float32)
    assert sentence(pipe, [3]) == (
        "class_labels is not for these weights, which know prompts; use prompt=..."
    )
    told = "These weights do not say which text encoder they learned from; name it, text_encoder="
    assert sentence(lambda: pipe(prompt="a star")).startswith(told)


def test_a_name_draws_prompts_with_its_own_text_encoder(hub, monkeypatch, tmp_path):
    """Nobody has told a fingerprint; prompts are put into lower case, as the authors do."""
    origin = TextOrigin(str(save_encoder(tmp_path / "encoder", width=48)), "bf16", "", True)
    row = GENERATORS["llamagen_t2i"]._replace(text=origin)
    monkeypatch.setitem(GENERATORS, "llamagen_t2i", row)
    assert main(["convert", "llamagen_t2i", str(tmp_path / "weights")]) == 0
    drawn = []
    for weights in ("llamagen_t2i", tmp_path / "weights"):
        pipe = Pipeline.from_pretrained(weights, "cpu", torch.float32)
        assert (pipe.text, pipe.objective, pipe.tokenizer.name) == (origin, "ar", "tiny-vq")
        drawn += [
            pipe(prompt=prompt, generator=4).tokens for prompt in ("A red STAR", "a red star")
        ]
    assert drawn[0].shape == (1, *CONFIGS["llamagen_t2i"].grid)
    assert all(torch.equal(tokens, drawn[0]) for tokens in drawn)


def test_load_network_takes_a_name(hub):
    assert load_network("halton").config == replace(CONFIGS["halton"], size="dwarf")


# Convert


@pytest.mark.parametrize("name", NAMES)
def test_a_name_becomes_a_folder_of_ours(hub, tmp_path, capsys, name):
    out = tmp_path / "out"
    assert main(["convert", name, str(out), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert told.count("would fetch") == 2
    assert not hub.requests
    assert main(["convert", name, str(out)]) == 0
    assert f"wrote        {out}, a weights folder and its card\n" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {
        "README.md", "config.json", "network.safetensors", "tokenizer.safetensors",
    }  # fmt: skip
    assert 'license: "mit"' in (out / "README.md").read_text()
    found, expected = load_weights(out), load_weights(name)
    assert (found.sampling, found.objective) == (SAMPLING, GENERATORS[name].objective)
    assert found.network.config == expected.network.config
    for ema in (True, False):
        state = load_weights(out, ema=ema).network.state_dict()
        assert all(torch.equal(state[key], t) for key, t in expected.network.state_dict().items())
    assert found.tokenizer.fingerprint == expected.tokenizer.fingerprint


def test_a_file_with_its_tokenizer(hub, tmp_path, capsys, files):
    file, out = tmp_path / "mine.pt", tmp_path / "out"
    file.write_bytes(files["halton"])
    save_weights(tmp_path / "vq", tiny.fill(build_tokenizer(TOKENIZER)))
    words = ["convert", str(file), str(out), f"tokenizer={tmp_path / 'vq'}"]
    assert main([*words, "--dry-run"]) == 0
    assert main(words) == 0
    assert (
        "generator    halton, 144,992 parameters, objective=mar\n" in capsys.readouterr().out or 1
    )
    assert json.loads((out / "config.json").read_text())["averaged"] is False
    assert load_weights(out).sampling == SamplingConfig()  # nobody told another
    assert not hub.requests


def test_a_file_of_a_known_name_tells_the_rest(hub, tmp_path, files):
    file, out = tmp_path / "llamagen_c2i.pt", tmp_path / "out"
    file.write_bytes(files["llamagen_c2i"])
    assert main(["convert", str(file), str(out)]) == 0
    assert load_weights(out).network.config.grid == (8, 8)
    assert load_weights(out).sampling == SAMPLING
    assert len(hub.requests) == 2  # the tokenizer alone


def test_rows_are_told_by_the_names_of_files(tmp_path):
    assert row_of(tmp_path / "c2i_XXL_384.pt") == "llamagen-xxl-384"
    assert row_of(tmp_path / "ImageNet_384_large.pth") == "halton-large-384"
    assert row_of(tmp_path / "current.pth") == ""


def test_sentences(tmp_path, files):
    file = tmp_path / "mine.pt"
    file.write_bytes(files["vit"])
    assert is_generator(str(file))
    assert sentence(open_foreign_generator, str(file), "").startswith(
        f"tokenizer is empty; name the one whose tokens {file} generates, a weights folder or tok"
    )
    assert "tokenizer=tiny-qv is no weights folder and none of the names" in sentence(
        open_foreign_generator, str(file), "tiny-qv"
    )
    assert sentence(open_foreign_generator, "vit", "tiny-vq") == (
        "vit has its own tokenizer; leave tokenizer=tiny-vq out."
    )
    save_weights(tmp_path / "vq", tiny.tokenizer())
    assert sentence(open_foreign_generator, str(file), str(tmp_path / "vq")) == (
        f"{file} generates 32 codes, the tokenizer taming-f2 has 11; name another one, "
        "tokenizer=NAME."
    )
    assert sentence(load_weights, file) == (
        f"{file} is a file; give the weights folder that it lies in, or make one of it and of its "
        f"tokenizer: python -m MaskGIL convert {file} FOLDER tokenizer=NAME."
    )
    assert "Did you mean 'llamagen-b'?" in sentence(load_weights, "lamagen-b")
    file.write_bytes(files["vq"])
    assert not is_generator(str(file))


def test_a_folder_of_that_name_is_taken_first(tmp_path, monkeypatch):
    save_weights(tmp_path / "halton", tiny.tokenizer())
    monkeypatch.chdir(tmp_path)
    assert load_weights("halton").network is None
    assert "network" not in read_config(tmp_path / "halton")
