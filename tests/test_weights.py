import json
import os
import re
from pathlib import Path

import pytest
import tiny
import torch
from fake_hub import hub
from safetensors.torch import load_file, save_file

from MaskGIL.public import PUBLIC, PublicFile
from MaskGIL.sampling import SamplingConfig
from MaskGIL.text_source import TextOrigin
from MaskGIL.weights import load_network, load_tokenizer, load_weights, open_tokenizer, save_weights
from Network.config import TokenizerConfig, UserError
from Network.tokenizer import NAMED

CLASSES = ["red circle", "Ωμέγα", "3"]
SAMPLING = SamplingConfig(num_steps=5, order="random", guidance_scale=1.5)


def same(module, state):
    found = module.state_dict()
    assert found.keys() == state.keys()
    return all(torch.equal(found[name], state[name]) for name in state)


@pytest.fixture
def network():
    return tiny.network().float()


@pytest.fixture
def average(network):
    return {name: tensor + 1 for name, tensor in network.state_dict().items()}


@pytest.fixture
def folder(tmp_path, network, average):
    """A weights folder of a generator."""
    save_weights(
        tmp_path / "weights", tiny.tokenizer(), network=network, average=average,
        classes=CLASSES, sampling=SAMPLING,
    )  # fmt: skip
    return tmp_path / "weights"


@pytest.fixture
def tokenizer_folder(tmp_path):
    save_weights(tmp_path / "tokenizer", tiny.tokenizer())
    return tmp_path / "tokenizer"


@pytest.mark.parametrize("objective", ["mar", "ar", "both"])
def test_a_folder_tells_what_its_network_was_trained_for(tmp_path, network, average, objective):
    folder = tmp_path / "weights"
    save_weights(folder, tiny.tokenizer(), network=network, average=average, objective=objective)
    assert load_weights(folder).objective == objective
    described = json.loads((folder / "config.json").read_text())
    del described["objective"]
    (folder / "config.json").write_text(json.dumps(described))
    assert load_weights(folder).objective == "mar"  # of folders before it had a name
    (folder / "config.json").write_text(json.dumps({**described, "objective": "gan"}))
    refused(r"config\.json is damaged \(objective\); write the wei", load_weights, folder)


def test_a_folder_tells_which_text_encoder_its_network_has_learned_from(tmp_path):
    folder, text = tmp_path / "weights", TextOrigin("flan-t5-xl", "bf16", "ab12")
    network = tiny.network(num_classes=0, caption_width=6, caption_tokens=5).float()
    save_weights(folder, tiny.tokenizer(), network=network, text=text)
    found = load_weights(folder, ema=False)
    assert found.text == text
    assert found.network.config == network.config
    described = json.loads((folder / "config.json").read_text())
    for wrong in ({"encoder": "flan-t5-xl"}, "flan-t5-xl", {**text._asdict(), "encoder": 5}):
        (folder / "config.json").write_text(json.dumps({**described, "text": wrong}))
        refused(r"config\.json is damaged \(text\); write the wei", load_weights, folder)


def refused(sentence, function, *arguments):
    with pytest.raises(UserError) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    assert re.search(sentence, str(error.value)), str(error.value)


# Round trips


@pytest.mark.parametrize("as_text", [False, True])
def test_a_generator_comes_back(folder, network, average, as_text):
    weights = load_weights(str(folder) if as_text else folder)
    assert same(weights.network, average)  # the averaged one, unless asked otherwise
    assert same(load_weights(folder, ema=False).network, network.state_dict())
    assert weights.network.config == network.config
    assert same(weights.tokenizer, tiny.tokenizer().state_dict())
    assert weights.tokenizer.config == tiny.tokenizer_config()
    assert (weights.classes, weights.sampling) == (CLASSES, SAMPLING)
    assert not weights.network.training
    assert not weights.tokenizer.training
    labels, tokens = torch.tensor([0, 2]), tiny.tokens()
    network.load_state_dict(average)
    assert torch.equal(weights.network(tokens, labels), network(tokens, labels))


def test_a_tokenizer_comes_back(tokenizer_folder):
    weights = load_weights(tokenizer_folder)
    assert weights.network is None
    assert (weights.classes, weights.sampling) == ([], SamplingConfig())
    assert same(weights.tokenizer, tiny.tokenizer().state_dict())
    assert load_tokenizer(tokenizer_folder).name == "taming-f2"
    asked = TokenizerConfig(weights=str(tokenizer_folder))
    assert open_tokenizer(asked).fingerprint == tiny.tokenizer().fingerprint


