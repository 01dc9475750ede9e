import dataclasses
import json
import math
import random
from dataclasses import dataclass
from typing import Literal

import pytest

from MaskGIL.config import (
    DataConfig,
    MaskingConfig,
    changed_keys,
    from_dict,
    identity,
    leaves,
    load_config,
    sections,
    to_dict,
    to_yaml,
)
from MaskGIL.sampling import SamplingConfig
from Network.config import NetworkConfig, UserError, setting
from Trainer.config import RunConfig


@dataclass(frozen=True)
class Optim:
    lr: float = setting(1e-3, "step size")
    betas: tuple[float, float] = setting((0.9, 0.96), "decay of the moments")
    clip: float = setting(math.inf, "largest norm of a gradient")


@dataclass(frozen=True)
class Logging:
    every: int = setting(50, "steps between lines")
    tags: list[str] = dataclasses.field(default_factory=list, metadata={"help": "names"})


@dataclass(frozen=True)
class Run:
    out_dir: str = setting("", "folder of the run", free=True)
    steps: int = setting(100, "number of steps", free=True)
    ema: bool = setting(True, "average the weights")
    parts: Literal[1, 2, 4] = setting(1, "number of parts")
    limit: int | None = setting(None, "most images, or all of them")
    classes: tuple[str, ...] = setting((), "names of the classes")
    kinds: tuple[Literal["mar", "ar"], ...] = setting(("mar",), "what to compare")
    optim: Optim = setting(Optim(), "the optimiser")
    network: NetworkConfig = setting(NetworkConfig(size="B"), "the generator")
    data: DataConfig = setting(DataConfig(), "the images")
    logging: Logging = setting(Logging(), "what is written down", free=True)


def load(*overrides: str, path=None) -> Run:
    return load_config(Run, path, overrides)


def refused(*overrides: str, path=None) -> str:
    with pytest.raises(UserError) as error:
        load(*overrides, path=path)
    return str(error.value)


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "run.yaml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_defaults_are_the_schema_itself():
    assert load() == Run()
    assert load().network.size == "B"  # the section's own default, not its class's


def test_a_named_size_is_filled_in_wherever_it_is_given(write):
    def shape(*words, path=None):
        network = load_config(RunConfig, path, words).network
        return network.size, network.depth, network.width, network.heads

    assert shape() == ("", 6, 192, 6)
    assert shape("network.size=L") == ("L", 24, 1024, 16)
    assert shape(path=write("network:\n  size: B\n")) == ("B", 12, 768, 12)
    assert shape("network.size=XL", path=write("network:\n  size: B\n")) == ("XL", 36, 1280, 20)
    assert shape("network.size=B", "network.depth=12") == ("B", 12, 768, 12)
    assert shape("network.width=384") == ("", 6, 384, 6)
    written = write(to_yaml(load_config(RunConfig, None, ["network.size=B"])))
    assert shape(path=written) == ("B", 12, 768, 12)
    with pytest.raises(UserError, match="network.depth=3 network.width=0 network.heads=0 is asked"):
        shape("network.size=B", "network.depth=3")


def test_file_then_overrides_win(write):
    path = write("steps: 7\noptim:\n  lr: 1e-4\n  betas: [0.5, 0.6]\nnetwork.dropout: 0.3\ndata:\n")
    config = load("steps=9", "optim.lr=3", "optim.lr=2e-3", path=path)
    assert (config.steps, config.optim.lr, config.network.dropout) == (9, 2e-3, 0.3)
    assert config.optim.betas == (0.5, 0.6)
    assert config.data == DataConfig()  # `data:` with nothing below it


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optim.lr=1e-4", 1e-4),
        ("optim.clip=.inf", math.inf),
        ("optim.clip=-inf", -math.inf),
        ("optim.betas=0.9,1e-1", (0.9, 0.1)),
        ("ema=false", False),
        ("ema=True", True),
        ("parts=4", 4),
        ("limit=12", 12),
        ("limit=null", None),
        ("out_dir=", ""),
        ("out_dir=1e-4", "1e-4"),
        ("out_dir=true", "true"),
        ("out_dir=007", "007"),
        ("out_dir=a,b", "a,b"),
        ("out_dir=/a b: c=d #e", "/a b: c=d #e"),
        ("classes=", ()),
        ("classes=[]", ()),
        ("classes=a", ("a",)),
        ("classes=a,", ("a",)),
        ("classes=a, b", ("a", "b")),
        ("classes=['a', \"b\"]", ("a", "b")),
        ("classes=207,goldfish", ("207", "goldfish")),
        ("kinds=ar,mar", ("ar", "mar")),
        ("network.grid=8,12", (8, 12)),
        ("network.grid=[8,12]", (8, 12)),
        ("logging.tags=x,y", ["x", "y"]),
    ],
)
def test_a_value_is_read_as_its_type_asks(override, expected, write):
    key, _, text = override.partition("=")
    value = load(override)
    for name in key.split("."):
        value = getattr(value, name)
    assert value == expected
    assert type(value) is type(expected)
    quoted = text.replace("'", "''")
    if text != "null":
        assert load(path=write(f"{key}: '{quoted}'")) == load(override)  # one language everywhere


