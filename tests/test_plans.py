"""Plans: counts that add up, equal to formulas and to the published tables."""

import json
from pathlib import Path

import pytest
import tiny
import torch

from MaskGIL.masking import SCHEDULES
from MaskGIL.orders import ORDERS
from MaskGIL.plans import OBJECTIVES, PLANS, ar_plan, hybrid_plan, make_plan, mar_plan, plan_kind
from MaskGIL.sampling import SamplingConfig
from Network.config import UserError

PUBLISHED = json.loads((Path(__file__).parent / "fixtures/orders.json").read_text())["legacy"]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("num_tokens", [1, 16, 256, 576])
def test_a_plan_for_any_number_of_steps(num_tokens, schedule):
    """Arccos by plain rounding reveals negative numbers from 128 steps on."""
    for num_steps in range(1, num_tokens + 1):
        plan = mar_plan(num_tokens, num_steps, schedule)
        counts = [step.count for step in plan]
        assert len(counts) == num_steps
        assert min(counts) >= 1
        assert sum(counts) == num_tokens
        assert plan[-1].progress == 1
        assert num_steps == 1 or plan[0].progress == 0


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("num_steps", [4, 8, 12, 16])
def test_a_plan_follows_its_schedule(schedule, num_steps):
    """Whatever it must do to reveal one token a step: never further away than that."""
    plan, revealed = mar_plan(256, num_steps, schedule), 0
    for index, step in enumerate(plan):
        revealed += step.count
        share = SCHEDULES[schedule]((index + 1) / num_steps, 256)
        exact = 256 * (1 - share)
        assert abs(revealed - exact) <= 0.5 or (step.count == 1 and revealed > exact)
        assert step.progress == pytest.approx(index / (num_steps - 1))
        assert step.order == "confidence"


def test_arccos_as_halton_maskgit_has_it():
    """Its 8 shares lie at i/7, rounded down (f61b0a1); ours at i/8: no step is almost empty."""
    steps = torch.tensor([step.count for step in mar_plan(256, 7)])
    theirs = torch.tensor([23, 47, 72, 99, 129, 167, 256])
    assert ((steps.cumsum(0) - theirs) >= 0).all()
    assert ((steps.cumsum(0) - theirs) <= 1).all()


def test_sentences_for_plans():
    for num_steps in (0, 17, -1):
        with pytest.raises(UserError, match=f"^num_steps={num_steps} must lie between 1 .*, 16.$"):
            mar_plan(16, num_steps)
    with pytest.raises(UserError, match=r"^Unknown schedule 'cosin'. Known: root, linear, .*exp.$"):
        mar_plan(16, 4, "cosin")
    with pytest.raises(UserError, match=r"^Unknown order 'hilton'. Known: confidence, random, h"):
        mar_plan(16, 4, order="hilton")


def test_a_raster_plan_reveals_one_token_a_step():
    for num_tokens in (1, 16, 256):
        plan = ar_plan(num_tokens)
        assert [step.count for step in plan] == [1] * num_tokens
        assert plan[0].progress == 0
        assert num_tokens == 1 or plan[-1].progress == 1


def test_the_plan_that_weights_have_learned():
    assert plan_kind("mar", "auto") == plan_kind("both", "auto") == "mar"
    assert plan_kind("ar", "auto") == plan_kind("both", "ar") == "ar"
    assert plan_kind("both", "hybrid") == "hybrid"
    assert make_plan(16, SamplingConfig(num_steps=5)) == mar_plan(16, 5)
    assert make_plan(16, SamplingConfig(plan="ar", num_steps=99), "both") == ar_plan(16)
    hybrid = SamplingConfig(plan="hybrid", num_ar=4, num_steps=5, order="local")
    assert make_plan(16, hybrid, "both") == hybrid_plan(16, 4, 5, order="local")
    whole = SamplingConfig(plan="hybrid", num_ar=16, num_steps=99)
    assert make_plan(16, whole, "both") == ar_plan(16)
    assert list(OBJECTIVES) == list(tiny.network().objectives)
    assert {kind for kinds in PLANS.values() for kind in kinds} == set(OBJECTIVES["both"])


@pytest.mark.parametrize("plan", ["mar", "hybrid"])
def test_weights_of_the_next_token_know_no_masks(plan):
    with pytest.raises(UserError) as error:
        plan_kind("ar", plan)
    assert str(error.value) == (
        f"plan={plan} asks for what these weights have not learned: they were trained with "
        "objective=ar; use plan=ar; for plan=hybrid name them as ar_weights beside weights of "
        "masks."
    )


@pytest.mark.parametrize("plan", ["ar", "hybrid"])
def test_weights_of_masks_need_an_ar_network_beside_them(plan):
    with pytest.raises(UserError) as error:
        plan_kind("mar", plan)
    assert str(error.value) == (
        f"plan={plan} asks for what these weights have not learned: they were trained with "
        "objective=mar; use plan=mar, or sample with an AR network beside them, "
        "ar_weights=RUN/weights."
    )


# Hybrids


