"""What a user reads when a configuration is wrong: one sentence with key, value and remedy."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest
from test_config import Run

from MaskGIL.config import DataConfig, MaskingConfig, from_dict, leaves, load_config
from MaskGIL.sampling import SamplingConfig
from Network.config import NetworkConfig, TokenizerConfig, UserError, setting


def refused(*overrides: str, path=None) -> str:
    with pytest.raises(UserError) as error:
        load_config(Run, path, overrides)
    return str(error.value)


@pytest.fixture
def write(tmp_path):
    def write(text: str):
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("optim.lrr", "optim.lr"),
        ("lr", "optim.lr"),
        ("optm.lr", "optim.lr"),
        ("dept", "network.depth"),
        ("out_dri", "out_dir"),
        ("dta", "data"),
        ("image_size", "data.image_size"),
    ],
)
def test_an_unknown_key_brings_the_one_that_was_meant(key, meant, write):
    path = write(f"steps: 3\n{key}: 3\n")
    assert refused(path=path) == f"Unknown key '{key}' in {path}. Did you mean '{meant}'?"
    assert refused(f"{key}=3") == (
        f"Unknown key '{key}' on the command line. Did you mean '{meant}'?"
    )


def test_an_unknown_key_without_a_likely_meaning_brings_its_neighbours():
    assert refused("logging.zebra=3") == (
        "Unknown key 'logging.zebra' on the command line. Known there: logging.every, logging.tags."
    )
    names = ", ".join(field.name for field in dataclasses.fields(Run))
    assert refused("zebra=3") == f"Unknown key 'zebra' on the command line. Known there: {names}."


def test_a_key_below_a_value_is_unknown(write):
    path = write("optim: {lr: {fast: 1}}")
    known = "optim.lr, optim.betas, optim.clip"
    assert refused(path=path) == f"Unknown key 'optim.lr.fast' in {path}. Known there: {known}."


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("steps=many", "steps takes a whole number, not 'many' on the command line."),
        ("steps=1.5", "steps takes a whole number, not '1.5' on the command line."),
        ("steps=true", "steps takes a whole number, not 'true' on the command line."),
        ("steps=", "steps takes a whole number, not '' on the command line."),
        ("steps=null", "steps takes a whole number, not null on the command line."),
        ("out_dir=null", "out_dir takes text, not null on the command line."),
        ("ema=2", "ema takes true or false, not '2' on the command line."),
        ("ema=yes", "ema takes true or false, not 'yes' on the command line."),
        ("optim.lr=fast", "optim.lr takes a number, not 'fast' on the command line."),
        ("optim.lr=nan", "optim.lr takes a number, not 'nan' on the command line."),
        ("limit=x", "limit takes a whole number or null, not 'x' on the command line."),
        ("parts=3", "parts takes one of 1, 2, 4, not '3' on the command line."),
        (
            "network.grid=8",
            "network.grid takes a list of 2 values (a,b), each a whole number, not '8' "
            "on the command line.",
        ),
        (
            "kinds=ar,marr",
            "kinds takes a list of values (a,b), each one of mar, ar, not 'ar,marr' "
            "on the command line. Did you mean 'mar'?",
        ),
        (
            "data.crops=tenn",
            "data.crops takes one of center, flip, ten, not 'tenn' on the command line. "
            "Did you mean 'ten'?",
        ),
        ("optim=3", "optim is a section: its keys (optim.KEY) take values on the command line."),
        ("steps", "'steps' has no value: write KEY=VALUE."),
        (
            "out_dir=${HOME}/x",
            "out_dir holds '${HOME}/x' on the command line: write a plain value.",
        ),
        ("classes=a,???", "classes holds 'a,???' on the command line: write a plain value."),
        ("out_dir=???", "out_dir holds '???' on the command line: write a plain value."),
    ],
)
def test_wrong_values(override, sentence, write):
    assert refused(override) == sentence
    key, equals, value = override.partition("=")
    if equals:
        path = write(f"{key}: {value}" if value in ("", "null") else f"{key}: '{value}'")
        assert refused(path=path) == sentence.replace("on the command line", f"in {path}")


def test_every_type_of_leaf_refuses_a_bad_value_in_one_sentence():
    bad = {bool: "maybe", int: "1.5", float: "fast", str: "null"}
    any_words = (tuple[str, ...], list[str])
    for leaf in leaves(Run):
        value = "null" if leaf.type in any_words else bad.get(leaf.type, "no such thing")
        sentence = refused(f"{leaf.key}={value}")
        assert sentence.startswith(f"{leaf.key} takes ")
        assert "\n" not in sentence


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"stepz": 1}, "Unknown key 'stepz' in config.json. Did you mean 'steps'?"),
        ({"steps": "12"}, "steps takes a whole number, not '12' in config.json."),
        ({"steps": 1.5}, "steps takes a whole number, not 1.5 in config.json."),
        ({"steps": None}, "steps takes a whole number, not null in config.json."),
        ({"out_dir": 3}, "out_dir takes text, not 3 in config.json."),
        ({"ema": "true"}, "ema takes true or false, not 'true' in config.json."),
        ({"optim": {"lr": [1]}}, "optim.lr takes a number, not [1] in config.json."),
        ({"optim": None}, "optim is a section: its keys (optim.KEY) take values in config.json."),
        (
            {"classes": [{"a": 1}]},
            "classes takes a list of values (a,b), each text, not [{'a': 1}] in config.json.",
        ),
        (
            {"network": {"norm": "poost"}},
            "network.norm takes one of pre, post, sandwich, not 'poost' in config.json. "
            "Did you mean 'post'?",
        ),
        (["steps"], "config.json must hold keys with values, not ['steps']."),
    ],
)
def test_from_dict_is_strict(values: Any, sentence):
    with pytest.raises(UserError) as error:
        from_dict(Run, values)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("data.image_size=0", "data.image_size must be at least 1, not 0."),
        ("data.num_images=0", "data.num_images must be at least 1, not 0."),
        ("data.balance=1.5", "data.balance must lie in [0, 1], not 1.5."),
        ("data.workers=-1", "data.workers must be at least 0, not -1."),
        ("data.max_bad=-0.1", "data.max_bad must lie in [0, 1], not -0.1."),
        ("masking.label_smoothing=2", "masking.label_smoothing must lie in [0, 1], not 2.0."),
        ("masking.class_drop=-1", "masking.class_drop must lie in [0, 1], not -1.0."),
        ("masking.visible_weight=-1", "masking.visible_weight must be at least 0, not -1.0."),
        ("sampling.num_steps=0", "sampling.num_steps must be at least 1, not 0."),
        ("sampling.noise=-1", "sampling.noise must be at least 0, not -1.0."),
        ("sampling.guidance_scale=-1", "sampling.guidance_scale must be at least 0, not -1.0."),
        ("sampling.temperature=-1", "sampling.temperature must be at least 0, not -1.0."),
        ("sampling.guidance_scale=inf", "sampling.guidance_scale must be at least 0, not inf."),
        ("sampling.top_k=-1", "sampling.top_k must be at least 0, not -1."),
    ],
)
def test_ranges(override, sentence):
    @dataclass(frozen=True)
    class Floor:
        data: DataConfig = setting(DataConfig(), "")
        masking: MaskingConfig = setting(MaskingConfig(), "")
        sampling: SamplingConfig = setting(SamplingConfig(), "")

    with pytest.raises(UserError) as error:
        load_config(Floor, None, [override])
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("schema", "changes", "sentence"),
    [
        (NetworkConfig, {"heads": -1}, "network.heads must be at least 1, not -1."),
        (NetworkConfig, {"depth": -3}, "network.depth must be at least 1, not -3."),
        (NetworkConfig, {"dropout": 1.5}, "network.dropout must lie in [0, 1), not 1.5."),
        (
            NetworkConfig,
            {"grid": (0, 8)},
            "network.num_classes=1000 must not be negative, and network.grid=0,8 needs at "
            "least 1,1.",
        ),
        (TokenizerConfig, {"groups": 0}, "tokenizer.groups must be at least 1, not 0."),
        (
            TokenizerConfig,
            {"width": 16, "multipliers": (1, 2), "attention_levels": ()},
            "tokenizer.groups=32 does not divide the channels of every level, 16, 32; "
            "use a divisor of 16.",
        ),
        (
            TokenizerConfig,
            {"multipliers": ()},
            "tokenizer.multipliers needs a number above 0 for each level.",
        ),
        (
            TokenizerConfig,
            {"attention_levels": (5,)},
            "tokenizer.attention_levels=5 names a level outside 0 to 4; write "
            "tokenizer.attention_levels= for none.",
        ),
    ],
)
def test_sizes_of_networks_are_checked(schema, changes, sentence):
    with pytest.raises(UserError) as error:
        schema(**changes)
    assert str(error.value) == sentence