def test_numbers_and_words_of_a_file(write):
    text = "optim: {lr: 1e-4, clip: 1.0e-05}\nout_dir: 1e-4\nlimit: 12\nclasses: [no, 0123, 1e3]\n"
    config = load(path=write(text))
    assert (config.optim.lr, config.optim.clip, config.limit) == (1e-4, 1e-5, 12)
    assert config.out_dir == "1e-4"
    assert config.classes == ("no", "0123", "1e3")  # not false, 83 and 1000
    assert load(path=write("limit: null")).limit is None
    assert load(path=write("out_dir:\nclasses: a,b\n")).classes == ("a", "b")
    assert load(path=write("out_dir: 'null'")).out_dir == "null"
    assert load(path=write("# only a comment\n")) == Run()


def test_the_result_is_frozen():
    config = load()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.steps = 3  # pyright: ignore
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.network.depth = 3  # pyright: ignore
    assert type(config) is Run
    assert type(config.network) is NetworkConfig


def test_base_files(write):
    write("steps: 1\nlimit: 1\noptim: {lr: 1}\nclasses: [a, b]\n", "first.yaml")
    write("base: first.yaml\nlimit: 2\noptim: {clip: 2}\n", "second.yaml")
    path = write("base: ../second.yaml\nlimit: 3\nclasses: [c]\n", "deep/third.yaml")
    config = load("optim.lr=5", path=path)
    assert (config.steps, config.limit, config.classes) == (1, 3, ("c",))
    assert (config.optim.lr, config.optim.clip) == (5, 2)
    write("stepz: 3\n", "second.yaml")
    assert f"in {path.parent / '../second.yaml'}." in refused(path=path)  # where the key stands


def test_arbitrary_text_never_raises_anything_else(write):
    generator = random.Random(0)
    keys = [leaf.key for leaf in leaves(Run)] + ["optim", "zebra", ""]
    alphabet = ["[", "]", "{", "}", ":", ",", "'", '"', "-", "1", "e", ".", "$", "?", "~", " ", "#"]
    outcomes = []
    for _ in range(100):
        text = "".join(generator.choices(alphabet, k=generator.randrange(6)))
        key = generator.choice(keys)
        path = write(f"{key}: {text}\n") if generator.random() < 0.5 else None
        try:
            config = load(*([] if path else [f"{key}={text}"]), path=path)
            assert load(path=write(to_yaml(config))) == config
            outcomes.append("read")
        except UserError as error:
            outcomes.append(str(error))
    assert set(outcomes) > {"read"}
    assert not [sentence for sentence in outcomes if "\n" in sentence]


@pytest.mark.parametrize(
    "text", ["", "null", "~", "1e-4", "yes", "a: b", "- a", "#", "é😀\n\t", "x " * 99]
)
def test_yaml_round_trip(text, write):
    config = dataclasses.replace(
        load("optim.lr=1e-7", "network.grid=3,4", "limit=5", "logging.tags=q"),
        out_dir=text,
        classes=(text, "a,b", "[c]"),
    )
    assert load(path=write(to_yaml(config))) == config


def test_yaml_keeps_the_order_of_the_fields():
    names = [line.partition(":")[0] for line in to_yaml(Run()).splitlines()]
    top = [name for name in names if name[:1] not in (" ", "-")]
    assert top == [field.name for field in dataclasses.fields(Run)]


def test_dict_round_trip_through_json():
    config = load("network.grid=3,4", "limit=5", "classes=a,b", "optim.lr=3")
    plain = to_dict(config)
    assert plain["network"]["grid"] == [3, 4]
    assert from_dict(Run, json.loads(json.dumps(plain))) == config
    assert from_dict(Run, {}) == Run()  # a key that an earlier version did not know


def test_identity_holds_exactly_the_keys_that_are_not_free():
    keys = identity(load("network.dropout=0.5"))
    assert keys["network.dropout"] == 0.5
    assert keys["optim.betas"] == [0.9, 0.96]
    assert {"optim.lr", "data.source", "ema"} <= keys.keys()
    absent = {"out_dir", "steps", "data.path", "data.workers", "logging.every", "logging.tags"}
    assert not absent & keys.keys()
    assert absent | keys.keys() >= {leaf.key for leaf in leaves(Run)} - {
        "data.cache",
        "data.max_bad",
        "data.timeout",
    }


def test_changed_keys_name_both_values():
    old = json.loads(json.dumps(identity(Run())))
    assert changed_keys(old, identity(load("steps=3", "data.path=/x", "logging.every=1"))) == []
    new = identity(load("optim.lr=2", "network.grid=3,4"))
    assert changed_keys(old, new) == [("optim.lr", 1e-3, 2.0), ("network.grid", [16, 16], [3, 4])]
    assert changed_keys({"a": 1}, {"b": 2}) == [("b", None, 2), ("a", 1, None)]


def test_leaves_and_sections_cover_the_schema():
    by_key = {leaf.key: leaf for leaf in leaves(Run)}
    assert by_key["optim.lr"][1:5] == (float, 1e-3, "step size", False)
    assert by_key["logging.every"].free  # its section is
    assert by_key["network.size"].default == "B"
    assert [section.key for section in sections(Run)] == ["optim", "network", "data", "logging"]
    assert not by_key.keys() & {section.key for section in sections(Run)}
    assert next(sections(Run)).help == "the optimiser"


def test_a_section_without_a_sentence_has_the_one_of_its_dataclass():
    @dataclass(frozen=True)
    class Floor:
        data: DataConfig = dataclasses.field(default_factory=DataConfig)

    assert DataConfig.__doc__ == f"{next(sections(Floor)).help}."


@pytest.mark.parametrize("schema", [DataConfig, MaskingConfig, SamplingConfig])
def test_every_setting_has_a_sentence(schema):
    for leaf in leaves(schema):
        assert len(leaf.help) > 15, leaf.key
        assert not leaf.help.endswith("."), leaf.key
