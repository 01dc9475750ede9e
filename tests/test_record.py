import json

import numpy as np
import pytest
import tiny
import torch
from tiny_weights import save_tiny_weights

from MaskGIL.config import load_config
from MaskGIL.pipeline import Pipeline
from MaskGIL.sampling import SamplingConfig
from Metrics.published import NAMES, NOTES
from Metrics.record import (
    FORMAT,
    describe_job,
    describe_samples,
    find_record,
    kept_scores,
    summary,
    versions,
    write_record,
)
from Metrics.sample_config import SampleConfig
from Network.config import UserError
from Network.files import fingerprint

LABELS = np.arange(4)
SAMPLES = {"num_images": 4, "seed": 0}
MADE = {"seconds": 2.0, "images_per_second": 2.0}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_tiny_weights(tmp_path_factory.mktemp("run") / "weights")


def describe(weights, labels=LABELS, ema=True, dtype=torch.float32, **changes):
    pipe = Pipeline.from_pretrained(weights, "cpu", dtype, ema=ema)
    return describe_samples(pipe, labels, **{"seed": 0, "chunk": 2, "ema": ema, **changes})


def test_whatever_changes_the_bytes_changes_the_description(weights, tmp_path):
    same = describe(weights)
    assert describe(weights) == same
    other = save_tiny_weights(tmp_path / "other", seed=1)
    changes = {
        "seed": describe(weights, seed=1),
        "chunk": describe(weights, chunk=3),
        "labels_sha256": describe(weights, LABELS[::-1].copy()),
        "network_sha256": describe(weights, ema=False),
        "tokenizer_sha256": describe(other),
        "precision": describe(weights, dtype=torch.bfloat16),
    }
    for key, changed in changes.items():
        assert changed.keys() == same.keys()
        assert changed[key] != same[key]
    assert changes["precision"]["network_sha256"] == same["network_sha256"]  # weights as loaded
    compiled = Pipeline.from_pretrained(weights, "cpu", torch.float32)
    compiled.compiled = True
    assert describe_samples(compiled, LABELS, seed=0, chunk=2, ema=True) == same | {
        "compiled": True
    }
    assert same["num_steps"] == 4  # settings of the sampler stand beside
    assert "plan" not in same  # so records of earlier versions still describe their sets


def test_a_raster_plan_is_described_by_what_it_follows_from(tmp_path):
    weights = save_tiny_weights(tmp_path / "weights", objective="ar")
    found = describe(weights)
    assert found["plan"] == "ar"
    assert found["guidance_scale"] == 3.0
    assert {"num_steps", "schedule", "order", "noise"} & found.keys() == set()


def test_settings_that_records_did_not_have_are_told_where_they_matter(tmp_path):
    both = save_tiny_weights(tmp_path / "both", objective="both")
    pipe = Pipeline.from_pretrained(both, "cpu", torch.float32)

    def told(**changes):
        pipe.sampling = SamplingConfig(num_steps=4).changed(**changes)
        return describe_samples(pipe, LABELS, seed=0, chunk=2, ema=True)

    same = told()
    assert told(num_ar=7) == same  # which plan=mar does not look at
    for changes in ({"remask": 0.25}, {"counts": [8, 56], "num_steps": 2}, {"legacy": True}):
        found = told(**changes)
        assert {key: value for key, value in found.items() if same.get(key) != value} == changes
    hybrid = told(plan="hybrid", num_ar=7)
    assert {"plan": "hybrid", "num_ar": 7, **same} == hybrid
    assert told(plan="ar", remask=0.5, num_ar=7) == told(plan="ar")


def test_a_second_network_is_told(tmp_path):
    alone, second = (
        Pipeline.from_pretrained(save_tiny_weights(tmp_path / "weights")),
        tiny.network(),
    )
    settings = SamplingConfig(plan="hybrid", num_ar=7)
    pipe = Pipeline(alone.network, alone.tokenizer, sampling=settings, ar_network=second)
    found = describe_samples(pipe, LABELS, seed=0, chunk=2, ema=True)
    assert found["ar_network_sha256"] == fingerprint(second.state_dict())
    pipe.sampling = SamplingConfig()
    assert "ar_network_sha256" not in describe_samples(pipe, LABELS, seed=0, chunk=2, ema=True)


