import re

import numpy as np
import pytest
import torch

from MaskGIL.arguments import read_seeds, read_settings
from Network.config import UserError


@pytest.mark.parametrize(
    ("generator", "expected"),
    [
        (5, 5),
        (np.int64(-5), -5),
        (torch.tensor(5), 5),
        ([3, np.int32(4)], [3, 4]),
        ((3, 4), [3, 4]),
        (range(3, 5), [3, 4]),
        (torch.tensor([3, 4]), [3, 4]),
        (np.array([3, 4]), [3, 4]),
        (2**63 - 1, 2**63 - 1),
        (-(2**63), -(2**63)),
    ],
)
def test_seeds_of_every_kind(generator, expected):
    assert read_seeds(generator, 2) == expected


def test_no_seed_is_a_random_one():
    assert len({read_seeds(None, 2) for _ in range(8)}) == 8


def test_generators_give_the_seeds_that_they_draw():
    first, second = (torch.Generator().manual_seed(seed) for seed in (1, 2))
    one = read_seeds(torch.Generator().manual_seed(1), 2)
    other = read_seeds(torch.Generator().manual_seed(2), 2)
    assert read_seeds([first, second], 2) == [one, other]
    assert read_seeds([first, second], 2) != [one, other]  # they have moved on


@pytest.mark.parametrize(
    ("generator", "sentence"),
    [
        ("5", "generator is '5'; give a seed, a torch.Generator, one of them for each image, or N"),
        (True, "generator is True; give a seed"),
        ([1, None], "generator is None; give a seed"),
        (torch.tensor([0.5, 1.0]), "generator is 0.5; give a seed"),
        (2**63, "generator=9223372036854775808 is no seed of 64 signed bits; give one up to 92233"),
        (
            [1],
            "generator has 1 seed for 2 images; give one for each, or one alone.",
        ),
    ],
)
def test_sentences_of_seeds(generator, sentence):
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}"):
        read_seeds(generator, 2)


def test_settings_become_plain_python():
    given = {
        "num_inference_steps": np.int64(3),
        "guidance_scale": np.float32(1.5),
        "temperature": 1,
        "last_temperature": None,
        "counts": np.array([4, 12]),
        "two_passes": np.True_,
        "order": "halton",
    }
    found = read_settings(given)
    assert found == {
        "num_steps": 3, "guidance_scale": 1.5, "temperature": 1.0, "counts": (4, 12),
        "two_passes": True, "order": "halton",
    }  # fmt: skip
    kinds = [int, float, float, tuple, bool, str]
    assert [type(value) for value in found.values()] == kinds
    assert type(found["counts"][0]) is int


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"num_step": 4}, "Unknown argument 'num_step'. Did you mean 'num_steps'?"),
        ({"zzz": 4}, "Unknown argument 'zzz'. Settings are plan, num_ar, num_steps,"),
        ({"num_steps": True}, "num_steps takes a whole number, not True."),
        ({"num_steps": 8.0}, "num_steps takes a whole number, not 8.0."),
        ({"num_ar": "4"}, "num_ar takes a whole number or null, not '4'."),
        ({"temperature": "1"}, "temperature takes a number, not '1'."),
        ({"two_passes": 1}, "two_passes takes true or false, not 1."),
        ({"counts": 4}, "counts takes a list of values (a,b), each a whole number, not 4."),
        ({"counts": (4, 2.5)}, "counts takes a whole number, not 2.5."),
        ({"order": 3}, "order takes one of confidence, random, halton, local, not 3."),
        (
            {"num_steps": 2, "num_inference_steps": 2},
            "num_inference_steps and num_steps are the same; give one of them.",
        ),
    ],
)
def test_sentences_of_settings(given, sentence):
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}"):
        read_settings(given)