def test_a_bare_file_of_a_codebook_in_parts(tmp_path):
    network = tiny.network(codebook_size=16, low_bits=2).float()
    save_file(network.state_dict(), tmp_path / "a.safetensors")
    assert same(load_network(tmp_path / "a.safetensors", network.config), network.state_dict())


def test_the_network_alone(folder, network, average):
    assert same(load_network(folder), average)
    assert same(load_network(folder, ema=False), network.state_dict())
    file = folder / "network.safetensors"
    assert same(load_network(file, network.config), network.state_dict())
    (folder / "tokenizer.safetensors").unlink()
    assert same(load_network(folder), average)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_wrapped_names(folder, network, prefix):
    file = folder / "network.safetensors"
    save_file({prefix + name: tensor for name, tensor in load_file(file).items()}, file)
    assert same(load_network(folder, ema=False), network.state_dict())


def test_saving_again_replaces_everything(folder, tokenizer_folder):
    (folder / "left-over").write_text("")
    (folder.parent / "weights.tmp").mkdir()
    (folder.parent / "weights.tmp" / "torn").write_text("")
    save_weights(folder, tiny.tokenizer())
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["config.json", "tokenizer.safetensors"]
    assert sorted(path.name for path in folder.parent.iterdir()) == ["tokenizer", "weights"]


def test_a_kill_while_saving_leaves_the_old_weights(folder, monkeypatch):
    """Where the system cannot exchange two names at once, as Linux can."""
    monkeypatch.setattr("MaskGIL.weights.exchange", lambda *_: False)
    before = (folder / "tokenizer.safetensors").read_bytes()
    replace = os.replace

    def killed(source, target):
        if Path(target) == folder:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    for _ in range(2):  # the second finds what the first has left
        with pytest.raises(KeyboardInterrupt):
            save_weights(folder, tiny.fill(tiny.tokenizer(), seed=1))
        kept = folder.with_name("weights.old") / "tokenizer.safetensors"
        assert kept.read_bytes() == before
    monkeypatch.setattr(os, "replace", replace)
    save_weights(folder, tiny.tokenizer())
    assert not folder.with_name("weights.old").exists()
    assert (folder / "config.json").is_file()


def test_the_files_are_for_others_too(folder):
    names = {path.name for path in folder.iterdir()}
    files = {"network.safetensors", "network-ema.safetensors", "tokenizer.safetensors"}
    assert names == files | {"config.json"}
    config = json.loads((folder / "config.json").read_bytes().decode("utf-8"))
    assert config["classes"] == CLASSES
    assert config["tokenizer"]["fingerprint"] == tiny.tokenizer().fingerprint


def test_a_name_alone_is_fetched_and_opened(tmp_path, monkeypatch, capsys):
    torch.save(tiny.tokenizer().state_dict(), tmp_path / "theirs.pt")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "*")
    with hub() as server:
        url = server.serve("/a.pt", (tmp_path / "theirs.pt").read_bytes())
        monkeypatch.setitem(PUBLIC, "tiny", PublicFile("us/tiny", "a.pt", "MIT", url))
        monkeypatch.setitem(NAMED, "tiny", tiny.tokenizer_config())
        opened = [open_tokenizer(TokenizerConfig(name="tiny")) for _ in range(2)]
        assert len(server.requests) == 1
    assert capsys.readouterr().out.count("fetching   tiny: us/tiny a.pt, ") == 1
    for tokenizer in opened:
        assert same(tokenizer, tiny.tokenizer().state_dict())
        assert tokenizer.name == "tiny"
        assert not tokenizer.training
    named = TokenizerConfig(name="tiny", weights=str(tmp_path / "theirs.pt"))
    assert same(open_tokenizer(named), tiny.tokenizer().state_dict())


# Sentences


def test_another_tokenizer_is_refused(folder):
    save_file(tiny.fill(tiny.tokenizer(), seed=1).state_dict(), folder / "tokenizer.safetensors")
    refused(r"tokenizer.safetensors is not the file that config.json describes; write or download ",
            load_weights, folder)  # fmt: skip


def test_another_architecture_is_named_in_five_parts(folder):
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["network"]["width"] = 64
    (folder / "config.json").write_text(json.dumps(config))
    refused(
        r"^The weights in .*network-ema.safetensors do not fit this architecture: "
        r"token_embedding.weight is 12x32, not 12x64;( [\w.]+ is \d+(x\d+)*, not \d+(x\d+)*;){3}"
        r" [\w.]+ is \d+(x\d+)*, not \d+(x\d+)* and \d+ more\.$",
        load_network, folder,
    )  # fmt: skip