def test_a_job_is_described_by_what_was_asked_for(weights):
    words = [f"weights={weights}", "num_images=40", "classes=data", "seed=0", "noise=4.5"]
    pipe = Pipeline.from_pretrained(weights, "cpu", torch.float32)
    found = describe_job(load_config(SampleConfig, None, words), pipe, (16, 32))
    classes = ("data",)  # a seed of 0 is the default, weights may have any noise
    asked = {"weights": str(weights), "noise": 4.5, "num_images": 40, "classes": classes}
    assert found["asked"] == asked
    assert found["image_size"] == [16, 32]
    assert found["parameters"] == sum(t.numel() for t in pipe.network.state_dict().values())


def test_a_new_place_has_no_record(tmp_path):
    assert find_record(tmp_path / "new/a.npz", SAMPLES) is None


def test_a_complete_set_is_found_and_a_lost_one_made_again(tmp_path):
    out = tmp_path / "a.npz"
    write_record(out, {"samples": SAMPLES, "made": MADE})
    assert find_record(out, SAMPLES) is None  # stopped before the set was there
    out.write_bytes(b"")
    assert find_record(out, SAMPLES) == {"format": FORMAT, "samples": SAMPLES, "made": MADE}


def test_other_sets_are_never_overwritten(tmp_path):
    out = tmp_path / "a.npz"
    out.write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.npz exists and has no record .*a\.json; name another"):
        find_record(out, SAMPLES)
    write_record(out, {"samples": SAMPLES, "made": MADE})
    with pytest.raises(UserError, match=r"is another set: seed is 0 there and 1 here; name anoth"):
        find_record(out, {**SAMPLES, "seed": 1})
    out.unlink()  # nor the record of one that has moved
    with pytest.raises(UserError, match=r"num_images is 4 there and 5 here \(1 more differ\);"):
        find_record(out, {"num_images": 5, "seed": 1})


@pytest.mark.parametrize("text", ["", "[]", '{"samples": 5}', '{"name": "vite"}'])
def test_another_json_is_no_record(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"a\.json is no record of samples; name another out\."):
        find_record(tmp_path / "a.npz", SAMPLES)


def test_versions_are_those_of_the_packages():
    assert versions()["torch"] == torch.__version__
    assert json.dumps(versions())


def test_the_summary_names_every_number(tmp_path):
    near = {"share": 0.25, "reference share": 0.01}
    record = {"made": MADE, "reference": {"name": "shapes (val)", "count": 2048}}
    record["reference"]["unreadable"] = {"a.png": "empty", "b.png": "empty"}
    record |= {"fid": None, "fid_note": "why", "notes": ["few", "sorted"]}
    record["metrics"] = {"distance": 1.23456, "KID": 0.5, "spread": None}
    record["metrics"]["near training images"] = near
    record["intervals"] = {"KID": {"low": 0.25, "high": 0.75}}
    record["intervals"]["distance"] = {"low": 0.9, "high": 1.1, "extrapolated": 1.0}
    lines = dict(line.split("  ", 1) for line in summary(tmp_path / "a.npz", record).splitlines())
    texts = {name: text.strip() for name, text in lines.items()}
    assert texts == {
        "samples": f"{tmp_path / 'a.npz'}, 2.0 s, 2.0 img/s",
        "reference": "shapes (val), 2,048, of which 2 cannot be read: neighbours stand in for them",
        "distance": "1.235 (1 ± 0.1)",
        "KID": "0.5 ± 0.25",
        "spread": "too few images of a class",
        "near training images": "25.00% (1.00% of the reference)",
        "FID, sFID, IS": "none (why)",
        "±": "half of a 95 % interval; in brackets extrapolated to endlessly many samples",
        "note": "few; sorted",
        "record": str(tmp_path / "a.json"),
    }


