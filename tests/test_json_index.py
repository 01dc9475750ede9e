import json

import pytest

from MaskGIL.json_index import damaged, is_complete, misfit, read_json_index
from Network.config import UserError


def test_an_index_is_read(tmp_path):
    (tmp_path / "index.json").write_text('{"version": 3, "rows": 5}')
    assert read_json_index(tmp_path, 3, "token cache") == {"version": 3, "rows": 5}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "No token cache in HERE: index.json is missing; write the cache first."),
        ('{"version": 2}', "HERE/index.json has version 2, not 3; delete the folder HERE and run"),
        ("[3]", "HERE/index.json has version None, not 3; delete the folder HERE and run"),
        ('{"version"', "HERE/index.json is not JSON (Expecting ':' delimiter"),
        ("[" * 100_000, "HERE/index.json is not JSON (maximum recursion depth"),
    ],
)
def test_an_index_that_cannot_be_used_is_told(tmp_path, text, sentence):
    if text is not None:
        (tmp_path / "index.json").write_text(text)
    with pytest.raises(UserError) as error:
        read_json_index(tmp_path, 3, "token cache")
    assert str(error.value).startswith(sentence.replace("HERE", str(tmp_path)))


def test_a_damaged_key_is_told_with_the_remedy(tmp_path):
    assert str(damaged(tmp_path, "parts.0.rows")) == (
        f"{tmp_path}/index.json is damaged at parts.0.rows; delete the folder {tmp_path} and run "
        "the command that wrote it again."
    )


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ({"rows": 5, "parts": [{"file": "a"}]}, ""),
        ({"rows": "5", "parts": [{"file": "a"}]}, "rows"),
        ({"rows": True, "parts": [{"file": "a"}]}, "rows"),
        ({"rows": 5, "parts": []}, "parts"),
        ({"rows": 5, "parts": [{}]}, "parts.0.file"),
        ({"rows": 5, "parts": "a"}, "parts"),
        (5, ""),
    ],
)
def test_the_first_misfit_is_named(value, key):
    found = misfit(value, {"rows": int, "parts": [{"file": str}]}, "")
    assert found == key


def test_a_cache_is_complete_when_its_index_says_so(tmp_path):
    def read(folder):
        return json.loads((folder / "index.json").read_text())

    assert not is_complete(tmp_path, read)
    for complete in (False, True):
        (tmp_path / "index.json").write_text(json.dumps({"complete": complete}))
        assert is_complete(tmp_path, read) == complete
