"""Settings without effect: those that are told are those that the samples do not depend on."""

from dataclasses import fields, replace

import pytest
import tiny
import torch

from MaskGIL.effects import (
    OF_DRAWS,
    OF_GUIDANCE,
    OF_MASKS,
    OFF,
    Sampler,
    check_effects,
    effective_settings,
    without_effect,
)
from MaskGIL.pipeline import Pipeline
from MaskGIL.plans import make_plan
from MaskGIL.sampling import SamplingConfig
from MaskGIL.sampling_keys import sampler_of
from Network.config import UserError

HYBRID = SamplingConfig(plan="hybrid", num_ar=4, num_steps=3, noise=2.0)
OTHER = {
    "num_ar": 9, "num_steps": 5, "schedule": "linear", "order": "halton", "noise": 50.0,
    "remask_by": "confidence", "guidance": "constant", "guidance_scale": 9.0, "guidance_from": 0.6,
    "guidance_until": 0.7, "two_passes": True, "top_k": 1, "top_p": 0.01, "min_p": 1.0,
    "positions": "linear",
}  # fmt: skip
CASES = {
    "mar": replace(HYBRID, plan="mar"),
    "ar": replace(HYBRID, plan="ar"),
    "hybrid": HYBRID,
    "by chance": replace(HYBRID, order="random"),
    "remasked": replace(HYBRID, remask=0.5),
    "counted": replace(HYBRID, counts=(2, 4, 6)),
    "not guided": replace(HYBRID, guidance_scale=1),
    "guided between the steps": replace(HYBRID, guidance_from=0.01, guidance_until=0.02),
    "guided where the ramp begins": replace(HYBRID, plan="mar", guidance_until=0.0),
    "greedy": replace(HYBRID, temperature=0),
    "greedy in the end": replace(HYBRID, temperature=1, last_temperature=0),
}


SWITCHES = {"guidance", "guidance_scale", "guidance_from", "guidance_until"}
# Beside these a change of the key is refused, or asks for another one
UNTRIED = {
    "counted": {"num_ar", "num_steps"},
    "guided between the steps": {"guidance_from"},
    "guided where the ramp begins": {"guidance_from"},
}


@pytest.fixture(scope="module")
def pipe():
    """16 tokens; the network answers to every plan."""
    return Pipeline(tiny.network().float(), tiny.tokenizer(), "abc", objective="both")


def sampled(pipe, settings):
    return pipe.sample_tokens(torch.tensor([0, 1, 2, 0] * 8), torch.arange(32), settings)


def tried(case):
    keys = OTHER.keys() - UNTRIED.get(case, set())
    return {key: replace(CASES[case], **{key: OTHER[key]}) for key in sorted(keys)}


@pytest.mark.parametrize("case", CASES)
def test_samples_depend_on_all_other_settings_and_not_on_these(pipe, case):
    sampler, before = sampler_of(pipe, CASES[case]), sampled(pipe, CASES[case])
    same = {key for key, other in tried(case).items() if sampled(pipe, other).equal(before)}
    # Two passes cost memory alone; without guidance another value may turn it on
    apart = {"two_passes"} if sampler.guided else {"two_passes", *SWITCHES}
    assert same - apart == (without_effect(sampler).keys() & tried(case).keys()) - apart


def test_weights_without_classes_have_no_guidance():
    network = tiny.network(num_classes=0).float()
    sampler = sampler_of(Pipeline(network, tiny.tokenizer(), ()), SamplingConfig(num_steps=2))
    assert not sampler.guided
    assert without_effect(sampler).keys() >= set(OF_GUIDANCE)


@pytest.mark.parametrize("grid", [(4, 4), (3, 4), (4, 5), (6, 2)])
@pytest.mark.parametrize("changes", [{}, {"longest": (4, 6)}, {"rotary": "published"}])
def test_positions_matter_where_a_side_is_longer_than_in_training(changes, grid):
    pipe = Pipeline(tiny.network(**changes).float(), tiny.tokenizer(), "abc")
    settings, labels = SamplingConfig(num_steps=3), torch.tensor([0, 1, 2, 0] * 8)
    none, ntk = (
        pipe.sample_tokens(labels, torch.arange(32), replace(settings, positions=positions), grid)
        for positions in ("none", "ntk")
    )
    assert none.equal(ntk) == ("positions" in without_effect(sampler_of(pipe, settings, grid)))