def test_an_fid_and_a_classifier_are_told_with_what_to_read_them_by(tmp_path):
    accuracy = {"samples": 0.5, "reference": 0.75, "reference reconstructed": 0.7}
    per_class = {"cat": {**accuracy, "samples": None}, "dog": accuracy}
    record = {"made": MADE, "reference": None, "fid": 12.34567, "fid_note": "how", "notes": []}
    record |= {"sfid": None, "inception_score": 50.125, "inception_score_shuffled": 49.0}
    record["intervals"] = {"FID": {"low": 12.0, "high": 12.5, "extrapolated": 12.25}}
    record["metrics"] = {"classifier": {"accuracy": accuracy, "per class": per_class}}
    text = summary(tmp_path / "a.npz", record)
    assert (
        "\nclassifier       50.0% (75.0%, 70.0%) right, of the samples (the reference, the refere"
        in text
    )
    assert "\n  cat            - (75.0%, 70.0%)\n  dog            50.0% (75.0%, 70.0%)\n" in text
    assert "\nFID              12.3457 (12.25 ± 0.25), how\n" in text
    assert "\nsFID             none: the reference has no mu_s and sigma_s\n" in text
    assert "\ninception score  50.12, shuffled 49.00\n" in text
    record |= {"sfid": 5.5}
    record["intervals"] |= {
        "sFID": {"low": 5.0, "high": 5.5, "extrapolated": 5.25},
        "inception score": {"low": 49.125, "high": 51.125},
        "shuffled inception score": {"low": 47.0, "high": 51.0},
    }
    text = summary(tmp_path / "a.npz", record)
    assert "\nsFID             5.5000 (5.25 ± 0.25)\n" in text
    assert "\ninception score  50.12 ± 1, shuffled 49.00 ± 2\n" in text
    record["metrics"]["classifier"]["per class"] = {str(n): accuracy for n in range(21)}
    assert "  20" not in summary(tmp_path / "a.npz", record)


def scores(sha256="0", fid=None, train=None, **metrics):
    reference = {"name": f"name {fid}", "sha256": sha256, "count": 3}
    features = dict.fromkeys(metrics, "1")
    kept = {"format": FORMAT, "reference": reference, "metrics": metrics, "features": features}
    kept |= {"intervals": {name: {"low": value} for name, value in metrics.items()}, "how": {}}
    kept |= {"asked": {"seed": 1, **metrics}}
    published = dict.fromkeys(NAMES, fid) | dict.fromkeys(NOTES, f"note {fid}")
    return {**kept, **published, "train": train, "notes": [f"of {fid}"]}


def test_scores_of_the_same_set_against_the_same_reference_are_kept():
    found = kept_scores(scores(fid=5.0, first=1, second=2), scores(second=3))
    assert found["metrics"] == {"first": 1, "second": 3}
    assert found["intervals"] == {"first": {"low": 1}, "second": {"low": 3}}
    assert found["features"].keys() == {"first", "second"}
    assert found["asked"] == {"seed": 1, "first": 1, "second": 3}
    assert {found[name] for name in NAMES} == {5.0}
    assert {found[note] for note in NOTES} == {"note 5.0"}
    assert found["reference"]["name"] == "name None"  # what it is called now
    assert kept_scores(scores(fid=5.0), scores(fid=6.0))["fid"] == 6.0
    assert kept_scores(scores(), {**scores(), "fid_note": "new"})["fid_note"] == "new"
    found = kept_scores(scores(first=1, fid=2.0), {**scores(), "reference": None})
    assert (found["metrics"], found["notes"]) == ({"first": 1}, ["of 2.0"])
    for old in (scores("1", fid=5.0, first=1), {**scores(first=1), "format": 1}, {}):
        assert kept_scores(old, scores(second=3)) == scores(second=3)


def test_what_stands_on_other_training_images_is_not_kept():
    near = {"near training images": 1, "a ladder": 2, "classifier": 3}
    old = scores(train="a", distance=4, **near)
    for same in ("a", None):
        found = kept_scores(old, scores(train=same))
        assert (found["metrics"], found["train"]) == ({"distance": 4, **near}, "a")
    found = kept_scores(old, scores(train="b", **{"near training images": 5}))
    assert found["metrics"] == {"distance": 4, "near training images": 5}
    assert found["train"] == "b"


def test_an_old_record_is_of_the_new_format_once_it_is_written(tmp_path):
    write_record(tmp_path / "a.npz", {"format": 1, "samples": SAMPLES})
    assert json.loads((tmp_path / "a.json").read_text())["format"] == FORMAT
