"""What an image costs, against what the plan and the guidance say."""

import os
from dataclasses import replace
from functools import partial

import pytest
import tiny
import torch

from MaskGIL import inference
from MaskGIL.inference import compile_blocks
from MaskGIL.pipeline import Pipeline
from MaskGIL.sampling import SamplingConfig
from Metrics import cost as module
from Metrics.cost import ROUNDS, count_cost, machine, network_calls, spread, time_in_turns

LABELS = torch.tensor([0, 1, 2])


@pytest.fixture(scope="module")
def pipe():
    return Pipeline(
        tiny.network().float(),
        tiny.tokenizer(),
        "abc",
        SamplingConfig(num_steps=4, guidance_scale=1.0),
        objective="both",
    )


@pytest.mark.parametrize(
    ("changes", "steps", "passes"),
    [
        ({}, 4, 4),
        ({"guidance_scale": 2.0, "guidance": "constant"}, 4, 8),
        ({"guidance_scale": 2.0, "guidance": "linear"}, 4, 7),  # it begins at 1: no null pass
        ({"plan": "ar"}, 16, 16),
        ({"plan": "ar", "guidance_scale": 2.0, "guidance": "constant"}, 16, 32),
        ({"plan": "hybrid", "num_ar": 5, "num_steps": 3}, 8, 8),
    ],
)
def test_steps_and_passes_are_those_of_the_plan(pipe, changes, steps, passes):
    found = count_cost(pipe, LABELS, None, replace(pipe.sampling, **changes))
    assert found["sequential steps"] == found["network calls"] == steps
    assert found["network passes"] == passes
    assert "hidden" not in vars(pipe.network)  # nothing is left of the counting


def test_operations_of_one_step_by_hand(pipe):
    """Two per multiply-add; blocks of width D and inner width I over the condition and N tokens."""
    found = count_cost(pipe, LABELS, None, replace(pipe.sampling, num_steps=1))
    depth, width, tokens, inner, codes = 2, 32, 16, 256, 11
    of_token = 2 * (4 * width**2 + 3 * width * inner)
    attention = 4 * width * tokens * (tokens + 1)  # the condition, alone with itself, needs none
    by_hand = depth * ((tokens + 1) * of_token + attention) + 2 * tokens * width * codes
    assert found["gigaflops"] * 1e9 == pytest.approx(by_hand)
    assert found["gigaflops of pixels"] > 0


def test_operations_of_an_image_do_not_depend_on_the_batch(pipe):
    one, three = (count_cost(pipe, LABELS[:n], None, pipe.sampling) for n in (1, 3))
    assert {**one, "gigaflops of pixels": 0} == {**three, "gigaflops of pixels": 0}
    cached = count_cost(pipe, LABELS, None, replace(pipe.sampling, plan="ar"))
    assert cached["gigaflops"] < one["gigaflops"]  # 16 steps of a token against 4 of 16


def test_nothing_is_compiled_to_be_counted(pipe, monkeypatch):
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    plain = count_cost(pipe, LABELS, None, pipe.sampling)
    monkeypatch.setattr(inference.torch, "compile", partial(torch.compile, backend=backend))
    own = Pipeline(tiny.network().float(), pipe.tokenizer, "abc", pipe.sampling)
    compile_blocks(own.network)
    assert count_cost(own, LABELS, None, pipe.sampling) == plain
    assert not compiled  # PyTorch leaves it while operations are counted
    own.sample_tokens(LABELS, LABELS)
    assert compiled


def test_calls_are_counted_whatever_ends_them(pipe):
    with pytest.raises(IndexError), network_calls(pipe) as calls:
        pipe.network.hidden(tiny.tokens() + 99, pipe.network.encode(LABELS[:2]))
    assert calls == [2]
    assert "hidden" not in vars(pipe.network)


def test_samplers_take_turns_and_pixels_come_on_top(pipe, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock) * 3.0)
    samplers = {"one": pipe.sampling, "two": replace(pipe.sampling, num_steps=1)}
    asked = []
    monkeypatch.setattr(
        *(pipe, "sample_tokens"),
        lambda labels, seeds, s, null: asked.append((s, null)) or tiny.tokens(3) % 11,
    )
    found = list(time_in_turns(pipe, LABELS, None, samplers))
    assert found == [("one", 1.0, 2.0), ("two", 1.0, 2.0)] * ROUNDS
    assert asked == [(sampling, None) for sampling in samplers.values()] * ROUNDS


def test_a_median_to_four_digits():
    assert spread([3.00004, 1.0, 99.0]) == {"median": 3.0, "least": 1.0, "most": 99.0}


def test_the_machine_is_named():
    found = machine(torch.device("cpu"))
    assert found["threads"] == torch.get_num_threads()
    assert found["device"] == f"cpu ({found['threads']} threads)"
    assert len(found["load"]) == len(os.getloadavg())
    assert found["versions"]["torch"] == torch.__version__
