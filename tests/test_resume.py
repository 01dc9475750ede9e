"""A run that was stopped goes on exactly as if it had not been: 2n steps == n + stop + n.

Bit for bit, with dropout, class drop, flips, average, revival and a discriminator on.
"""

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import (
    CONFIGS,
    TRAINERS,
    fit,
    hashes,
    image_folder,
    records,
    text_weights,
    tokenizer_weights,
    train,
    tree,
)

from MaskGIL.config import load_config
from MaskGIL.weights import load_tokenizer, save_weights
from Network import build_tokenizer
from Network.config import UserError
from Trainer.config import RunConfig

STEPS, EPOCH = 12, 4  # 32 images in batches of 8
SHAKEN = {
    "generator": ("network.dropout=0.1", "data.crops=flip"),
    "tokenizer": (
        "reconstruction.revive_every=4", "data.crops=flip", "adversary.weight=0.5",
        "adversary.start=5", "adversary.adaptive=true", "adversary.lecam=0.1",
        "adversary.depth=2", "adversary.width=4",
    ),
    "both": ("objective=both", "network.low_bits=2", "network.dropout=0.1"),
    "text": (
        "objective=both", "network.dropout=0.1", "masking.class_drop=0.3", "text.skip_layers=1",
        "network.caption_whitening=true",
    ),
}  # fmt: skip
COMMON = ("data.num_images=32", "optim.batch=8", f"loop.steps={STEPS}", "loop.save_every=2")
COMMON += ("loop.validate_every=6",)
JOBS = ["generator", "tokenizer"]


@pytest.fixture(autouse=True, scope="module")
def few_validation_images():
    with pytest.MonkeyPatch.context() as patch:
        for file in ("generator_data", "vqgan"):
            patch.setattr(f"Trainer.{file}.VALIDATION_IMAGES", 20)
        yield


@pytest.fixture(scope="module", params=list(SHAKEN))
def uninterrupted(request, tmp_path_factory):
    """(job, its folder, the folder of the run) of a run to the last step in one go."""
    folder = text_weights(tmp_path_factory.mktemp("uninterrupted"))
    train(request.param, folder, *SHAKEN[request.param], *COMMON)
    return request.param, folder, folder / request.param


@pytest.mark.parametrize(
    ("stop", "workers"),
    [
        (6, 2),  # in mid-epoch
        (8, 0),  # between epochs
        pytest.param(6, 0, marks=pytest.mark.slow),
        pytest.param(8, 2, marks=pytest.mark.slow),
    ],
)
def test_two_halves_equal_the_whole(uninterrupted, tmp_path, stop, workers):
    job, folder, whole = uninterrupted
    assert (stop % EPOCH == 0) == (stop == 8)
    words = [*SHAKEN[job], *COMMON, f"data.workers={workers}", f"out_dir={tmp_path}"]
    words += [f"data.cache={whole / 'cache'}"]
    first = train(job, folder, *words, stop=stop + 1)  # one step is lost: it was not saved
    assert first.step == stop + 1
    second = train(job, folder, *words)
    assert second.log.start == stop
    assert hashes(tmp_path, STEPS) == hashes(whole, STEPS)
    assert records(tmp_path) == records(whole)
    assert records(tmp_path, "validation") == records(whole, "validation")
    first, second = (list(tree(run / "weights").values()) for run in (tmp_path, whole))
    assert first == second


def test_what_is_compared_is_not_the_same_at_every_step(uninterrupted):
    _, _, whole = uninterrupted
    before, after = hashes(whole, STEPS - 2), hashes(whole, STEPS)
    assert set(before) == {
        "model.safetensors", "ema.safetensors", "optim.safetensors", "extra.safetensors",
        "state.json",
    }  # fmt: skip
    constant = {name for name in before if before[name] == after[name]}
    assert constant <= {"extra.safetensors"}  # that of a generator is empty
    assert len({record["loss"] for record in records(whole)}) == STEPS


def test_another_seed_gives_other_losses(uninterrupted, tmp_path):
    job, folder, whole = uninterrupted
    words = [*SHAKEN[job], *COMMON, "loop.validate_every=0", "seed=1"]
    train(job, folder, *words, f"out_dir={tmp_path}", f"data.cache={whole / 'cache'}")
    # Not the first loss: the head of a fresh generator is zero, so that is log V for any seed
    assert records(tmp_path)[-1]["loss"] != pytest.approx(records(whole)[-1]["loss"], rel=1e-4)


def test_a_finished_run_only_exports_again(uninterrupted):
    job, folder, whole = uninterrupted
    before = tree(whole / "checkpoints") | tree(whole / "weights")
    lines = records(whole)
    assert train(job, folder, *SHAKEN[job], *COMMON).step == STEPS
    assert tree(whole / "checkpoints") | tree(whole / "weights") == before
    assert records(whole) == lines


