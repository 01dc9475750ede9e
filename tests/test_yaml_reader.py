from pathlib import Path

import pytest
import yaml

from MaskGIL.yaml_reader import read_settings
from Network.config import UserError


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        read_settings(path)
    return str(error.value)


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "a.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_keys_become_dotted_and_scalars_stay_text(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: 1e-4\nb:\n  c: [no, ~, [x]]\n  d.e: '~'\n  f: null\nempty:\nnone: {}\n")
    values = {"a": "1e-4", "b.c": ["no", None, ["x"]], "b.d.e": "~", "b.f": None, "empty": ""}
    assert read_settings(path) == {key: (value, path) for key, value in values.items()}


def test_text_equals_pyyaml_without_types(tmp_path):
    """PyYAML's BaseLoader also keeps scalars text: an independent reading of quotes and folds."""
    path = tmp_path / "a.yaml"
    path.write_text(
        "a: 'it''s'\nb: \"x\\ty\\u00e9\"\nc: |\n  two\n  lines\nd: >\n  folded\n  line\n"
        "e: plain\n  continued # comment\nf: [a, 'b, c', \"d\"]\ng: {h: 1, 'i j': [2]}\n"
    )
    flat = yaml.BaseLoader(path.read_text()).get_single_data()
    flat |= {f"g.{key}": value for key, value in flat.pop("g").items()}
    assert {key: value for key, (value, _) in read_settings(path).items()} == flat


def test_each_value_knows_its_file(tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("a: 1\nb: 1\n")
    second.write_text("base: first.yaml\nb: 2\n")
    assert read_settings(second) == {"a": ("1", first), "b": ("2", second)}


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_an_editors_byte_order_mark_is_no_key(tmp_path, mark):
    path = tmp_path / "a.yaml"
    path.write_text(f"{mark}a: é\r\n", encoding="utf-8")
    assert read_settings(path) == {"a": ("é", path)}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("steps: 1\nema: true\nsteps: 2\n", "line 3: the key 'steps' stands here for the second"),
        ("optim:\n  lr: 1\noptim:\n  clip: 1\n", "line 3: the key 'optim' stands here"),
        ("optim:\n  lr: 1\noptim.lr: 2\n", "line 3: the key 'optim.lr' stands here"),
        (
            "steps: 1\nout_dir: !!python/object/apply:os.system [touch X]\n",
            "line 2: the key 'out_dir' carries the tag '!!python/object/apply:os.system'",
        ),
        ("steps: !!int 3", "line 1: the key 'steps' carries the tag '!!int'; write a plain value"),
        ("optim: !mine {lr: 1}", "line 1: the key 'optim' carries the tag '!mine'"),
        ("classes: [a, !!str b]", "line 1: the key 'classes' carries the tag '!!str'"),
        ("!!python/object:x {}", "line 1: the text carries the tag '!!python/object:x'"),
        ("steps: &a 3\nlimit: *a\n", "line 1: the key 'steps' uses an anchor"),
        ("? [a, b]\n: 3\n", "line 1: a key must be a plain word"),
        ("classes: [{a: 1}]", "line 1: the list 'classes' holds keys"),
        ("- 1\n- 2\n", "line 1: a configuration consists of lines 'key: value'"),
        ("just words", "line 1: a configuration consists of lines 'key: value'"),
        ("steps: 1\n---\nsteps: 2\n", "line 2: a second document starts here"),
        (
            "classes: " + "[" * 20_000,
            "line 1: the key 'classes' is nested more than 16 levels deep",
        ),
        ("[" * 20_000, "line 1: a configuration consists of lines"),
        ("{a: " * 20_000, "is nested more than 16 levels deep"),
        ("? " * 20_000, "line 1: a key must be a plain word"),
        ("steps: 1\nclasses: [a\nema: true\n", "is not valid YAML: line 3, "),
        ("steps: 1\n\tema: true", "is not valid YAML: line 2, "),
        ("steps: \x07", "is not valid YAML: it holds a control character."),
    ],
)
def test_files_that_are_no_plain_yaml(text, reason, write, tmp_path):
    path = write(text)
    sentence = refused(path)
    assert sentence.startswith(str(path))
    assert reason in sentence
    assert "\n" not in sentence
    assert len(sentence) < len(str(path)) + 160
    assert not (tmp_path / "X").exists()


def test_files_that_cannot_be_read(write, tmp_path):
    write("", "base-b.yaml")
    sentence = refused(tmp_path / "base_b.yaml")
    assert sentence == f"No such file: {tmp_path / 'base_b.yaml'}. Did you mean 'base-b.yaml'?"
    sentence = refused(tmp_path / "zzz.yaml")
    assert sentence == f"No such file: {tmp_path / 'zzz.yaml'}. Its folder holds base-b.yaml."
    assert "nor is there a folder" in refused(tmp_path / "gone" / "b.yaml")
    assert "cannot be read: Is a directory" in refused(tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\x80\x02}q\x00")
    assert "is not a YAML file" in refused(binary)


def test_base_mistakes(write):
    write("base: b.yaml\n", "a.yaml")
    path = write("base: a.yaml\n", "b.yaml")
    assert "starts from itself through its key 'base'; leave that out." in refused(path)
    missing = write("base: gone.yaml\n")
    assert refused(missing).startswith(f"No such file: {missing.parent / 'gone.yaml'}.")
    assert "names one YAML file" in refused(write("base: [a.yaml]\n"))
