from typing import get_type_hints

import pytest
from tiny_weights import save_tiny_weights

from MaskGIL.config import load_config
from MaskGIL.sampling import SamplingConfig
from MaskGIL.sampling_keys import SamplingKeys, load_pipeline, open_pipeline, sampler_line
from Network.config import UserError


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_tiny_weights(tmp_path_factory.mktemp("run") / "weights")


def opened(weights, *words):
    return open_pipeline(load_config(SamplingKeys, None, [f"weights={weights}", *words]))


def test_null_keys_leave_the_settings_of_the_weights(weights):
    assert opened(weights).sampling == SamplingConfig(num_steps=4)


def test_every_key_replaces_its_setting(weights):
    words = ["num_steps=2", "schedule=cosine", "guidance_scale=1", "temperature=0.5", "top_k=7"]
    words += ["num_ar=3"]
    words += ["counts=16,48", "legacy=false", "remask=0.1", "remask_by=confidence"]
    words += ["noise=0", "order=random", "guidance=cosine", "plan=mar", "guidance_power=0.5"]
    words += ["guidance_from=0.25", "guidance_until=0.75", "two_passes=true"]
    words += ["last_temperature=1", "top_p=0.9", "min_p=0.01", "positions=linear"]
    keys = load_config(SamplingKeys, None, [f"weights={weights}", *words])
    assert load_pipeline(keys).sampling == SamplingConfig(
        plan="mar",
        num_ar=3,
        num_steps=2,
        counts=(16, 48),
        remask=0.1,
        remask_by="confidence",
        schedule="cosine",
        order="random",
        noise=0,
        guidance="cosine",
        guidance_scale=1,
        guidance_power=0.5,
        guidance_from=0.25,
        guidance_until=0.75,
        two_passes=True,
        temperature=0.5,
        last_temperature=1,
        top_k=7,
        top_p=0.9,
        min_p=0.01,
        positions="linear",
    )


def test_no_setting_of_a_sampler_is_left_out():
    asked = get_type_hints(SamplingKeys)
    for name, kind in get_type_hints(SamplingConfig).items():
        assert asked[name] == kind | None, name


def test_ema_chooses_the_weights(weights):
    averaged, last = (opened(weights, "precision=fp32", word) for word in ("ema=true", "ema=false"))
    change = averaged.network.output.weight - last.network.output.weight
    assert change.mean().item() == pytest.approx(0.01, rel=1e-4)  # as `save_tiny_weights` adds


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["weights="], "weights is empty; name the folder of a generator, weights=RUN/weights."),
        (["num_steps=65"], "num_steps=65 must lie between 1 and the number of tokens, 64."),
        (
            ["plan=ar"],
            "plan=ar asks for what these weights have not learned: they were trained with "
            "objective=mar; use plan=mar, or sample with an AR network beside them, "
            "ar_weights=RUN/weights.",
        ),
        (
            ["num_ar=3"],
            "num_ar=3 has no effect: only plan=hybrid begins with single tokens; leave it out.",
        ),
        (
            ["noise=2", "order=random"],
            "noise=2.0 has no effect: only order=confidence asks for it; leave it out.",
        ),
        (
            ["positions=ntk"],
            "positions=ntk has no effect: no side is longer than those of training, or its "
            "positions are not those of rows and columns alone; leave it out.",
        ),
        (["temperature=-1"], "temperature must be at least 0, not -1.0."),
        (["top_p=1.5"], "top_p must lie in [0, 1], not 1.5."),
        (
            ["guidance=ramp"],
            "guidance takes one of constant, linear, cosine or null, not 'ramp' on the command "
            "line.",
        ),
        (
            ["guidance_power=2"],
            "guidance_power=2 is of guidance=cosine, not of guidance=linear; use "
            "guidance=cosine or guidance_power=1.",
        ),
        (["seed=-1"], "seed must lie in [0, 9223372036854775807], not -1."),
        (
            ["text_encoder=flan-t5-xl"],
            "text_encoder=flan-t5-xl has no effect: these weights know no prompts; leave it out.",
        ),
        (["device=tpu"], "Unknown device 'tpu'. Known: auto, cuda, mps, cpu."),
    ],
)
def test_mistakes_are_told_before_anything_is_sampled(weights, words, sentence):
    with pytest.raises(UserError) as error:
        opened(weights, *words)
    assert str(error.value) == sentence


def test_a_missing_folder_is_told_with_its_neighbours(weights):
    with pytest.raises(UserError, match=r"No such weights folder: .*wieghts\. .* holds: weights\."):
        opened(weights.with_name("wieghts"))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["order=halton"], "4 steps, guidance 3, temperature 1, by halton"),
        (["guidance_scale=1"], "4 steps, no guidance, temperature 1, by confidence"),
    ],
)
def test_what_is_said_of_a_sampler(weights, words, line):
    assert sampler_line(opened(weights, *words)) == f"sampler    {line}"


def test_a_plan_of_single_tokens_and_a_hybrid_are_told(weights):
    pipe = opened(weights)
    pipe.objective = "both"
    for plan, told in (("ar", "64 steps"), ("hybrid", "20 steps")):
        pipe.sampling = pipe.sampling.changed(plan=plan, num_ar=16)
        assert sampler_line(pipe).startswith(f"sampler    {told}, ")
        assert "one by one" in sampler_line(pipe)
    assert sampler_line(pipe).endswith("16 tokens one by one, the rest by confidence")