def test_a_longer_run_goes_on_where_the_shorter_one_ended(tmp_path):
    tokenizer_weights(tmp_path)
    train("generator", tmp_path, "loop.steps=5")
    longer = train("generator", tmp_path, "loop.steps=8")
    assert (longer.log.start, longer.step) == (5, 8)
    lines = records(tmp_path / "generator")
    assert [line["step"] for line in lines] == list(range(1, 9))
    before, after = lines[4]["lr"], lines[5]["lr"]
    assert before < after  # a quarter of the highest, then half of it
    told = "\nloop.steps was 5: the learning rate follows the new schedule, from "
    told += f"{before:.1e} to {after:.1e}\n"
    assert (tmp_path / "generator" / "log.txt").read_text().count(told) == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((4, 2), (4, None)),  # only stopped
        ((2, None), (3, None)),  # the warm-up of 2 steps is that of any length
        ((4, None), (3, None)),  # no step follows
    ],
)
def test_the_schedule_is_told_only_where_it_jumps(tmp_path, first, second):
    tokenizer_weights(tmp_path)
    for steps, stop in (first, second):
        train("generator", tmp_path, f"loop.steps={steps}", "loop.save_every=1", stop=stop)
    assert "new schedule" not in (tmp_path / "generator" / "log.txt").read_text()


def test_the_tokenizer_may_move_but_not_change(tmp_path):
    tokenizer_weights(tmp_path / "one")
    tokenizer_weights(tmp_path / "same")
    tokenizer_weights(tmp_path / "other", seed=1)
    words = [f"out_dir={tmp_path / 'run'}", "data.tokens=online"]
    train("generator", tmp_path / "one", *words, "loop.steps=1")
    assert train("generator", tmp_path / "same", *words, "loop.steps=2").log.start == 1
    before = tree(tmp_path / "run")
    with pytest.raises(UserError, match=r"was trained with tokenizer \w{64}, here it is \w{64};"):
        train("generator", tmp_path / "other", *words, "loop.steps=3")
    assert tree(tmp_path / "run") == before


@pytest.mark.parametrize("job", JOBS)
def test_images_may_move_but_not_change(tmp_path, job):
    for name, classes in (("one", "cat dog"), ("same", "cat dog"), ("other", "cat cow")):
        image_folder(tmp_path / name, classes.split())
    image_folder(tmp_path / "fewer", train=7)
    tokenizer_weights(tmp_path)
    words = ["data.source=folder", "network.num_classes=2", "optim.batch=4", "data.tokens=online"]
    train(job, tmp_path, *words, f"data.path={tmp_path / 'one'}", "loop.steps=1")
    second = train(job, tmp_path, *words, f"data.path={tmp_path / 'same'}", "loop.steps=2")
    assert second.log.start == 1
    before = tree(tmp_path / job)
    for name, difference in (
        ("other", r"classes named \[2 of them, number 1 is dog\], here .* number 1 is cow\];"),
        ("fewer", "number of images 16, here it is 14;"),
    ):
        with pytest.raises(UserError, match=f"was trained with {difference}"):
            train(job, tmp_path, *words, f"data.path={tmp_path / name}", "loop.steps=3")
        assert tree(tmp_path / job) == before


def test_weights_for_users_are_written_with_every_checkpoint(tmp_path):
    words = ["loop.steps=5", "loop.save_every=2"]
    trainer = train("tokenizer", tmp_path, *words, stop=3)
    assert trainer.step == 3
    found = load_tokenizer(tmp_path / "tokenizer" / "weights").state_dict()
    saved = load_file(tmp_path / "tokenizer/checkpoints/step-0000002/ema.safetensors")
    assert all(torch.equal(found[name], saved[f"tokenizer.{name}"]) for name in found)


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_the_demo_itself_resumes_exactly(job, tmp_path):
    """Its configuration unchanged but for folders and for checkpoints in the first steps."""
    tokenizer = load_config(RunConfig, CONFIGS / "demo" / "tokenizer.yaml", []).tokenizer
    save_weights(tmp_path / "weights", build_tokenizer(tokenizer))

    def demo(run, stop):
        words = [f"out_dir={tmp_path / run}", f"data.cache={tmp_path / 'cache'}"]
        words += [f"tokenizer.weights={tmp_path / 'weights'}"] if job == "generator" else []
        words += ["loop.save_every=2", "loop.log_every=1"]
        config = load_config(RunConfig, CONFIGS / "demo" / f"{job}.yaml", words)
        return fit(TRAINERS[job](config), stop)

    demo("whole", stop=5)
    demo("halves", stop=3)
    assert demo("halves", stop=5).log.start == 2
    assert hashes(tmp_path / "halves", 4) == hashes(tmp_path / "whole", 4)
    whole, halves = records(tmp_path / "whole"), records(tmp_path / "halves")
    assert [line["step"] for line in halves] == [1, 2, 3, 4, 5]
    assert json.dumps(halves) == json.dumps(whole)
