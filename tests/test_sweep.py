"""A sweep end to end on a tiny generator: checked, measured once, timed, told."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tiny_samples import commanded
from tiny_weights import save_tiny_weights

from Metrics import sweep as module
from Metrics.sample_config import SampleConfig
from Metrics.sweep import CellImages, Sweep
from Network.config import UserError

GRID = "sweep=num_steps=1 4 guidance_scale=1 2,by chance order=random num_steps=4"
TITLES = [
    "num_steps=1 guidance_scale=1",
    "num_steps=1 guidance_scale=2",
    "num_steps=4 guidance_scale=1",
    "num_steps=4 guidance_scale=2",
    "by chance order=random num_steps=4",
]
SMALL = ("num_images=40", "chunk=16", "device=cpu", "precision=fp32", "reference=shapes:64")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_tiny_weights(tmp_path_factory.mktemp("run") / "weights", objective="both")


@pytest.fixture
def fid_sample(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    return commanded(capsys, f"weights={weights}", *SMALL)


@pytest.fixture
def sampled(monkeypatch):
    """The settings of the cells that were sampled since it was last emptied."""
    seen = []

    class Watched(CellImages):
        def __iter__(self):
            seen.append(self._sampling)
            return super().__iter__()

    monkeypatch.setattr(module, "CellImages", Watched)
    return seen


def test_cells_are_measured_timed_and_told(fid_sample, tmp_path, sampled):
    code, out, err = fid_sample(GRID)
    assert (code, err) == (0, "")
    folder = tmp_path / "sweep"
    names = {path.name for path in folder.iterdir()}
    assert names == {"sweep.json", "sweep.md", "sweep.png", "axes.png", "seconds.json", "cells"}
    assert "cells      5, of which 0 are finished\n" in out
    assert out.endswith((folder / "sweep.md").read_text())
    assert "cell 2/5 num_steps=1 guidance_scale=2: shapesnet-1 distance " in out
    assert "timing 5 cells, 3 rounds of 16 images\n" in out
    record = json.loads((folder / "sweep.json").read_text())
    assert [cell["title"] for cell in record["cells"]] == TITLES
    assert [cell["cost"]["network passes"] for cell in record["cells"]] == [1, 2, 4, 7, 7]
    assert [cell["sampling"]["order"] for cell in record["cells"]][3:] == ["confidence", "random"]
    for cell in record["cells"]:
        assert cell["measures"].keys() == {"shapesnet-1 distance", "class accuracy"}
        seconds = cell["seconds"]
        assert 0 < seconds["transformer"]["median"] < seconds["with pixels"]["median"]
    assert record["timing"]["machine"]["load"]
    assert [settings.num_steps for settings in sampled] == [1, 1, 4, 4, 4]


def test_the_command_of_a_cell_makes_its_set(fid_sample, tmp_path):
    fid_sample(GRID, "temperature=0.9", "noise=2", "seed=3", "classes=red ring,blue ring")
    record = json.loads((tmp_path / "sweep/sweep.json").read_text())
    cell = record["cells"][-1]
    assert cell["command"].startswith("python FID_sample.py weights=")
    assert "'classes=red ring,blue ring'" in cell["command"]
    assert "noise" not in cell["command"]  # of no effect on order=random
    assert "noise=2.0" in record["cells"][3]["command"]
    words = ["order=random", "num_steps=4", "temperature=0.9", "seed=3", "out=alone.npz"]
    assert all(word in cell["command"] for word in words[:4])
    assert fid_sample(*words, "classes=red ring,blue ring")[0] == 0
    alone = json.loads((tmp_path / "alone.json").read_text())
    assert alone["sha256"] == cell["sha256"]
    value = cell["measures"]["shapesnet-1 distance"]["value"]
    assert value == pytest.approx(alone["metrics"]["shapesnet-1 distance"])


def test_what_is_finished_is_not_made_again(fid_sample, tmp_path, sampled, monkeypatch):
    fid_sample(GRID)
    before = (tmp_path / "sweep/sweep.json").read_bytes()
    sampled.clear()
    with monkeypatch.context() as broken:
        broken.delattr(module, "time_in_turns")
        broken.delattr(module, "Judge")
        code, out, _ = fid_sample(GRID)
    assert (code, sampled) == (0, [])
    assert "cells      5, of which 5 are finished\n" in out
    assert (tmp_path / "sweep/sweep.json").read_bytes() == before
    code, out, _ = fid_sample("sweep=num_steps=1 2 guidance_scale=1")  # one more, the others gone
    assert "cells      2, of which 1 are finished\n" in out
    assert "cell 2/2 num_steps=2 guidance_scale=1: " in out
    assert [settings.num_steps for settings in sampled] == [2]
    record = json.loads((tmp_path / "sweep/sweep.json").read_text())
    assert [cell["title"] for cell in record["cells"]] == [
        "num_steps=1 guidance_scale=1",
        "num_steps=2 guidance_scale=1",
    ]


@pytest.mark.parametrize("change", ["seed=1", "temperature=0.9", "reference=shapes:60", "chunk=40"])
def test_a_change_makes_cells_of_its_own(fid_sample, sampled, change):
    fid_sample("sweep=num_steps=1")
    fid_sample("sweep=num_steps=1", change)
    assert len(sampled) == 2


def test_an_interrupted_cell_is_made_again_alone(fid_sample, tmp_path, sampled, monkeypatch):
    score = module.Judge.score

    def interrupted(judge, images, labels):
        if len(sampled) == 2:
            raise KeyboardInterrupt
        return score(judge, images, labels)

    counted, count_cost = [], module.count_cost
    with monkeypatch.context() as broken:
        broken.setattr(module, "count_cost", lambda *a: counted.append(a) or count_cost(*a))
        broken.setattr(module.Judge, "score", interrupted)
        assert fid_sample(GRID)[0] == 130
    assert len(counted) == 2  # those of finished cells: nothing that is done is lost
    assert not (tmp_path / "sweep/sweep.json").exists()
    sampled.clear()
    code, out, _ = fid_sample(GRID)
    assert (code, len(sampled)) == (0, 3)
    assert "cells      5, of which 2 are finished\n" in out


def test_another_reference_of_the_same_name_is_told(fid_sample, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "real.npz", pixels)
    assert fid_sample("sweep=num_steps=1", "reference=real.npz")[0] == 0
    np.savez(tmp_path / "real.npz", 255 - pixels)
    for rows in ("num_steps=1 2", "num_steps=1"):  # a cell is missing, none is
        code, _, err = fid_sample(f"sweep={rows}", "reference=real.npz")
        assert code == 2
        assert err.startswith("error: reference=real.npz has changed since sweep/cells/")


def test_cells_of_other_inception_weights_are_others(weights, tmp_path):
    found = []
    for name in ("a.pth", "b.pth"):
        (tmp_path / name).write_text(name)
        for file in ("none", str(tmp_path / name)):
            config = SampleConfig(
                weights=str(weights), reference="shapes:64", sweep=("num_steps=1",), num_images=40
            )
            sweep = Sweep(replace(config, device="cpu", inception=file, out=str(tmp_path / "out")))
            found.append(sweep.facts["features"]["inception"])
    assert found[0] is found[2] is False
    assert found[1] != found[3]


def test_seconds_of_another_device_are_measured_again(fid_sample, tmp_path):
    fid_sample("sweep=num_steps=1")
    file = tmp_path / "sweep/seconds.json"
    record = json.loads(file.read_text())
    assert "timing" not in fid_sample("sweep=num_steps=1")[1]
    record["machine"]["device"] = "cuda:0 (another)"
    file.write_text(json.dumps(record))
    assert "timing 1 cells" in fid_sample("sweep=num_steps=1")[1]
    assert json.loads(file.read_text())["machine"]["device"].startswith("cpu")


def test_a_dry_run_and_the_help_of_a_grid(fid_sample, tmp_path):
    code, out, _ = fid_sample(GRID, "--dry-run")
    assert (code, list(tmp_path.iterdir())) == (0, [])
    assert "samples    40 of 16x16 each, balanced, seed 0, in chunks of 16\n" in out


def test_rows_of_a_file(fid_sample, weights, tmp_path):
    rows = "sweep:\n  - num_steps=1 2\n  - plan=ar\n"
    (tmp_path / "sweep.yaml").write_text(rows)
    code, out, _ = fid_sample("sweep.yaml", "--dry-run")
    assert (code, "cells      3, of which" in out) == (0, True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("sweep=order=random halton", "noise=2"),
            "noise=2.0 has no effect: only order=confidence asks for it; leave it out.",
        ),
        (["sweep=num_steps=65"], "The cell 'num_steps=65' of sweep: num_steps=65 must lie between"),
        (["sweep=num_steps=1", "out=a.npz"], "out=a.npz must be a folder: a sweep makes several f"),
        (["sweep=num_steps=1", "reference="], "sweep scores its cells against a reference: give "),
        (["sweep=num_steps=1", "reference=shapes:1"], "reference=shapes:1 is one image; a distan"),
        (["sweep=num_steps=1", "train=shapes:64"], "train has no effect on a sweep; leave it out."),
        (["sweep=num_steps=1", "png=png"], "png has no effect on a sweep; leave it out."),
        (["sweep=num_steps=1", "num_images=19"], "num_images=19 is too few for the errors of a "),
        (["sweep=num_steps=1", "classes=no ring"], "Unknown class 'no ring'."),
        (["sweep=num_steps=1", "weights=nowhere"], "No such weights folder: nowhere."),
        (["sweep=num_steps=1", "inception=nowhere"], "inception=nowhere is no file; give one, or"),
    ],
)
def test_mistakes_cost_a_second_and_leave_nothing(fid_sample, tmp_path, words, sentence):
    code, _, err = fid_sample(*words)
    assert (code, list(tmp_path.iterdir())) == (2, [])
    assert err.startswith(f"error: {sentence}")


def test_one_process_alone(weights, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = SampleConfig(weights=str(weights), reference="shapes:64", sweep=("num_steps=1",))
    with pytest.raises(UserError, match="sweep works in one process"):
        Sweep(replace(config, device="cpu"))
