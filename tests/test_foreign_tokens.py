"""Layouts as extract_codes_c2i.py of LlamaGen (ce98ec41) and the sets of RAR have them."""

import io
import json
import os
import re

import numpy as np
import pytest

from MaskGIL import foreign_tokens
from MaskGIL.foreign_tokens import open_foreign_tokens
from Network.config import UserError

CODES, LABELS = "imagenet256_codes", "imagenet256_labels"


def random_tokens(rows, crops, num_tokens, codes=11):
    return np.random.default_rng(0).integers(codes, size=(rows, crops, num_tokens))


def write_folders(folder, tokens, labels, order=None):
    for name in (CODES, LABELS):
        (folder / name).mkdir(parents=True)
    for number, codes, label in zip(order or range(len(tokens)), tokens, labels):
        np.save(folder / CODES / f"{number}.npy", codes[None])
        np.save(folder / LABELS / f"{number}.npy", np.array([label]))
    return folder


def write_lines(file, tokens, labels):
    rows = [{"class_id": int(y), "tokens": codes[0].tolist()} for codes, y in zip(tokens, labels)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def opened(path):
    found = open_foreign_tokens(path)
    assert found is not None
    return found


def sentence(function, *arguments):
    with pytest.raises(UserError) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def complaint(path, codes=11, classes=5):
    """What is said about the rows of `path`."""
    return sentence(lambda: list(opened(path).rows(codes, classes)))


def test_folders_come_in_the_order_of_their_numbers(tmp_path):
    tokens = random_tokens(4, 2, 9)
    source = opened(write_folders(tmp_path / "a", tokens, [3, 1, 0, 2], order=[10, 9, 2, 100]))
    (tmp_path / "a" / CODES / ".DS_Store").write_text("")
    assert (source.format, source.num_rows, source.shape()) == ("llamagen", 4, (2, 3, 3))
    for _ in range(2):  # it can be read again
        rows = list(source.rows(11, 4))
        assert [row.label for row in rows] == [0, 1, 3, 2]
        for row, expected in zip(rows, tokens[[2, 1, 0, 3]]):
            assert np.array_equal(row.codes, expected)


@pytest.mark.parametrize("ending", ["\n", ""])
def test_lines(tmp_path, ending):
    tokens = random_tokens(5, 1, 16)
    file = write_lines(tmp_path / "a.jsonl", tokens, range(5))
    file.write_text(file.read_text().rstrip("\n") + ending)
    source = opened(file)
    assert (source.format, source.num_rows, source.shape()) == ("jsonl", 5, (1, 4, 4))
    rows = list(source.rows(11, 5))
    assert [row.label for row in rows] == list(range(5))
    assert np.array_equal([row.codes for row in rows], tokens)


def test_nothing_of_the_kind(tmp_path):
    (tmp_path / "a.pt").write_text("")
    assert open_foreign_tokens(tmp_path) is None
    assert open_foreign_tokens(tmp_path / "a.pt") is None
    assert open_foreign_tokens(tmp_path / "none") is None


BAD_LINES = [
    (b"{", r"line 2, is not JSON \(.*\)"),
    (b"", r"line 2, is not JSON \(.*\)"),
    (b"[" * 100_000, r"line 2, is not JSON \(.*\)"),
    (b"\xff", r"line 2, is not JSON \(.*\)"),
    (b"[1]", r'line 2, is not {"class_id": 7, "tokens": \[1, 2, ...\]} of whole'),
    (b'{"tokens": [1, 2, 3, 4]}', "line 2, is not {"),
    (b'{"class_id": true, "tokens": [1, 2, 3, 4]}', "line 2, is not {"),
    (b'{"class_id": 1, "tokens": 4}', "line 2, is not {"),
    (b'{"class_id": 1, "tokens": []}', "line 2, is not {"),
    (b'{"class_id": 1, "tokens": [1, 2, 3, 4.5]}', "line 2, is not {"),
    (b'{"class_id": 1, "tokens": [1, "a"]}', "line 2, is not {"),
    (b'{"class_id": 1, "tokens": [1, [2, 3]]}', "line 2, is not {"),
    (b'{"class_id": 1, "tokens": [[1, 2], [3, 4]]}', "line 2, is not {"),
    (b'{"class_id": 1, "tokens": [1, 2, 3, 1' + b"0" * 30 + b"]}", "line 2, is not {"),
    (b'{"class_id": 1, "tokens": [1, 2, 3]}', "line 2 has 1 x 3 tokens, but the first row 1 x 4"),
    (b'{"class_id": 1, "tokens": [1, 11, 3, 4]}',
     "line 2 has the token 11, but the tokenizer has 11 codes, 0 to 10;"),
    (b'{"class_id": 1, "tokens": [1, -1, 3, 4]}', "line 2 has the token -1, but"),
    (b'{"class_id": 1, "tokens": [1, 9223372036854775808, 3, 4]}', "line 2, is not {"),
    (b'{"class_id": 5, "tokens": [1, 2, 3, 4]}', "line 2 has the label 5, but classes are 0 to 4;"),
    (b'{"class_id": -1, "tokens": [1, 2, 3, 4]}', "line 2 has the label -1, but"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "expected"), BAD_LINES)
def test_bad_lines(tmp_path, line, expected):
    file = tmp_path / "a.jsonl"
    good = b'{"class_id": 4, "tokens": [1, 2, 3, 10]}\n'
    file.write_bytes(good + line + b"\n" + good)
    assert re.search(f"^{file}, {expected}", complaint(file))


def test_the_place_in_a_line_that_is_no_json(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"class_id": 4, "tokens": [1, 2, 3, 10]}\n{"class_id": 4, tokens: [1]}\n')
    assert complaint(file) == (
        f"{file}, line 2, is not JSON (Expecting property name enclosed in double quotes at "
        "character 17); give a whole file."
    )


@pytest.mark.parametrize("blank", ["\n", "\r\n", " \n\n", "  "])
def test_blank_lines_at_the_end_are_none(tmp_path, blank):
    tokens = random_tokens(2, 1, 4)
    file = write_lines(tmp_path / "a.jsonl", tokens, [0, 1])
    file.write_text(file.read_text() + blank, newline="")
    assert opened(file).num_rows == 2
    assert [row.label for row in opened(file).rows(11, 5)] == [0, 1]
    file.write_text(blank, newline="")
    assert "a.jsonl is empty;" in sentence(open_foreign_tokens, file)


def test_a_line_without_end_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(foreign_tokens, "LONGEST_LINE", 64)
    file = write_lines(tmp_path / "a.jsonl", random_tokens(1, 1, 100), [0])
    assert "line 1, is not JSON" in complaint(file)


def test_no_square(tmp_path):
    file = write_lines(tmp_path / "a.jsonl", random_tokens(2, 1, 8), [0, 0])
    assert "line 1 has 1 crops of 8 tokens, which is no square grid" in sentence(opened(file).shape)


def test_empty_sources(tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    assert "a.jsonl is empty;" in sentence(open_foreign_tokens, tmp_path / "a.jsonl")
    write_folders(tmp_path, [], [])
    assert "holds no .npy files" in sentence(open_foreign_tokens, tmp_path)


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle="O" in array.dtype.str)
    return stream.getvalue()


def zipped():
    stream = io.BytesIO()
    np.savez(stream, np.zeros((1, 2, 9), int))
    return stream.getvalue()


GOOD = npy(np.zeros((1, 2, 9), int))
BAD_ARRAYS = {
    "empty": (b"", "is no whole .npy file of numbers"),
    "truncated": (GOOD[:-1], "is no whole .npy file of numbers"),
    "no header": (GOOD[:20], "is no whole .npy file of numbers"),
    "absurd": (GOOD.replace(b"(1, 2, 9)", b"(9" + b"9" * 18 + b",)"), "is no whole .npy file"),
    "broken header": (GOOD.replace(b"{'descr'", b"{(descr["), "is no whole .npy file of numbers"),
    "archive": (zipped(), "is no whole .npy file of numbers"),
    "fractions": (npy(np.zeros((1, 2, 9))), "holds float64, not whole numbers"),
    "flat": (npy(np.zeros(9, int)), "is 9, not 1 x crops x tokens"),
    "batch": (npy(np.zeros((2, 2, 9), int)), "is 2 x 2 x 9, not 1 x crops x tokens"),
    "fewer crops": (npy(np.zeros((1, 1, 9), int)), "has 1 x 9 tokens, but the first row 2 x 9;"),
    "beyond": (npy(np.full((1, 2, 9), 11)), "has the token 11, but the tokenizer has 11 codes"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_bad_arrays(tmp_path, name):
    data, expected = BAD_ARRAYS[name]
    write_folders(tmp_path, random_tokens(3, 2, 9), [0, 1, 2])
    file = tmp_path / CODES / "1.npy"
    file.write_bytes(data)
    assert complaint(tmp_path).startswith(f"{file} {expected}")


class Trap:
    """Reading it makes the folder that it names."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("folder", [CODES, LABELS])
def test_objects_are_refused_and_run_nothing(tmp_path, folder):
    write_folders(tmp_path, random_tokens(3, 2, 9), [0, 1, 2])
    trap = tmp_path / "sprung"
    (tmp_path / folder / "1.npy").write_bytes(npy(np.array([Trap(trap)], object)))
    said = complaint(tmp_path)
    assert said.startswith(f"{tmp_path / folder / '1.npy'} is no whole .npy file of numbers (Obj")
    assert not trap.exists()


def test_labels_that_do_not_belong(tmp_path):
    write_folders(tmp_path, random_tokens(12, 2, 9), range(12))
    label = tmp_path / LABELS / "1.npy"
    np.save(label, np.array([1, 2]))
    assert complaint(tmp_path, classes=12).startswith(f"{label} is 2, not one label")
    label.unlink()
    (tmp_path / CODES / "10.npy").unlink()
    assert sentence(open_foreign_tokens, tmp_path).startswith(f"{label} is missing (2 of {CODES} ")
    (tmp_path / CODES / "a.npy").write_text("")
    assert f"{CODES}/a.npy is not named by a number" in sentence(open_foreign_tokens, tmp_path)
    (tmp_path / LABELS).rename(tmp_path / "elsewhere")
    expected = f"No such folder of labels: {tmp_path / LABELS};"
    assert sentence(open_foreign_tokens, tmp_path).startswith(expected)
    (tmp_path / "imagenet384_codes").mkdir()
    assert "several data sets (imagenet256_codes, imagenet384_" in sentence(
        open_foreign_tokens, tmp_path
    )
