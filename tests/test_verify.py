"""A row of tiny weights is made and measured again: it stands, until anything is changed."""

import json
import shutil

import pytest
from test_registry import THEIRS
from test_row import NAMED, record
from tiny_runs import tree
from tiny_weights import save_tiny_weights

import FID_sample
from MaskGIL.command import Failure, run_command
from Metrics import registry
from Metrics.registry import RegistryConfig
from Metrics.results_table import BEGIN, END
from Metrics.row import row_of
from Metrics.sample_config import SampleConfig
from Metrics.verify import compare, conclude, verdict

MADE = ("num_images=40", "chunk=16", "device=cpu", "precision=fp32", "reference=shapes:64")
SETS = ("out=sets/tiny.npz", "seed=4", "num_steps=3", "train=shapes:64", "inception=none")
ROW = ("record=sets/tiny.json", "name=tiny", "data=shapes", "generator=tiny")


def fid_sample(*words):
    return run_command(FID_sample.main, SampleConfig, words, program="FID_sample.py", about="")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with weights, a set of them that was scored, and its row."""
    home = tmp_path_factory.mktemp("home")
    save_tiny_weights(home / "weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        (home / "README.md").write_text(BEGIN + END)
        assert fid_sample("weights=weights", *MADE, *SETS) == 0
        make = registry.main, RegistryConfig, ROW
        assert run_command(*make, program="registry", about="") == 0
    (home / "results/theirs.json").write_text(json.dumps(THEIRS))
    return home


@pytest.fixture
def verify(home, tmp_path, monkeypatch, capsys):
    """`FID_sample.py verify=tiny`, in a copy of that folder without the set."""
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "sets")
    monkeypatch.chdir(tmp_path)

    def verify(*words):
        code = fid_sample("verify=tiny", "device=cpu", *words)
        return code, *capsys.readouterr()

    return verify


def change(home, edit):
    file = home / "results/tiny.json"
    row = json.loads(file.read_text())
    edit(row)
    file.write_text(json.dumps(row))


def test_a_row_stands_and_a_set_that_is_there_is_only_scored_again(verify, tmp_path):
    code, out, err = verify()
    assert (code, err) == (0, "")
    assert out.endswith("\ntiny stands.\n")
    assert "row                    tiny: reference, weights, settings and evaluators are the" in out
    assert "\nset                    the same bytes\n" in out
    plan, _ = out.split("\nrow        tiny: weights, settings and reference are the same\n")
    assert "\nreference  shapes (val): 64 of val, centre crop, " in plan
    assert "\nshapesnet-1 KID        " in out
    made = tmp_path / "runs/verify/tiny.npz"
    before = made.stat()
    code, out, err = verify("reference=shapes:64")
    assert (code, err) == (0, "")
    assert "complete   runs/verify/tiny.npz is this set already: scoring it again" in out
    assert (made.stat().st_ino, made.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_weights_and_row_may_lie_elsewhere(verify, tmp_path):
    (tmp_path / "weights").rename(tmp_path / "moved")
    code, _, err = verify()
    assert code == 2
    assert err.startswith(
        "error: tiny needs what is not at hand, there is no weights: give weights=WEIGHTS."
        " The network has the sha256 "
    )
    code, _, err = verify("reference=data", "train=data")
    assert (code, err.partition(". The network")[0]) == (
        2,
        "error: tiny needs what is not at hand, there is no weights and no data: give "
        "weights=WEIGHTS reference=FOLDER train=FOLDER",
    )
    (tmp_path / "results/tiny.json").rename(tmp_path / "row.json")
    code, _, err = verify("weights=moved", "verify=row.json", "out=new/again.npz")
    assert (code, err) == (0, "")
    assert (tmp_path / "new/again.npz").exists()
    assert not (tmp_path / "runs").exists()


def flip_a_byte(folder, name="network-ema"):
    file = folder / f"weights/{name}.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1  # the last number of the last tensor
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("words", "edit", "sentence"),
    [
        (
            ["guidance_scale=3.5"],
            None,
            "other settings: guidance_scale is 3.0 in the row and 3.5 here.",
        ),
        (["seed=0"], None, "other settings: seed is 4 in the row and 0 here; labels_sha256 is "),
        ([], flip_a_byte, "other weights: network_sha256 is "),
        (
            [],
            lambda home: flip_a_byte(home, "tokenizer"),
            "other weights: tokenizer.safetensors is ",
        ),
        (["ema=false"], None, "other weights: network_sha256 is "),
        (["reference=shapes:32"], None, "other reference: sha256 is "),
        (["reference=shapes:65", "num_reference=64"], None, "other reference: sha256 is "),
        (
            [],
            lambda home: change(home, lambda row: row["evaluators"].update({"shapesnet-1": "0"})),
            "other evaluators: shapesnet-1 is 0 in the row and bd21034d",
        ),
    ],
)
def test_what_differs_is_named_before_anything_is_sampled(verify, tmp_path, words, edit, sentence):
    if edit:
        edit(tmp_path)
    before = tree(tmp_path)
    code, _, err = verify(*words)
    assert (code, err.startswith(f"error: tiny does not stand, {sentence}")) == (1, True), err
    assert tree(tmp_path) == before


def test_a_number_that_differs_is_named(verify, tmp_path):
    def edit(row):
        kid = row["numbers"]["shapesnet-1 KID"]
        kid["value"] += 1.01 * kid["tolerance"]["same bytes"]
        row["numbers"]["sFID"] = row["numbers"]["near training images"]

    change(tmp_path, edit)
    code, out, err = verify()
    assert code == 1
    assert err.startswith("error: tiny does not stand, other numbers: shapesnet-1 KID is ")
    assert err.endswith("; sFID is 0.0 in the row and missing here.\n")
    assert "stands" not in out


def test_other_bytes_are_compared_by_their_intervals(verify, tmp_path):
    def edit(row):
        row["set_sha256"] = "0"
        for number in row["numbers"].values():
            tolerance = number["tolerance"]["other bytes"]
            number["value"] += 1000 if tolerance is None else 0.99 * tolerance

    change(tmp_path, edit)
    code, out, err = verify()
    assert (code, err) == (0, "")
    assert "other bytes, as other hardware or versions draw them: intervals are compared" in out
    assert "not compared" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["verify=tine"], "No row tine in results/. Did you mean 'tiny'? Rows of ours: tiny."),
        (["verify=a-quoted"], "a-quoted is quoted from https://a.org: only rows of ours can be me"),
        (["score.yaml"], "verify takes its settings from the row, not from score.yaml; leave it "),
        (["sweep=num_steps=1 2", "train="], "verify makes one set of samples: leave sweep, reco"),
        (["reference=nowhere"], "tiny needs what is not at hand, there is no nowhere: give refe"),
        (["num_images=1"], "num_images must be at least 2, not 1."),
        (["out=results"], "out=results must end in .npz."),
    ],
)
def test_bad_input_is_told_in_a_sentence(verify, tmp_path, words, sentence):
    (tmp_path / "score.yaml").write_text("num_images: 7\n")
    before = tree(tmp_path)
    code, _, err = verify(*words)
    assert (code, err.startswith(f"error: {sentence}")) == (2, True), err
    assert tree(tmp_path) == before


def test_an_evaluator_that_is_not_at_hand_is_named(verify, tmp_path):
    change(tmp_path, lambda row: row["evaluators"].update({"inception-2015": "1"}))
    code, _, err = verify()
    assert (code, err) == (
        2,
        "error: tiny was scored by inception-2015, which is not at hand: give inception=FILE or "
        "inception=download.\n",
    )


def test_a_number_stands_within_its_tolerance(capsys):
    row = row_of(record(), **NAMED)  # distance 50: within 0.05, and 5.66 of other bytes
    for distance, same, stands in [
        (50.04, True, True),
        (50.06, True, False),
        (50.06, False, True),
        (55.6, False, True),
        (55.7, False, False),
        (44.3, False, False),
        (float("nan"), False, False),
    ]:
        again = record(sha256="5" * 64 if same else "0")
        again["metrics"]["shapesnet-1 distance"] = distance
        (found,) = [each for each in compare(row, again) if each.name == "shapesnet-1 distance"]
        assert found.stands == stands, (distance, same)
        if not stands:
            with pytest.raises(Failure, match="other numbers: shapesnet-1 distance is 50.0 in the"):
                conclude(row, again)
    told = verdict(row, record(sha256="0"))
    assert "\nshapesnet-1 distance  50 in the row, 50 here, may differ by 5.7\n" in told
    assert "\nnear training images  0.25 in the row, 0.25 here, not compared" in told
    assert "stands" not in capsys.readouterr().out