@pytest.mark.parametrize("num_tokens", [1, 2, 16, 64, 256])
def test_a_hybrid_ends_in_the_pure_plans(num_tokens):
    """With the same progress, bit for bit."""
    assert hybrid_plan(num_tokens, num_tokens, 99) == ar_plan(num_tokens)
    for num_steps in {1, 2, min(8, num_tokens), num_tokens} - {0}:
        if num_steps <= num_tokens:
            for order in ORDERS:
                masked = mar_plan(num_tokens, num_steps, "cosine", order)
                assert hybrid_plan(num_tokens, 0, num_steps, "cosine", order) == masked


def test_a_hybrid_is_one_by_one_then_many_at_once():
    for num_ar in range(16):
        plan = hybrid_plan(16, num_ar, 1 + (15 - num_ar) // 2, "linear", "halton")
        raster, masked = plan[:num_ar], plan[num_ar:]
        assert {step.kind for step in raster} <= {"ar"}
        assert {step.kind for step in masked} == {"mar"}
        counts = [step.count for step in mar_plan(16 - num_ar, len(masked), "linear")]
        assert [step.count for step in masked] == counts
        assert [step.progress for step in raster] == [i / 15 for i in range(num_ar)]
        progress = [step.progress for step in plan]
        assert progress == sorted(progress)
        assert progress[-1] == 1
        assert len(masked) == 1 or masked[0].progress == num_ar / 16


def test_sentences_for_hybrids():
    for num_ar in (-1, 17):
        with pytest.raises(UserError) as error:
            hybrid_plan(16, num_ar, 4)
        assert str(error.value) == (
            f"num_ar={num_ar} must lie between 0 and the number of tokens, 16."
        )
    with pytest.raises(UserError, match=r"^num_steps=4 must lie between 1 and .* tokens, 3\.$"):
        hybrid_plan(16, 13, 4)
    with pytest.raises(UserError, match=r"^plan=hybrid needs num_ar=K: so many tokens are drawn"):
        make_plan(16, SamplingConfig(plan="hybrid"), "both")


# Counts


def test_counts_of_ones_own():
    plan = make_plan(64, SamplingConfig().changed(counts=(4, 12, 48), order="random"))
    assert [step.count for step in plan] == [4, 12, 48]
    assert [step.progress for step in plan] == [0, 0.5, 1]
    assert {step.order for step in plan} == {"random"}
    hybrid = SamplingConfig().changed(counts=(4, 8), plan="hybrid", num_ar=4)
    assert [step.count for step in make_plan(16, hybrid, "both")] == [1, 1, 1, 1, 4, 8]
    with pytest.raises(UserError, match=r"^counts add up to 64; they must reveal 256 tokens\.$"):
        make_plan(256, SamplingConfig().changed(counts=(4, 12, 48)))


@pytest.mark.parametrize("schedule", PUBLISHED)
def test_legacy_counts_are_those_of_the_published_code(schedule):
    for num_steps, expected in PUBLISHED[schedule].items():
        settings = SamplingConfig(legacy=True, num_steps=int(num_steps), schedule=schedule)
        plan = make_plan(256, settings)
        assert [step.count for step in plan] == expected
        assert [step.progress for step in plan] == [
            step.progress for step in mar_plan(256, int(num_steps))
        ]


@pytest.mark.parametrize(
    ("num_tokens", "changes"),
    [(64, {}), (256, {"num_steps": 7}), (256, {"num_steps": 1}), (256, {"schedule": "exp"})],
)
def test_legacy_counts_are_refused_elsewhere(num_tokens, changes):
    settings = SamplingConfig(legacy=True).changed(**changes)
    with pytest.raises(UserError) as error:
        make_plan(num_tokens, settings)
    assert str(error.value) == (
        "legacy=true has tables of 256 masked tokens for 4, 8, 12, 16, 32 steps of root, linear, "
        f"square, cosine, arccos, none of {num_tokens} tokens for {settings.num_steps} steps of "
        f"{settings.schedule}; use legacy=false."
    )


def test_remask_needs_masked_steps():
    settings = SamplingConfig(remask=0.1)
    assert make_plan(16, settings) == mar_plan(16, 8)
    for objective, plan in (("ar", "auto"), ("both", "ar")):
        with pytest.raises(UserError) as error:
            make_plan(16, settings.changed(plan=plan), objective)
        assert str(error.value) == (
            "remask=0.1 hides tokens again, which plan=ar cannot draw anew; use remask=0."
        )
    with pytest.raises(UserError, match=r"^Unknown remask_by 'luck'. Known: random, confidence.$"):
        make_plan(16, settings.changed(remask_by="luck"))


def test_a_hybrid_of_single_tokens_alone_cannot_remask():
    settings = SamplingConfig(plan="hybrid", num_ar=16, remask=0.1)
    with pytest.raises(UserError) as error:
        make_plan(16, settings, "both")
    assert str(error.value) == (
        "remask=0.1 hides tokens again, which num_ar=16, all of the tokens, cannot draw anew; use "
        "remask=0."
    )


def test_steps_are_for_the_tokens_that_a_hybrid_leaves():
    settings = SamplingConfig(plan="hybrid", num_ar=12, num_steps=5)
    with pytest.raises(UserError) as error:
        make_plan(16, settings, "both")
    assert str(error.value) == (
        "num_steps=5 must lie between 1 and 4, the number of tokens that num_ar=12 leaves."
    )
