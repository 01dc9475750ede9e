import json
import re
from pathlib import Path

import pytest
from test_row import record

from MaskGIL.command import run_command
from Metrics import registry
from Metrics.registry import RegistryConfig, find_row, read_rows
from Metrics.results_table import BEGIN, END, tables
from Network.config import UserError

ROOT = Path(__file__).parent.parent
SAMPLES = {
    "num_images": 40,
    "seed": 0,
    "chunk": 16,
    "labels_sha256": "1" * 64,
    "ema": True,
    "network_sha256": "2" * 64,
    "tokenizer": "tiny",
    "tokenizer_sha256": "3" * 64,
    "precision": "fp32",
    "num_steps": 4,
    "guidance_scale": 3.0,
}
THEIRS = {
    "quoted": {"by": "others", "from": "their paper", "url": "https://a.org", "date": "2026"},
    "data": "ImageNet",
    "image_size": [256, 256],
    "num_images": 50000,
    "evaluator": None,
    "reference": None,
    "rows": [
        {"name": n, "generator": n, "parameters": None, "sampler": None, "numbers": {"FID": 3.5}}
        for n in ("b-quoted", "a-quoted")
    ],
}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """The command, in a folder with a README, quoted rows and the record of a set."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    (tmp_path / "results").mkdir()
    (tmp_path / "results/theirs.json").write_text(json.dumps(THEIRS))
    (tmp_path / "record.json").write_text(json.dumps(record(samples=SAMPLES)))

    def run(*words):
        code = run_command(registry.main, RegistryConfig, words, program="registry", about="")
        return code, *capsys.readouterr()

    return run


NEW = ("record=record.json", "name=mine", "data=shapes", "generator=tiny, 1K")


def test_a_record_becomes_a_row_and_the_tables_tell_it(run, tmp_path):
    before = (tmp_path / "README.md").read_text()
    assert run(*NEW, "--dry-run")[:2] == (0, "results/mine.json\nREADME.md: tables of 3 rows\n")
    assert (tmp_path / "README.md").read_text() == before
    assert not (tmp_path / "results/mine.json").exists()
    assert run(*NEW)[0] == 0
    row = json.loads((tmp_path / "results/mine.json").read_text())
    assert find_row("mine") == find_row("results/mine.json") == row
    assert [row["name"] for row in read_rows()] == ["mine", "b-quoted", "a-quoted"]
    text = (tmp_path / "README.md").read_text()
    assert text == f"before\n{BEGIN}\n\n{tables(read_rows())}\n\n{END}\nafter\n"
    assert run()[:2] == (0, "README.md: tables of 3 rows\n")  # again, it is the same
    assert (tmp_path / "README.md").read_text() == text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("name=",), "name is empty; give name=..., the row of a record needs it."),
        (("data=",), "data is empty; give data=..., the row of a record needs it."),
        (("name=../a",), "name=../a must be of small letters, digits and dashes."),
        (("name=a-quoted",), "name=a-quoted is taken; give another, or delete results/a-quoted"),
        (("record=no.json",), "No such record: no.json."),
        (("record=README.md",), "README.md is no JSON (Expecting value"),
        (("record=results/theirs.json",), "record=results/theirs.json is no record of samples."),
        (("record=old.json",), "The record is of no set that this version made and scored"),
    ],
)
def test_a_row_that_cannot_be_made_changes_nothing(run, tmp_path, words, sentence):
    (tmp_path / "old.json").write_text('{"samples": {}}')
    before = sorted(tmp_path.rglob("*")), (tmp_path / "README.md").read_text()
    code, _, err = run(*NEW, *words)
    assert (code, err.startswith(f"error: {sentence}")) == (2, True), err
    assert (sorted(tmp_path.rglob("*")), (tmp_path / "README.md").read_text()) == before


def test_a_readme_without_a_place_is_told(run, tmp_path):
    (tmp_path / "README.md").write_text(END + BEGIN)
    code, _, err = run(*NEW)
    assert (code, err.startswith("error: README.md has no place for the tables: write")) == (2, 1)
    assert not (tmp_path / "results/mine.json").exists()


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("nothing", "No row nothing in results/. Rows of ours: mine."),
        ("mime", "No row mime in results/. Did you mean 'mine'? Rows of ours: mine."),
        ("nothing.json", "No such row: nothing.json."),
        ("README.md.json", "No such row: README.md.json."),
        (
            "b-quoted",
            "b-quoted is quoted from https://a.org: only rows of ours can be measured again. Rows "
            "of ours: mine.",
        ),
        ("results/theirs.json", "b-quoted is quoted from https://a.org: only rows of ours"),
    ],
)
def test_a_row_that_is_not_there_or_not_ours(run, value, sentence):
    run(*NEW)
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}"):
        find_row(value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda row: row.pop("commit"), "results/mine.json has no commit; add it."),
        (lambda row: row.update(color=1), "results/mine.json has an unknown key color."),
        (lambda row: row["samples"].update(sed=1), "has an unknown key samples.sed. Did you mean"),
        (lambda row: row["samples"].pop("network_sha256"), "has no samples.network_sha256; add"),
        (lambda row: row["reference"].pop("count"), "results/mine.json has no reference.count;"),
        (lambda row: row["reference"].pop("split"), "results/mine.json has no reference.split;"),
        (
            lambda row: row["numbers"]["inception score"].pop("tolerance"),
            "results/mine.json has no numbers.inception score.tolerance; add it.",
        ),
        (lambda row: row.update(quoted={}), "results/mine.json has no num_images; add it."),
        (lambda row: row.update(name="a-quoted"), "results/ has two rows a-quoted; rename one."),
    ],
)
def test_a_file_that_does_not_fit_is_named(run, tmp_path, change, sentence):
    run(*NEW)
    file = tmp_path / "results/mine.json"
    row = json.loads(file.read_text())
    change(row)
    file.write_text(json.dumps(row))
    code, _, err = run()
    assert (code, sentence in err) == (2, True), err


def test_the_tables_of_the_readme_are_those_of_the_results(monkeypatch):
    monkeypatch.chdir(ROOT)
    rows = read_rows()
    assert {"maskgil-b-quoted", "llamagen-b-quoted", "maskgit-quoted"} <= {r["name"] for r in rows}
    text = (ROOT / "README.md").read_text()
    assert text.partition(BEGIN)[2].partition(END)[0] == f"\n\n{tables(rows)}\n\n"
