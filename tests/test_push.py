"""Weights and their card arrive on a hub, and come back from there as they were."""

import json

import pytest
from fake_upload import LARGE, upload_hub
from huggingface_hub import constants
from tiny_text import save_encoder, save_text_weights
from tiny_weights import save_tiny_weights

from MaskGIL.__main__ import main
from MaskGIL.model_card import model_card
from MaskGIL.pipeline import Pipeline
from MaskGIL.weights import load_network, load_weights
from Network.files import fingerprint


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_tiny_weights(tmp_path_factory.mktemp("run") / "weights")


@pytest.fixture
def hub(monkeypatch):
    with upload_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "secret")
        yield hub


@pytest.fixture
def push(hub, capsys):
    def push(*words):
        code = main(["push", *map(str, words)])
        return code, *capsys.readouterr()

    return push


def test_all_of_it_arrives(push, hub, weights, tmp_path):
    code, out, _ = push(weights, "me/tiny", "licence=mit")
    assert code == 0
    files = hub.repositories["me/tiny"]
    there = {file.name for file in weights.iterdir()}
    assert files.keys() == {*there, "README.md"}
    assert all(files[name] == (weights / name).read_bytes() for name in there)
    assert any(len(data) >= LARGE for data in files.values())  # both ways were gone
    assert files["README.md"].decode() == model_card(weights, "me/tiny", "mit")
    assert hub.private == {"me/tiny"}
    assert hub.tokens == {"Bearer secret"}
    assert f"wrote      {hub.url}/me/tiny/commit/1\n" in out
    assert "secret" not in out
    back = tmp_path / "back"
    back.mkdir()
    for name, data in files.items():
        (back / name).write_bytes(data)
    first, second = (Pipeline.from_pretrained(folder, "cpu") for folder in (weights, back))
    assert (first(3).tokens == second(3).tokens).all()


def test_again_and_in_public_with_a_card_of_ones_own(push, hub, weights, tmp_path):
    (tmp_path / "card.md").write_text("# Mine\n")
    words = (weights, "me/tiny", "private=false", f"card={tmp_path / 'card.md'}")
    assert push(*words)[0] == 0
    code, _, err = push(*words)
    assert code == 2
    assert err.startswith("error: me/tiny holds README.md, config.json, network-ema.safetensors, ")
    assert err.endswith(" already; overwrite=true replaces them.\n")
    assert push(*words, "overwrite=true")[0] == 0
    code, _, err = push(weights, "me/tiny", "overwrite=true")
    assert code == 2
    assert err.startswith("error: me/tiny is there already, and public; private=false says that")
    assert hub.repositories["me/tiny"]["README.md"] == b"# Mine\n"
    assert hub.private == set()


def test_what_is_incomplete_or_damaged_stays_here(push, hub, tmp_path):
    for number, name in enumerate(("network", "network-ema", "tokenizer")):
        folder = save_tiny_weights(tmp_path / str(number))
        file = folder / f"{name}.safetensors"
        file.write_bytes(file.read_bytes()[:-8])
        assert push(folder, "me/tiny")[0] == 2
        file.unlink()
        code, _, err = push(folder, "me/tiny")
        assert code == 2
        assert file.name in err
    assert hub.repositories == {}


def test_a_wrong_licence_is_a_sentence(push, hub, weights):
    hub.card_errors = ['"license" must be one of [apache-2.0, mit, ...]']
    code, _, err = push(weights, "me/tiny", "licence=mine")
    assert code == 2
    assert err.startswith(
        "error: The hub does not take the card: Invalid metadata in README.md. - "
    )
    assert "licence=mine must be one of its short names" in err
    assert "note       licence is empty" in push(weights, "me/tiny", "--dry-run")[1]


def test_a_card_of_ones_own_is_named_where_it_is_wrong(push, hub, weights, tmp_path):
    (tmp_path / "card.md").write_text("---\nlicense: mine\n---\n")
    hub.card_errors = ['"license" must be one of [apache-2.0, mit, ...]']
    code, _, err = push(weights, "me/tiny", f"card={tmp_path / 'card.md'}")
    assert code == 2
    assert err.endswith(f" mend card={tmp_path / 'card.md'}.\n")


def test_whoever_was_quicker_loses_nothing(push, hub, weights):
    assert push(weights, "me/tiny")[0] == 0
    before, hub.newest = dict(hub.repositories["me/tiny"]), "1" * 40
    code, _, err = push(weights, "me/tiny", "licence=mit", "overwrite=true")
    assert code == 1
    told = "error: The hub refuses me/tiny (412): it has changed in the meantime; push again.\n"
    assert err.endswith(told)
    assert hub.repositories["me/tiny"] == before


def test_another_page_than_the_hub_is_told(push, hub, weights):
    hub.is_another = True
    code, _, err = push(weights, "me/tiny")
    told = "error: What answers is not the hub; look at HF_ENDPOINT and the proxy.\n"
    assert (code, err) == (1, told)


