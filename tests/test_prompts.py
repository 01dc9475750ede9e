import json

import pytest

from MaskGIL.prompts import Prompt, read_prompts
from Network.config import UserError

# The first lines of GenEval's evaluation_metadata.jsonl, and an entry as MJHQ-30K's meta_data.json
GENEVAL = [
    {
        "tag": "single_object",
        "include": [{"class": "bench", "count": 1}],
        "prompt": "a photo of a bench",
    },
    {
        "tag": "two_object",
        "include": [{"class": "bench", "count": 1}, {"class": "cow", "count": 1}],
        "prompt": "a photo of a bench and a cow",
    },
]
MJHQ = {
    "09baa6c9b2c1b6a8b9b2c1b6a8b9b2c1b6a8b9b2": {"category": "fashion", "prompt": "a silk\ndress"},
    "00aa": {"category": "animals", "prompt": "a fox  in snow"},
}


def written(folder, name, text):
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def test_plain_lines(tmp_path):
    path = written(tmp_path, "prompts.txt", "\ufeffa cat\r\n\n  two   dogs \nété\n")
    expected = [Prompt("00000", "a cat"), Prompt("00001", "two dogs"), Prompt("00002", "été")]
    assert read_prompts(path) == expected
    assert read_prompts(str(path)) == expected


def test_geneval(tmp_path):
    text = "\n".join(map(json.dumps, GENEVAL)) + "\n"
    assert read_prompts(written(tmp_path, "evaluation_metadata.jsonl", text)) == [
        Prompt("00000", "a photo of a bench", entry=json.dumps(GENEVAL[0])),
        Prompt("00001", "a photo of a bench and a cow", entry=json.dumps(GENEVAL[1])),
    ]


def test_mjhq(tmp_path):
    assert read_prompts(written(tmp_path, "meta_data.json", json.dumps(MJHQ))) == [
        Prompt("09baa6c9b2c1b6a8b9b2c1b6a8b9b2c1b6a8b9b2", "a silk dress", "fashion"),
        Prompt("00aa", "a fox in snow", "animals"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.txt", " \n\n", "holds no prompt; write one on each line"),
        ("a.json", "{}", "holds no prompt"),
        ("a.json", "[]", "is no JSON of prompts by id, as MJHQ-30K's is"),
        ("a.json", "[" * 50_000, r"is not JSON \(.*\); mend it"),
        ("a.json", '{"x": "a fox"}', ", x has no text under 'prompt'"),
        ("a.json", '{"x": {"prompt": "", "category": "b"}}', "is empty; write or remove it"),
        (
            "a.json",
            '{"../x": {"prompt": "a", "category": "b"}}',
            "has the id '../x', which cannot name a file",
        ),
        (
            "a.json",
            '{"..": {"prompt": "a", "category": "b"}}',
            "has the id '..', which cannot name a file",
        ),
        (
            "a.json",
            '{"": {"prompt": "a", "category": "b"}}',
            "has the id '', which cannot name a file",
        ),
        ("a.json", '{"x": {"prompt": "a"}}', ", x has no text under 'category'"),
        ("a.json", '{"x": {"prompt": "a", "category": "/b"}}', "has the category '/b', which can"),
        ("a.jsonl", '{"prompt": "a"}\n\n{"prompt": "b"}', r", line 2 is not JSON \(.*\)"),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": 3}', ", line 2 has no text under 'prompt'"),
        ("a.jsonl", '{"prompt": "a"}\n[1]', ", line 2 has no text under 'prompt'"),
        ("a.jsonl", "", ", line 1 is not JSON"),
    ],
)
def test_mistakes_are_named(tmp_path, name, text, sentence):
    path = written(tmp_path, name, text)
    with pytest.raises(UserError, match=rf"{path}.*{sentence}"):
        read_prompts(path)


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(UserError, match=rf"^No such file of prompts: {tmp_path}/a.txt\.$"):
        read_prompts(tmp_path / "a.txt")
    path = tmp_path / "b.txt"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=rf"^{path} is not text in UTF-8 \(.*\); save it as such"):
        read_prompts(path)


def test_no_id_comes_twice(tmp_path):
    path = written(tmp_path, "a.json", '{"x": {"prompt": "a"}, "x": {"prompt": "b"}}')
    with pytest.raises(UserError, match=rf"^{path} is not JSON \('x' is there twice\); mend it"):
        read_prompts(path)
