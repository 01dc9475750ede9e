import re
from pathlib import Path

import pytest

from Metrics.schema import check_kind
from Network.config import UserError

FILE = Path("results/a.json")
KIND = {
    "name": str,
    "count": int,
    "share": (float, int),
    "ema": bool,
    "size": [int],
    "note": (str, None),
    "seed?": int,
    "numbers": {str: {"value": float}},
    "other": object,
}
VALUE = {
    "name": "a",
    "count": 3,
    "share": 0.5,
    "ema": True,
    "size": [1, 2],
    "note": None,
    "numbers": {"FID": {"value": 1.5}, "any name": {"value": 2.5}},
    "other": [{}],
}


@pytest.mark.parametrize(
    "changes",
    [{}, {"share": 1, "note": "b", "seed": 0}, {"size": [], "numbers": {}, "other": None}],
)
def test_what_fits_passes(changes):
    check_kind({**VALUE, **changes}, KIND, FILE)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"count": "3"}, "results/a.json: count must be a whole number, not '3'."),
        ({"count": 3.0}, "results/a.json: count must be a whole number, not 3.0."),
        ({"count": True}, "results/a.json: count must be a whole number, not True."),
        ({"ema": 1}, "results/a.json: ema must be true or false, not 1."),
        ({"share": None}, "results/a.json: share must be a number or a whole number, not null."),
        ({"note": 5}, "results/a.json: note must be text or null, not 5."),
        ({"seed": None}, "results/a.json: seed must be a whole number, not null."),
        ({"size": 1}, "results/a.json: size must be a list, not 1."),
        ({"size": [1, "2"]}, "results/a.json: size[1] must be a whole number, not '2'."),
        ({"numbers": []}, "results/a.json: numbers must be keys with values, not []."),
        ({"numbers": {"FID": {}}}, "results/a.json has no numbers.FID.value; add it."),
        (
            {"numbers": {"FID": {"value": 1.0, "valve": 2.0}}},
            "results/a.json has an unknown key numbers.FID.valve. Did you mean 'value'?",
        ),
        ({"zzz": 1}, "results/a.json has an unknown key zzz. Leave it out."),
    ],
)
def test_what_does_not_fit_is_named_with_file_and_key(changes, sentence):
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        check_kind({**VALUE, **changes}, KIND, FILE)


def test_a_missing_key_and_another_whole_value():
    without = {key: value for key, value in VALUE.items() if key != "ema"}
    with pytest.raises(UserError, match=r"^results/a\.json has no ema; add it\.$"):
        check_kind(without, KIND, FILE)
    with pytest.raises(UserError, match=r"^results/a\.json: it must be keys with values, not 5\.$"):
        check_kind(5, KIND, FILE)