def test_positions_matter_for_the_networks_of_the_plan():
    """Of two networks one may have seen longer sides than the other."""
    ar_network = tiny.network().float()
    pipe = Pipeline(tiny.network(longest=(6, 6)), tiny.tokenizer(), "abc", ar_network=ar_network)
    for plan, idle in (("mar", True), ("ar", False), ("hybrid", False)):
        sampler = sampler_of(pipe, SamplingConfig(plan=plan, num_ar=2), (4, 6))
        assert ("positions" in without_effect(sampler)) == idle
        assert sum(step.count for step in sampler.steps) == 24


def test_every_name_is_that_of_a_setting():
    known = {field.name for field in fields(SamplingConfig)}
    assert {*OF_MASKS, *OF_GUIDANCE, *OF_DRAWS, *OFF} <= known


def refusal(given, **settings):
    settings = SamplingConfig(**{"num_steps": 4, **settings, **given})
    steps = make_plan(16, settings, "both")
    with pytest.raises(UserError) as error:
        check_effects(given, [Sampler(settings, settings.plan, steps, has_null=True)])
    return str(error.value)


@pytest.mark.parametrize(
    ("given", "beside", "sentence"),
    [
        (
            {"num_ar": 4},
            {"plan": "mar"},
            "num_ar=4 has no effect: only plan=hybrid begins with single tokens; leave it out.",
        ),
        (
            {"order": "halton"},
            {"plan": "ar"},
            "order=halton has no effect: plan=ar draws one token a step, in raster order; leave it "
            "out.",
        ),
        (
            {"noise": 2.5},
            {"plan": "mar", "order": "random"},
            "noise=2.5 has no effect: only order=confidence asks for it; leave it out.",
        ),
        (
            {"remask_by": "confidence"},
            {"plan": "mar"},
            "remask_by=confidence has no effect: remask=0 hides no token again; leave it out.",
        ),
        (
            {"guidance": "cosine"},
            {"plan": "mar", "guidance_scale": 1},
            "guidance=cosine has no effect: no step has guidance: look at guidance_scale, "
            "guidance_from and guidance_until; leave it out.",
        ),
        (
            {"guidance_scale": 2.0, "guidance_from": 0.4, "guidance_until": 0.5},
            {"plan": "mar"},
            "guidance_scale=2.0 has no effect: no step has guidance: look at guidance_scale, "
            "guidance_from and guidance_until; leave it out.",
        ),
        (
            {"top_k": 5},
            {"plan": "mar", "temperature": 0},
            "top_k=5 has no effect: temperature=0 takes the most likely code; leave it out.",
        ),
        (
            {"positions": "ntk"},
            {"plan": "mar"},
            "positions=ntk has no effect: no side is longer than those of training, or its "
            "positions are not those of rows and columns alone; leave it out.",
        ),
    ],
)
def test_sentences(given, beside, sentence):
    assert refusal(given, **beside) == sentence


def test_what_asks_for_nothing_is_never_refused():
    settings = SamplingConfig(plan="ar", guidance_scale=1, temperature=0)
    sampler = Sampler(settings, "ar", make_plan(16, settings, "ar"), has_null=True)
    off = {"counts": (), "legacy": False, "remask": 0.0, "two_passes": False, "guidance_from": 0.0}
    off["positions"] = "none"
    check_effects({**off, "guidance_until": 1.0, "top_p": 1.0, "guidance_scale": 1.0}, [sampler])


def test_an_effect_on_one_of_several_samplers_is_enough():
    samplers = [
        Sampler(settings, settings.plan, make_plan(16, settings, "both"), has_null=True)
        for settings in (SamplingConfig(plan="mar"), SamplingConfig(plan="hybrid", num_ar=4))
    ]
    check_effects({"num_ar": 4}, samplers)
    with pytest.raises(UserError):
        check_effects({"num_ar": 4}, samplers[:1])


def test_samplers_that_sample_alike_have_the_same_settings_with_an_effect(pipe):
    one, other = (
        effective_settings(sampler_of(pipe, replace(CASES["by chance"], noise=noise)))
        for noise in (1.0, 2.0)
    )
    assert one == other
    assert one != effective_settings(sampler_of(pipe, CASES["hybrid"]))
