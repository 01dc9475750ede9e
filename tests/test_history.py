import numpy as np
import pytest
import tiny
import torch
from tiny_text import save_encoder, text_pipeline

from MaskGIL import history as module
from MaskGIL.data.crops import to_uint8
from MaskGIL.history import History, frames, sample_history, spread_steps, write_tokens
from MaskGIL.pictures import MASKED_GREY, grey_out
from MaskGIL.pipeline import Pipeline, image_seeds
from MaskGIL.prompting import Texts
from MaskGIL.sampling import SamplingConfig

MASK, LABELS = 11, torch.tensor([0, 2, 1])
PLANS = {
    "mar": SamplingConfig(num_steps=5),
    "ar": SamplingConfig(plan="ar"),
    "hybrid": SamplingConfig(plan="hybrid", num_ar=3, num_steps=4, order="halton"),
    "remask": SamplingConfig(num_steps=5, schedule="linear", remask=0.6),
}


def pipeline(settings):
    """4x4 tokens, 8x8 pixels."""
    return Pipeline(
        tiny.network().float(), tiny.tokenizer(), sampling=settings, objective="both"
    )  # fmt: skip


def sampled(name):
    pipe = pipeline(PLANS[name])
    parts = sample_history(pipe, LABELS, image_seeds(0, torch.arange(3)))
    return pipe, History.cat([*parts])


@pytest.mark.parametrize("name", PLANS)
def test_a_history_is_what_the_pipeline_does(name):
    pipe, found = sampled(name)
    seen = []
    expected = pipe([0, 2, 1], output_type="uint8",
                    callback_on_step_end=lambda *given: seen.append(given[2]))  # fmt: skip
    assert torch.equal(found.images, expected.images)
    assert torch.equal(found.tokens, torch.stack([each["tokens"] for each in seen]).int())
    assert torch.equal(found.tokens[-1], expected.tokens.int())
    assert torch.equal(found.confidence, seen[-1]["confidence"])


def test_a_large_set_is_sampled_in_parts(monkeypatch):
    _, whole = sampled("remask")
    monkeypatch.setattr(module, "BATCH", 2)
    _, parts = sampled("remask")
    assert torch.equal(parts.tokens, whole.tokens)
    assert torch.equal(parts.images, whole.images)
    assert torch.equal(parts.first(2).tokens, whole.tokens[:, :2])
    assert torch.equal(parts.first(2).images, whole.images[:2])
    assert torch.equal(parts.first(2).confidence, whole.confidence[:2])


@pytest.mark.parametrize("name", ["mar", "ar", "hybrid"])
def test_a_frame_is_the_last_image_where_it_is_revealed(name):
    pipe, found = sampled(name)
    for step, frame in enumerate(frames(pipe, found, range(len(found.tokens)))):
        assert torch.equal(frame, grey_out(found.images, found.tokens[step] == MASK))


def test_a_frame_shows_what_its_step_had():
    """Where tokens are hidden again some are other ones than at the end."""
    pipe, found = sampled("remask")
    shown, others = frames(pipe, found, range(5)), 0
    for step, frame in enumerate(shown):
        hidden = found.tokens[step] == MASK
        filled = torch.where(hidden, found.tokens[-1], found.tokens[step])
        expected = to_uint8(pipe.pixels(filled.long()))
        assert (frame.int() - grey_out(expected, hidden).int()).abs().max() <= 1
        others += (frame != grey_out(found.images, hidden)).sum().item()
        wide = hidden.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None]
        assert (frame[wide.expand_as(frame)] == MASKED_GREY).all()
    assert others > 0
    assert torch.equal(shown[-1], found.images)


@pytest.mark.parametrize("most", [1, 5, 16, 64, 100])
def test_steps_are_spread_evenly_and_the_last_is_shown(most):
    shown = spread_steps(64, most)
    assert len(shown) == min(most, 64)
    assert shown[-1] == 63
    gaps = {after - before for before, after in zip([-1, *shown], shown)}
    assert max(gaps) - min(gaps) <= 1


def test_tokens_are_written(tmp_path):
    tokens = torch.arange(24, dtype=torch.int32).view(2, 3, 2, 2)
    found = History(torch.zeros(3, 3, 4, 4, dtype=torch.uint8), tokens, torch.full((3, 2, 2), -0.5))
    write_tokens(tmp_path / "new/steps.npz", found, LABELS, MASK)
    with np.load(tmp_path / "new/steps.npz") as stored:
        assert set(stored) == {"tokens", "confidence", "labels", "mask_id"}
        assert np.array_equal(stored["tokens"], tokens)
        assert np.array_equal(stored["confidence"], np.full((3, 2, 2), -0.5, np.float32))
        assert stored["labels"].tolist() == [0, 2, 1]
        assert stored["mask_id"] == MASK


def test_prompts_are_sampled_in_parts_and_written(tmp_path, monkeypatch):
    pipe = text_pipeline(save_encoder(tmp_path / "encoder"))
    prompts, seeds = ["a star", "a red ring, a heart", "a blue ring"], torch.tensor([5, 6, 7])
    texts = Texts(pipe.encode_prompts, prompts)
    against = Texts(pipe.encode_prompts, ["dark"] * 3)
    monkeypatch.setattr(module, "BATCH", 2)
    found = History.cat([*sample_history(pipe, texts, seeds, against, (2, 6))])
    expected = pipe(
        prompt=prompts, negative_prompt="dark", generator=seeds, height=4, width=12,
        output_type="uint8",
    )  # fmt: skip
    assert torch.equal(found.tokens[-1], expected.tokens.int())
    assert torch.equal(found.images, expected.images)
    write_tokens(tmp_path / "steps.npz", found, texts, MASK)
    with np.load(tmp_path / "steps.npz") as stored:
        assert stored["prompts"].tolist() == prompts
        assert "labels" not in stored