@pytest.mark.parametrize(
    "name", ["network.safetensors", "network-ema.safetensors", "tokenizer.safetensors"]
)
@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            lambda data: b"version https://git-lfs.github.com/spec/v1\n",
            "a Git LFS pointer of 43 by",
        ),
        (lambda data: b"<!doctype html>", "a web page, not weights"),
        (lambda data: b"", "empty; copy or download it again"),
        (lambda data: data[: len(data) // 2], r"not a whole safetensors file \("),
        (None, "^No such weights file"),
    ],
)
def test_a_damaged_file(folder, name, damage, sentence):
    if damage:
        (folder / name).write_bytes(damage((folder / name).read_bytes()))
    else:
        (folder / name).unlink()
    refused(sentence, lambda: load_weights(folder, ema="ema" in name))
    refused(name, lambda: load_weights(folder, ema="ema" in name))


def test_a_missing_folder_names_its_neighbours(folder, tokenizer_folder):
    missing = folder.parent / "wieghts"
    refused(rf"^No such weights folder: {missing}\. {folder.parent} holds: tokenizer, weights\.$",
            load_weights, missing)  # fmt: skip
    nowhere = folder / "a" / "b"
    refused(rf"^No such weights folder: {nowhere}\. Train it first\.$", load_weights, nowhere)
    refused(r"^No such weights folder: some/one\. Train it first, or fetch it from the hub: "
            r"hf download some/one --local-dir some/one$", load_weights, "some/one")  # fmt: skip


def test_a_file_in_the_place_of_a_folder(folder):
    file = folder / "tokenizer.safetensors"
    refused(rf"^{file} is a file; give the weights folder that it lies in, ", load_weights, file)
    refused(rf"^tokenizer\.weights={file} is a file, which does not say what it is; name the "
            r"weights folder that it lies in, or give tokenizer\.name=NAME beside it\.$",
            open_tokenizer, TokenizerConfig(weights=str(file)))  # fmt: skip


def test_a_tokenizer_that_is_not_there_is_told_with_a_public_one(tmp_path):
    nowhere = tmp_path / "none" / "weights"
    refused(rf"^No such weights folder: {nowhere}\. Train it first\. A public one: tokenizer\.name="
            r"llamagen-vq16 tokenizer\.weights=$",
            open_tokenizer, TokenizerConfig(weights=str(nowhere)))  # fmt: skip
    refused(rf"^No such file: tokenizer\.weights={nowhere}; leave it empty, tokenizer\.weights=, "
            r"and that of llamagen-vq16's authors is fetched\.$", open_tokenizer,
            TokenizerConfig(name="llamagen-vq16", weights=str(nowhere)))  # fmt: skip


def test_what_a_kill_has_left_is_named(folder):
    kept = folder.rename(folder.with_name("weights.old"))
    refused(rf"^No such weights folder: {folder}\. A save was cut short and left {kept}: "
            r"rename it to weights\.$", load_weights, folder)  # fmt: skip


def test_the_folder_above_is_meant(folder):
    refused(rf"{folder.parent} is no weights folder: .* Did you mean {folder}\?$",
            load_weights, folder.parent)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", r"config.json is damaged \(.*\); write the weights again\.$"),
        ('{"format": 2}', r"config.json has format 2, this version reads 1; take the version of"),
        ("{}", r"is no weights folder of ours: its config.json is of another program; python -m"),
        ("[]", r"is no weights folder of ours: its config.json is of another program; python -m"),
    ],
)
def test_a_config_that_is_none(folder, text, sentence):
    (folder / "config.json").write_text(text)
    refused(sentence, load_weights, folder)


@pytest.mark.parametrize("key", ["tokenizer", "classes", "sampling"])
def test_a_config_that_lacks_a_part(folder, key):
    config = json.loads((folder / "config.json").read_text("utf-8"))
    del config[key]
    (folder / "config.json").write_text(json.dumps(config))
    refused(rf"config.json is damaged \(no '{key}'\); write the weights again\.$",
            load_weights, folder)  # fmt: skip


def test_an_unknown_key_of_a_later_version(folder):
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["network"]["wdith"] = 32
    (folder / "config.json").write_text(json.dumps(config))
    refused(r"^Unknown key 'wdith' in config.json. Did you mean 'width'\?$", load_network, folder)


def test_a_tokenizer_is_no_generator(tokenizer_folder):
    refused("holds a tokenizer, no generator; give weights=RUN/weights", load_network,
            tokenizer_folder)  # fmt: skip


def test_a_bare_file_needs_its_config(folder):
    refused("is a bare file; give its folder, with config.json beside it", load_network,
            folder / "network.safetensors")  # fmt: skip


def test_a_run_without_a_tokenizer():
    refused("^tokenizer.weights is empty; name the weights folder", open_tokenizer,
            TokenizerConfig())  # fmt: skip
