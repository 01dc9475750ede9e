import json

import numpy as np
import pytest
import torch
from tiny_weights import save_tiny_weights

from MaskGIL.pipeline import Pipeline
from Metrics.record import describe_samples, find_record, summary, versions, write_record
from Network.config import UserError

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
    assert same["num_steps"] == 4  # settings of the sampler stand beside


def test_a_new_place_has_no_record(tmp_path):
    assert find_record(tmp_path / "new/a.npz", SAMPLES) is None


def test_a_complete_set_is_found_and_a_lost_one_made_again(tmp_path):
    out = tmp_path / "a.npz"
    write_record(out, {"samples": SAMPLES, "made": MADE})
    assert find_record(out, SAMPLES) is None  # stopped before the set was there
    out.write_bytes(b"")
    assert find_record(out, SAMPLES) == {"format": 1, "samples": SAMPLES, "made": MADE}


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
    record["metrics"] = {"distance": 1.23456, "spread": None, "near training images": near}
    lines = dict(line.split("  ", 1) for line in summary(tmp_path / "a.npz", record).splitlines())
    texts = {name: text.strip() for name, text in lines.items()}
    assert texts == {
        "samples": f"{tmp_path / 'a.npz'}, 2.0 s, 2.0 img/s",
        "reference": "shapes (val), 2,048",
        "distance": "1.235",
        "spread": "too few images of a class",
        "near training images": "25.00% (1.00% of the reference)",
        "FID": "not part of this version",
        "record": str(tmp_path / "a.json"),
    }
