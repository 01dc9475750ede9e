from math import sqrt

import pytest

from Metrics.row import numbers_of, row_of, words_of
from Network.config import UserError

NAMED = {"name": "a", "data": "shapes", "generator": "tiny"}
REFERENCE = {"name": "val", "sha256": "7" * 64, "count": 64}
REFERENCE |= {"split": "val", "transform": "none", "image_size": [16, 16]}


def record(**changes):
    """A scored record as FID_sample.py writes it, as far as a row needs it."""
    return {
        "asked": {"weights": "runs/a b/weights", "classes": ["cat", "dog"], "out": "a.npz"},
        "image_size": [16, 16],
        "parameters": 1234,
        "samples": {"num_images": 40, "precision": "fp32"},
        "sha256": "5" * 64,
        "features": {"shapesnet-1": "6" * 64},
        "reference": {**REFERENCE, "unreadable": {}},
        "metrics": {
            "shapesnet-1 distance": 50.0,
            "shapesnet-1 KID": 0.0,
            "spread of size": None,
            "near training images": {"share": 0.25, "threshold": 1.0},
            "shapesnet-1 ladder": {"in order": True},
            "classifier": {"accuracy": {"samples": 0.5}},
        },
        "intervals": {
            "shapesnet-1 distance": {"low": 40.0, "high": 48.0, "extrapolated": 44.0},
            "shapesnet-1 KID": {"low": -0.5, "high": 0.5},
        },
        "fid": None,
        "sfid": None,
        "inception_score": 7,
        "inception_score_shuffled": None,
        "made": {"versions": {"commit": "abc"}},
        "scored_with": {"commit": "abc"},
        **changes,
    }


def test_numbers_are_those_of_the_images_alone():
    assert numbers_of(record()) == {
        "inception score": 7.0,
        "shapesnet-1 distance": 50.0,
        "shapesnet-1 KID": 0.0,
        "near training images": 0.25,
    }


def test_a_row_has_its_numbers_with_intervals_and_tolerances():
    row = row_of(record(), **NAMED)
    assert (row["set_sha256"], row["parameters"]) == ("5" * 64, 1234)
    assert row["reference"] == REFERENCE
    interval = {"low": 40.0, "high": 48.0, "extrapolated": 44.0}
    tolerance = {"same bytes": pytest.approx(0.05), "other bytes": pytest.approx(4 * sqrt(2))}
    assert row["numbers"]["shapesnet-1 distance"] == {
        "value": 50.0,
        "interval": interval,
        "tolerance": tolerance,
    }
    # A number near 0 is rounded by as much as its terms, of which the interval tells
    assert row["numbers"]["shapesnet-1 KID"]["tolerance"]["same bytes"] == pytest.approx(0.0005)
    alone = row["numbers"]["near training images"]
    assert (alone["interval"], alone["tolerance"]["other bytes"]) == (None, None)


def test_the_command_is_what_was_asked_without_places_for_results():
    row = row_of(record(), **NAMED)
    assert row["command"] == (
        "python FID_sample.py 'weights=runs/a b/weights' classes=cat,dog precision=fp32"
    )
    assert words_of(row) == ["weights=runs/a b/weights", "classes=cat,dog", "precision=fp32"]


def test_what_a_later_scoring_left_out_is_asked_for_again():
    asked = {"precision_recall": False, "inception": "none", "ladder": True, "device": "cpu"}
    assert words_of(row_of(record(asked=asked), **NAMED)) == ["inception=none", "precision=fp32"]
    assert words_of(row_of(record(asked=asked, fid=3.0), **NAMED)) == ["precision=fp32"]
    few = words_of(row_of(record(asked=asked, intervals={}), **NAMED))
    assert few == ["precision_recall=false", "inception=none", "precision=fp32"]


def test_both_commits_are_told():
    assert row_of(record(), **NAMED)["commit"] == "abc"
    other = record(scored_with={"commit": "def"})
    assert row_of(other, **NAMED)["commit"] == "abc, scored at def"
    old = record(made={"versions": {}})
    assert row_of(old, **NAMED)["commit"] == "unknown, scored at abc"


def test_without_scores_there_is_no_row():
    without = record()
    del without["asked"]
    for unscored in (record(reference=None), without, {"samples": {}}):
        with pytest.raises(UserError, match="is of no set that this version made and scored"):
            row_of(unscored, **NAMED)
