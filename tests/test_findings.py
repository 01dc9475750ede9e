"""What a part of a study has found: curves, and numbers apart from what a clock has told."""

import json
import math

import pytest
from tiny_runs import config, tokenizer_weights
from tiny_weights import save_tiny_weights

from MaskGIL.config import load_config
from Metrics.sample_config import SampleConfig
from Trainer import findings
from Trainer.findings import of_run, of_samples, read_curves


def test_numbers_that_are_not_finite_become_none(tmp_path):
    rows = [
        {"step": 1, "kind": "train", "loss": 1 / 3, "gnorm": 2.0, "lr": 1.0},
        {"step": 2, "kind": "train", "loss": math.nan, "gnorm": math.inf, "lr": 1.0},
        {"step": 2, "kind": "validation", "loss": 1.0, "acc": 0.5},
    ]
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_curves(file) == {
        "train": {"step": [1, 2], "loss": [0.33333, None], "gnorm": [2.0, None]},
        "validation": {"step": [2], "loss": [1.0], "acc": [0.5]},
    }


def test_a_run_that_ends_before_its_first_line_has_an_empty_curve(tmp_path):
    assert read_curves(tmp_path / "none") == {"train": {"step": [], "loss": []}}


def test_a_generator_tells_its_costs_and_bits(tmp_path, monkeypatch):
    tokenizer_weights(tmp_path)
    shorter = ("loop.steps=2", "loop.validate_every=1", "loop.tracker=none", "objective=both")
    found = of_run(config("generator", tmp_path, *shorter, "precision=fp32"))
    numbers = found["numbers"]
    assert (numbers["steps"], numbers["training images"]) == (2, 32)
    assert numbers["parameters"] > 10_000
    assert numbers["training teraFLOPs"] > 0
    for mode in ("mar", "ar"):
        assert numbers[f"bits per image ({mode})"] == pytest.approx(
            16 * numbers[f"bits per token ({mode})"], rel=1e-4
        )
    bits = 16 * numbers["ar_loss"] / math.log(2)  # of 4x4 tokens, the exact loss of validation
    assert numbers["bits per image (ar)"] == pytest.approx(bits, rel=1e-4)
    assert found["curves"]["validation"]["step"] == [1, 2]
    assert found["ended"] == ""
    assert found["curves"]["blocks"]["block"] == [1, 2]


def test_a_cache_tells_its_size(tmp_path):
    tokenizer_weights(tmp_path)
    run = config("generator", tmp_path, "job=cache", f"data.cache={tmp_path / 'cache'}")
    found = of_run(run)
    size = sum(file.stat().st_size for file in (tmp_path / "cache").rglob("*") if file.is_file())
    assert found["numbers"] == {"megabytes": pytest.approx(size / 1e6, rel=1e-4)}


def test_a_set_tells_its_scores(tmp_path):
    weights = save_tiny_weights(tmp_path / "weights")
    out = tmp_path / "samples.npz"
    words = [f"weights={weights}", f"out={out}", "num_images=40", "reference=shapes:64"]
    found = of_samples(load_config(SampleConfig, None, [*words, "device=cpu"]))
    record = json.loads((tmp_path / "samples.json").read_text())
    distance = record["metrics"]["shapesnet-1 distance"]
    assert found["numbers"]["shapesnet-1 distance"] == pytest.approx(distance, rel=1e-4)
    assert found["clock"] == {"seconds per image": 1 / record["made"]["images_per_second"]}


def test_a_sweep_tells_what_each_setting_costs_and_scores(tmp_path, monkeypatch):
    def cell(steps):
        measure = {"value": 10.0 / steps, "error": 0.5, "without": []}
        return {"title": f"num_steps={steps}", "values": {"num_steps": str(steps)},
                "measures": {"shapesnet-1 distance": measure},
                "cost": {"gigaflops": 2.0 * steps},
                "seconds": {"transformer": {"median": 0.1 * steps}}}  # fmt: skip

    def swept(config):
        (tmp_path / "sweep").mkdir()
        record = {"cells": [cell(1), cell(2)]}
        (tmp_path / "sweep" / "sweep.json").write_text(json.dumps(record))

    monkeypatch.setattr(findings, "sample_and_score", swept)
    words = ["sweep=num_steps=1 2", "reference=shapes", f"out={tmp_path / 'sweep'}"]
    found = of_samples(load_config(SampleConfig, None, words))
    assert [point["gigaFLOPs"] for point in found["points"]] == [2.0, 4.0]
    assert found["points"][1] == {
        "title": "num_steps=2",
        "values": {"num_steps": "2"},
        "measures": {"shapesnet-1 distance": 5.0},
        "errors": {"shapesnet-1 distance": 0.5},
        "gigaFLOPs": 4.0,
    }
    assert found["clock"] == {"seconds per image of points": [0.1, 0.2]}


def test_speeds_of_a_tokenizer_stand_under_the_clock(tmp_path, monkeypatch):
    figures = {"PSNR (dB)": 30.0, "encode (img/s)": 5.0, "encode (tokens/s)": 80.0}
    record = {"rows": [{"figures": figures}, {"figures": {}}]}
    out = tmp_path / "scores.json"
    monkeypatch.setattr(
        findings, "sample_and_score", lambda config: out.write_text(json.dumps(record))
    )
    words = ["reconstruct=llamagen-vq16", "reference=shapes", f"out={out}"]
    found = of_samples(load_config(SampleConfig, None, words))
    assert found == {
        "numbers": {"PSNR (dB)": 30.0},
        "clock": {"encode (img/s)": 5.0, "encode (tokens/s)": 80.0},
    }