def test_no_place_of_this_machine_is_published(push, hub, tmp_path):
    encoder = save_encoder(tmp_path / "encoder")
    folder = save_text_weights(tmp_path / "text", encoder)
    assert push(folder, "me/text", "licence=mit")[0] == 0
    files = hub.repositories["me/text"]
    assert str(tmp_path) in (folder / "config.json").read_text()
    assert not any(str(tmp_path).encode() in data for data in files.values())
    (folder / "config.json").write_bytes(files["config.json"])
    load_weights(folder)  # it is still what it was, but for that
    assert json.loads(files["config.json"])["text"]["encoder"] == "encoder"


@pytest.fixture(scope="module")
def record(weights):
    """As FID_sample.py writes one, in what a card tells."""
    return {
        "samples": {
            "num_images": 888,
            "seed": 3,
            "num_steps": 8,
            "ema": True,
            "network_sha256": fingerprint(load_network(weights).state_dict()),
        },
        "reference": {"name": "../there/emoji", "count": 1024},
        "fid": 5.25,
        "metrics": {"distance": 123.456, "accuracy": 0.5, "few": None, "table": {"share": 1}},
        "intervals": {"distance": {"low": 120.0, "high": 130.25}},
    }


def test_scores_of_these_weights_stand_in_the_card(push, hub, weights, record, tmp_path):
    file = tmp_path / "samples.json"
    file.write_text(json.dumps(record))
    assert push(weights, "me/tiny", f"scores={file}")[0] == 0
    card = hub.repositories["me/tiny"]["README.md"].decode()
    told = "888 samples by the averaged weights, seed 3, num_steps=8 against 1,024 images of emoji:"
    assert f"## Scores\n\n{told}\n\n" in card
    rows = "| FID | 5.25 |\n| distance | 123.5 (95 %: 120 to 130.2) |\n| accuracy | 0.5 |\n\n"
    assert rows in card
    file.write_text(
        json.dumps({**record, "samples": {**record["samples"], "network_sha256": "0" * 64}})
    )
    code, _, err = push(weights, "me/tiny", f"scores={file}", "overwrite=true")
    assert code == 2
    assert f"scores={file} is about other weights than {weights}; score these with FID_" in err
    two = {**record["samples"], "ar_network_sha256": "1" * 64}
    file.write_text(json.dumps({**record, "samples": two}))
    assert "is about other weights" in push(weights, "me/tiny", f"scores={file}")[2]
    file.write_text(json.dumps({**record, "samples": {"network_sha256": "0" * 64}}))
    assert "is no record of samples, which" in push(weights, "me/tiny", f"scores={file}")[2]
    file.write_text("[1]")
    assert "is no record of samples, which" in push(weights, "me/tiny", f"scores={file}")[2]
    assert "No such file: scores=none.json" in push(weights, "me/tiny", "scores=none.json")[2]


def test_a_dry_run_shows_the_card_and_sends_nothing(push, hub, weights):
    code, out, _ = push(weights, "me/tiny", "--dry-run")
    assert code == 0
    assert out.endswith(f"\n\n{model_card(weights, 'me/tiny')}")
    assert hub.tokens == set()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["HERE"], "weights or repository is empty: python -m MaskGIL push WEIGHTS OWNER/NAME."),
        (["HERE", "tiny"], "repository=tiny is no OWNER/NAME."),
        (["HERE", "../x"], "repository=../x is no OWNER/NAME."),
        (["HERE", "a/b/c"], "repository=a/b/c is no OWNER/NAME."),
        (["HERE/none", "me/tiny"], "No such weights folder: "),
        (["HERE", "me/tiny", "card=none.md"], "No such file: card=none.md; leave it out, and a "),
        (["HERE", "me/tiny", "card=a", "licence=mit"], "licence has no effect beside card; write"),
    ],
)
def test_mistakes(push, hub, weights, words, sentence):
    code, _, err = push(*(word.replace("HERE", str(weights)) for word in words))
    assert code == 2
    assert err.startswith(f"error: {sentence}")
    assert hub.repositories == {}


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (403, "The hub refuses me/tiny (403): your token may not write there; make one that may."),
        (401, "The hub refuses me/tiny (401): your token may not write there; make one that may."),
        (400, "The hub refuses me/tiny (400): Not here."),
    ],
)
def test_a_hub_that_refuses(push, hub, weights, status, sentence):
    hub.refuses = status
    code, _, err = push(weights, "me/tiny")
    assert (code, err) == (1, f"error: {sentence}\n")


def test_without_a_token_and_offline(push, weights, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert push(weights, "me/tiny")[2] == "error: HF_HUB_OFFLINE is set; unset it to push.\n"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert push(weights, "me/tiny")[2].startswith("error: The hub does not know you: hf auth login")


def test_a_hub_that_is_not_there(push, weights, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    code, _, err = push(weights, "me/tiny")
    assert code == 1
    assert err.startswith("error: The hub cannot be reached (")
